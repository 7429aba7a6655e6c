"""fmtool and other code in one process: what each sets for all of it, and the generators that both may draw from."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch

from fmtool.artifacts.format import plain


def strict_float32() -> None:
    """Compute float32 products in float32 from now on, whatever was set by torch's older or newer names for it."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for part in _parts():
        if part.fp32_precision not in ("none", "ieee"):
            part.fp32_precision = "ieee"


def _parts() -> list[Any]:
    """What torch's newer names set a precision of, as its attribute fp32_precision."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    of_these = [
        getattr(one, name) for one in (cudnn, mkldnn) for name in ("matmul", "conv", "rnn") if hasattr(one, name)
    ]
    return [torch.backends, torch.backends.cuda.matmul, cudnn, mkldnn, *of_these]


@contextmanager
def precision_kept() -> Iterator[None]:
    """Give back the precision of float32 products that the caller had set, by torch's older or newer names for it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer, older = [part.fp32_precision for part in _parts()], list[tuple[Callable[[Any], Any], Any]]()
    names: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        # in the order in which they can be set again without changing one another
        (lambda: cudnn.allow_tf32, lambda value: setattr(cudnn, "allow_tf32", value)),
        (lambda: matmul.allow_tf32, lambda value: setattr(matmul, "allow_tf32", value)),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ]
    for read, write in names:
        with suppress(RuntimeError):  # what the newer names have set can't be read by the older ones
            older.append((write, read()))
    try:
        yield
    finally:
        for write, value in older:
            write(value)
        for part, precision in zip(_parts(), newer, strict=True):
            if part.fp32_precision != precision:
                part.fp32_precision = precision


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute as a fresh process does, whatever the caller has set for his own computations, and leave that as it was; also a
    decorator. Torch's default dtype and device, autocast and inference mode; the precision of float32 products; all generators.
    """
    dtype = torch.get_default_dtype()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        stack.enter_context(generators_kept(gpus))
        stack.enter_context(precision_kept())
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Import or call third-party code, and take back what it sets for the whole process, as research code does at the top of a
    module: filters of warnings, gradients, torch's default dtype and device, and the precision of float32 products.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        strict_float32()


def seed_generators(seed: int) -> None:
    """Seed all generators that a network may draw fresh weights from: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def generators_kept(gpus: Iterable[torch.device | int] = ()) -> Iterator[None]:
    """Leave the generators as they were: torch's on the CPU and on these GPUs, NumPy's and Python's."""
    states = generator_states()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        restore_generators(states)


def generator_states() -> dict[str, Any]:
    """The states of NumPy's and Python's generators as JSON values; torch has functions for its own."""
    return {"numpy": [plain(part) for part in np.random.get_state(legacy=True)], "python": random.getstate()}


def restore_generators(states: dict[str, Any]) -> None:
    """Set NumPy's and Python's generators to what `generator_states` gave."""
    np.random.set_state(tuple(states["numpy"]))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
