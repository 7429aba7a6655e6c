"""Third-party code in fmtool's process."""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fmtool
from fmtool.models.foreign_code import (
    generator_states,
    own_settings,
    restore_generators,
    seed_generators,
    strict_float32,
    undisturbed,
)

SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "filters": (lambda: list(warnings.filters), lambda: warnings.filterwarnings("ignore")),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("fails", [False, True])
def test_what_third_party_code_sets_is_taken_back(setting: str, fails: bool) -> None:
    read, write = SETTINGS[setting]
    before = read()
    try:
        with undisturbed():
            write()
            assert read() != before
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert read() == before


def draws() -> list[float]:
    return [float(torch.rand(())), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)]


def test_generators_continue_where_they_were() -> None:
    seed_generators(2**40 + 1)
    first = draws()  # an odd number of normal numbers: the second of each pair is kept for the next call
    states = json.loads(json.dumps(generator_states()))
    second = draws()
    restore_generators(states)
    assert draws()[1:] == second[1:] != first[1:]
    seed_generators(2**40 + 1)
    assert draws() == first


BACKENDS = torch.backends
LOOSER: dict[str, Callable[[], Any]] = {
    "set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "matmul.allow_tf32": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "cudnn.allow_tf32": lambda: setattr(BACKENDS.cudnn, "allow_tf32", True),
    "fp32_precision": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "matmul.fp32_precision": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "conv.fp32_precision": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "tf32"),
    "mkldnn.fp32_precision": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
}


@pytest.mark.parametrize("name", LOOSER)
def test_products_are_strict_again(name: str) -> None:
    """By whichever of torch's names they were loosened, before or in third-party code; and they can be loosened again."""
    for _ in range(2):
        LOOSER[name]()
        strict_float32()
        check_strict()
        with undisturbed():
            LOOSER[name]()
        check_strict()
        # as `--precision tf32` does
        BACKENDS.cudnn.allow_tf32 = BACKENDS.cuda.matmul.allow_tf32 = True
        assert BACKENDS.cudnn.conv.fp32_precision == BACKENDS.cuda.matmul.fp32_precision == "tf32"
        strict_float32()


def check_strict() -> None:
    assert not BACKENDS.cuda.matmul.allow_tf32 and not BACKENDS.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    parts = [BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn]
    parts += [BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn]
    assert {part.fp32_precision for part in parts} <= {"none", "ieee"}


def _hostile() -> contextlib.ExitStack:
    """What a session may have set for its own computations; closed, all of it is taken back."""
    stack = contextlib.ExitStack()
    stack.callback(strict_float32)
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    for setting in (torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        stack.enter_context(setting)  # type: ignore[arg-type]
    return stack


def test_a_stage_computes_alike_whatever_the_caller_has_set(files: Path) -> None:
    """Of train_model in autocast, the accuracy fell without a word; a heat map in float64 could not be read again."""
    data = fmtool.load_data("digits:train", limit=40)
    trained: dict[str, Any] = {"architecture": "resnet8", "epochs": 1, "batch_size": 20, "test_data": data}
    model, attack = (fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn"))
    masks: dict[str, Any] = {"for_": "essential", "min_steps": 3, "max_steps": 3, "perturb": 0.01}
    pgd: dict[str, Any] = {"attack": "pgd", "epsilon": 0.1, "attack_options": {"steps": 2}}
    halves = [fmtool.attack(model, fmtool.load_data("digits", rows=rows), **pgd) for rows in ((0, 9), (9, 18))]
    stages: dict[str, Callable[[], fmtool.Artifact]] = {
        "train_model": lambda: fmtool.train_model(data, **trained),
        "import_model": lambda: fmtool.import_model("resnet8", weights="none", input_shape=(1, 8, 8)),
        "attack": lambda: fmtool.attack(model, data, **pgd),
        "fit_masks": lambda: fmtool.fit_masks(model, attack, **masks),
        "layer": lambda: fmtool.fit_masks(model, attack, **masks, layer="layer1"),
        "class_masks": lambda: fmtool.class_masks(model, attack, min_steps=2, max_steps=2),
        "heatmap": lambda: fmtool.heatmap(model, data),
        "merge": lambda: fmtool.merge(halves),
    }
    for name, stage in stages.items():
        expected = stage().digest
        with _hostile():
            made = stage()
            assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
            assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
            assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
        assert made.digest == expected, name
    expected = fmtool.load_data("digits", limit=20).digest
    with _hostile():
        assert fmtool.load_data("digits", limit=20).digest == expected


def test_a_stage_leaves_the_generators_alone() -> None:
    """They were seeded, so that what a caller drew after two stages was the same."""
    seed_generators(3)
    expected = float(torch.rand(())), float(np.random.rand()), random.random()
    seed_generators(3)
    fmtool.import_model("resnet8", weights="none", input_shape=(1, 8, 8))
    assert (float(torch.rand(())), float(np.random.rand()), random.random()) == expected


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_set_by_older_names_is_given_back(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        with own_settings():
            strict_float32()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        strict_float32()


def test_precision_set_by_newer_names_is_given_back() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with own_settings():
            strict_float32()
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        strict_float32()
