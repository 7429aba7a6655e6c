"""Fourier heat maps and filter curves of a classifier (Yin et al. 2019, the paper's reference 28)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import stage, with_option
from fmtool.artifacts.rows import image_names
from fmtool.datasets.data import Data, some_of
from fmtool.datasets.rows import row_seed
from fmtool.errors import MaskError
from fmtool.masks import heatmap as numerics
from fmtool.masks.basis import basis_for
from fmtool.masks.registry import FILTERS, FOURIER
from fmtool.models.foreign_code import own_settings
from fmtool.stages.device_faults import halving, resuming
from fmtool.stages.inputs import data_header, fitted_data, inputs_of, rows_of
from fmtool.stages.options import DEFAULT_EXECUTION, Execution
from fmtool.stages.prepare import code_of, ready_model

MEANS = ("error_rate", "mean_loss")  # tensors of the file that are means over its images
LARGEST_NORM = 1e6


@own_settings()
@halving
def heatmap(
    model: Artifact,
    data: Data,
    *,
    norm: float | None = None,
    filters: bool = False,
    compile_: bool | None = None,
    seed: int = 0,
    execution: Execution = DEFAULT_EXECUTION,
) -> Artifact:
    """The errors and losses of a model under noise of one frequency at a time; gives a `heatmap` artifact with every image.

    norm: l2 norm of the noise for each channel, in [0, 1] pixels; None for the power of the image side that gives 4 at 32x32 and
    15.7 at 224x224. filters: also count the images that are right behind ideal low-pass, high-pass and band-pass filters.
    compile_: compile the network; None where there is enough work for that to pay. seed: of the signs of the noise. MaskError for
    a norm that is not above 0.
    """
    execution.refuse("heatmap", "allow_other_model", "ranks", "batch_dependent")
    if norm is not None and not 0 < norm <= LARGEST_NORM:
        raise MaskError(f"--norm {norm:g}: expected a number above 0 and at most {LARGEST_NORM:g}")
    ready = ready_model(
        model,
        execution,
        dependent="a heat map fills batches with versions of one image, so it can't use such a network",
    )
    data = fitted_data(data, ready.spec, model)
    _, h, w = ready.spec.input_shape
    norm_in_effect = numerics.default_norm(h, w) if norm is None else float(norm)
    count = len(numerics.distinct_frequencies(h, w)[0])
    masks, radii = numerics.filter_masks(basis_for(FOURIER, h, w))
    compile_ = ready.compiles(compile_, len(data) * (count + len(masks) * filters))
    header: dict[str, Any] = {
        "norm": norm_in_effect,
        "image_size": [h, w],
        "filters": {"radii": radii.tolist(), "right": {}} if filters else None,
        **data_header(data, ready.spec),
    }
    recorded = {"--norm": norm_in_effect, "--filters": filters or None, "--compile": compile_, **ready.recorded()}
    history = stage("heatmap", recorded, seed, inputs_of(model, data))
    if execution.shard is not None:
        header["shard"] = execution.shard.field(len(data))
        data = some_of(data, execution.shard.rows(len(data)))
    work = {"header": header, "history": history, **code_of(ready.classifier, ready.spec)}
    with resuming(execution, work) as journal:
        network, compiled = ready.network_as_begun(compile_, journal)
        history = with_option(history, "--compile", compiled)
        evaluation = numerics.Evaluation(network, ready.batch, ready.device, execution.progress, journal)
        seeds = [row_seed(seed, *name) for name in image_names(data.key, data.index)]
        result = numerics.sensitivity(evaluation, data.images, data.labels, seeds, norm_in_effect, filters=filters)
        if filters:
            counts = result.filtered_right.sum(dim=0).tolist()
            header["filters"]["right"] = dict(zip(FILTERS, counts, strict=True))
        rows = {"wrong": result.wrong, "loss": result.loss, "clean_wrong": result.clean_wrong}
        return execution.write(Artifact("heatmap", header, {**rows, **means(rows), **rows_of(data)}, history))


def means(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors `MEANS` (h, f) float32 over all rows, summed in float64 in their order; images without a loss are left out of
    its mean.
    """
    return {
        "error_rate": rows["wrong"].mean(dim=0, dtype=torch.float64).float(),
        "mean_loss": rows["loss"].nanmean(dim=0, dtype=torch.float64).float(),
    }


def summed_filters(filters: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The header's field `filters` of files together, from those of each."""
    first = filters[0]
    if first is None:
        return None
    right = {
        kind: [sum(counts) for counts in zip(*(one["right"][kind] for one in filters if one), strict=True)]
        for kind in first["right"]
    }
    return {**first, "right": right}
