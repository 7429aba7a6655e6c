"""Third-party code in fmtool's process."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fmtool.models.foreign_code import (
    generator_states,
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
