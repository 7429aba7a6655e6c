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

from fmtool.models.foreign_code import generator_states, restore_generators, seed_generators, undisturbed

SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "filters": (lambda: list(warnings.filters), lambda: warnings.filterwarnings("ignore")),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("medium")),
    "tf32": (
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    ),
    "tf32 of convolutions": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
    ),
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
