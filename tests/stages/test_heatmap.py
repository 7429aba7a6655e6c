"""The stage of heat maps: resuming, means over images, and counts of several files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fmtool
from fmtool.errors import MaskError
from fmtool.masks import heatmap as numerics
from fmtool.stages.heatmap import MEANS, means, summed_filters


@pytest.mark.slow
def test_a_command_that_was_interrupted_resumes_with_what_was_saved(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that were finished are not computed again, and the file has the bytes of an undisturbed run."""
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=12)
    monkeypatch.setattr(numerics, "BATCHES", 1)
    padded, counts = numerics.padded, [0]

    def run(target: str, fail_at: int) -> int:
        counts[0] = 0

        def counted(images: torch.Tensor, batch: int) -> torch.Tensor:
            """Once a batch."""
            counts[0] += 1
            if counts[0] == fail_at:
                raise ZeroDivisionError
            return padded(images, batch)

        monkeypatch.setattr(numerics, "padded", counted)
        execution = fmtool.Execution(output=str(tmp_path / target), batch_size=34, device="cpu")
        fmtool.heatmap(model, data, filters=True, execution=execution)
        return counts[0]

    whole = run("whole", 0)
    assert whole > 20
    for fail_at in (5, 9):
        with pytest.raises(ZeroDivisionError):
            run("resumed", fail_at)
    assert run("resumed", 0) <= whole - 8
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_means_are_summed_in_float64() -> None:
    """Of 2**24 + 1 ones, float32 would lose the last."""
    loss = torch.tensor([2.0**24, 1.0, 1.0]).view(3, 1, 1)
    wrong = torch.tensor([True, False, True]).view(3, 1, 1)
    found = means({"wrong": wrong, "loss": loss})
    assert float(found["mean_loss"]) == np.float32((2**24 + 2) / 3) and float(found["error_rate"]) == np.float32(2 / 3)
    assert tuple(found) == MEANS


def test_counts_behind_filters_add_up() -> None:
    one = {"radii": [0.0, 0.5], "right": {"low-pass": [1, 2], "high-pass": [3, 4]}}
    two = {"radii": [0.0, 0.5], "right": {"low-pass": [10, 20], "high-pass": [30, 40]}}
    assert summed_filters([one, two]) == {"radii": [0.0, 0.5], "right": {"low-pass": [11, 22], "high-pass": [33, 44]}}
    assert summed_filters([None, None]) is None and one["right"]["low-pass"] == [1, 2]


@pytest.mark.parametrize("norm", [0, -1.0, float("nan"), 2e6])
def test_norms_that_are_none_are_refused_before_the_work(norm: float) -> None:
    with pytest.raises(MaskError, match=r"^--norm .*: expected a number above 0 and at most 1e\+06$"):
        fmtool.heatmap(None, None, norm=norm)  # type: ignore[arg-type]
