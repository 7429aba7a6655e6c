"""Defaults of the options that change a result, and `Execution` for all others. Importing this module needs no torch.

Stages, the command line and `--help` take the defaults from here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fmtool.artifacts.progress import Progress
from fmtool.correlation.registry import DIMENSION as DIMENSION
from fmtool.correlation.registry import PERMUTATIONS as PERMUTATIONS
from fmtool.correlation.registry import STATISTICS_BY_DEFAULT as STATISTICS_BY_DEFAULT
from fmtool.correlation.registry import SUBSET_DRAWS as SUBSET_DRAWS
from fmtool.errors import FmtoolError
from fmtool.masks.registry import FOURIER, LABEL, ObjectiveName
from fmtool.models.registry import INPUT, Precision
from fmtool.runtime.distributed import ALONE, Ranks
from fmtool.runtime.shards import Shard

if TYPE_CHECKING:
    from fmtool.artifacts.format import Artifact

EPSILON = 8 / 255  # pgd, section 4.3
RESTARTS = 5  # random starts of an attack on the two-pass classifier; ours

MIN_STEPS, MAX_STEPS = 500, 5000  # A.3 names the first; both in the authors' code
LAMBDA_TIMES_ENTRIES = 1536  # fit-masks: lambda 0.5 at 3x32x32, 0.01 at 3x224x224 in the paper
LARGEST_LAMBDA = 0.5
CLASS_LAMBDA, ROBUST_CLASS_LAMBDA = 0.01, 0.001  # class-masks, A.3
INVARIANCE_LAMBDA = 0.07  # of the share of entries: masks of single images in the code of Karantzas et al. 2022
BASIS = FOURIER
LAYER = INPUT
OBJECTIVE: ObjectiveName = LABEL
PRECISION: Precision = "float32"

GRID_IMAGES = 8  # images in a grid of plot and report

PRESETS = {"paper": {"permutations": 100, "strict": True}}  # the authors' code: p from shuffled d strictly below d
PLACE_DRAWS = 10  # check-masks: random places an image

ARCHITECTURE = "resnet20"


def default_lambda(shape: Sequence[int], objective: str) -> float:
    """min(0.5, 1536 / (c h w)), which is the paper's 0.5 for CIFAR-10 and its 0.01 for Imagenette; 0.07 for "invariance".

    shape: (c, h, w) of what is masked, an image or a layer's output, so that the penalty of a mask of ones is 1536 wherever
    c h w is at least 3072.
    The KL divergence of "distribution" is the cross-entropy of "label" where the unfiltered image's softmax is all on the target,
    so that the same lambda suits it.
    """
    if objective == "invariance":
        return INVARIANCE_LAMBDA
    return min(LARGEST_LAMBDA, LAMBDA_TIMES_ENTRIES / (shape[0] * shape[1] * shape[2]))


@dataclass(frozen=True)
class Execution:
    """Where and how a stage runs. Apart from shard and batch_dependent, none of this changes a result, except that another device
    or batch size may round differently.

    device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N". batch_size: images that go through the network
    together; None to choose it from image shape and device. factory: repeats the "package.module:name" in the model file,
    which allows that code to run; factory_options: repeats its recorded arguments. batch_dependent: run a network whose
    logits for an image depend on its batch, without padding. allow_other_model: accept files made with another model.
    output: write the file too ("-" for standard output); an interrupted stage resumes from a file beside it, unless
    `restart`. shard: the part of the images to take. ranks: the processes that share them; only the first one's result has
    rows. progress: called with what is being done, how much of it is done, and the total.
    """

    device: str = "auto"
    batch_size: int | None = None
    factory: str | None = None
    factory_options: Mapping[str, Any] | None = None
    batch_dependent: bool = False
    allow_other_model: bool = False
    output: str | None = None
    shard: Shard | None = None
    restart: bool = False
    ranks: Ranks = ALONE
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.output is not None:
            object.__setattr__(self, "output", os.fspath(self.output))
        if self.batch_size is not None and self.batch_size < 1:
            raise FmtoolError(f"batch_size {self.batch_size}: expected at least 1")

    def write(self, result: Artifact) -> Artifact:
        """Write the result of a stage to `output`, if there is one, and give it back."""
        from fmtool.artifacts import files

        if self.output is not None:
            files.write(result, self.output)
        return result

    def refuse(self, command: str, *fields: str) -> None:
        """FmtoolError if one of these fields, which the command doesn't support, is set."""
        for field in fields:
            if getattr(self, field) != getattr(Execution, field):
                raise FmtoolError(f"{command} takes no {field} in its Execution, got {getattr(self, field)!r}")


DEFAULT_EXECUTION = Execution()
