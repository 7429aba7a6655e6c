"""fmtool: which frequencies an image classifier needs, which an adversarial attack uses, and how the two are correlated.

The stages of the command line as functions, each imported on first use:

    model = fmtool.train_model(fmtool.load_data("digits:train"), architecture="resnet8", recipe="one-cycle")
    attacked = fmtool.attack(model, fmtool.load_data("digits:test"), attack="fmn")
    essential = fmtool.fit_masks(model, attacked, for_="essential", execution=fmtool.Execution(device="cuda"))

A stage's keywords are the command line's options (`attack_options` for --attack-option, `for_`, `from_`, `lambda_` and `compile_`
where Python needs another name), and `execution` holds where and how a stage runs: device, batch size, output file and so on.
A stage computes alike whatever the session has set for its own computations, and leaves its random generators as they were.
Artifacts are what files hold: `fmtool.write(essential, "essential.safetensors")`, `fmtool.read("essential.safetensors")`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmtool.artifacts.files import read as read
    from fmtool.artifacts.files import write as write
    from fmtool.artifacts.format import Artifact as Artifact
    from fmtool.datasets.data import Data as Data
    from fmtool.datasets.data import load as load_data  # noqa: F401
    from fmtool.errors import FmtoolError as FmtoolError
    from fmtool.stages.attack import attack as attack
    from fmtool.stages.check_masks import check_masks as check_masks
    from fmtool.stages.class_masks import class_masks as class_masks
    from fmtool.stages.correlate import correlate as correlate
    from fmtool.stages.defend import defend as defend
    from fmtool.stages.fit_masks import fit_masks as fit_masks
    from fmtool.stages.heatmap import heatmap as heatmap
    from fmtool.stages.import_attack import import_attack as import_attack
    from fmtool.stages.import_model import import_model as import_model
    from fmtool.stages.merge import merge as merge
    from fmtool.stages.options import Execution as Execution
    from fmtool.stages.train_model import train_model as train_model

# Let idle OpenMP threads sleep; torch reads this when it is imported. By default they spin while waiting for work, and if another
# process shares the cores (make -j) both become very slow. Workers with one thread each (`threads`) lose nothing by it;
# `train-model`, whose threads share every operation, lets them spin briefly.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Artifact": ("fmtool.artifacts.format", "Artifact"),
    "Data": ("fmtool.datasets.data", "Data"),
    "Execution": ("fmtool.stages.options", "Execution"),
    "FmtoolError": ("fmtool.errors", "FmtoolError"),
    "attack": ("fmtool.stages.attack", "attack"),
    "check_masks": ("fmtool.stages.check_masks", "check_masks"),
    "class_masks": ("fmtool.stages.class_masks", "class_masks"),
    "correlate": ("fmtool.stages.correlate", "correlate"),
    "defend": ("fmtool.stages.defend", "defend"),
    "fit_masks": ("fmtool.stages.fit_masks", "fit_masks"),
    "heatmap": ("fmtool.stages.heatmap", "heatmap"),
    "import_attack": ("fmtool.stages.import_attack", "import_attack"),
    "import_model": ("fmtool.stages.import_model", "import_model"),
    "load_data": ("fmtool.datasets.data", "load"),
    "merge": ("fmtool.stages.merge", "merge"),
    "read": ("fmtool.artifacts.files", "read"),
    "train_model": ("fmtool.stages.train_model", "train_model"),
    "write": ("fmtool.artifacts.files", "write"),
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fmtool' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
