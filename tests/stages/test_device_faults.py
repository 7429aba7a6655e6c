"""Which errors are a lack of memory or a lost GPU, and how a stage is tried with half the batch."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import fmtool
from fmtool.errors import FmtoolWarning, ModelError
from fmtool.runtime.distributed import Ranks
from fmtool.runtime.journal import unpack
from fmtool.stages import device_faults
from fmtool.stages.device_faults import device_errors, halving
from fmtool.stages.options import Execution


@pytest.mark.slow
def test_memory_that_is_too_little_for_one_image(files: Path) -> None:
    tried = []

    @device_faults.halving
    def stage(model: fmtool.Artifact, *, execution: Execution) -> None:
        tried.append(execution.batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.warns(FmtoolWarning, match="out of memory"), pytest.raises(ModelError, match=r"out of memory \(CUDA"):
        stage(fmtool.read(str(files / "model.safetensors")), execution=Execution(batch_size=5, device="cpu"))
    assert tried == [5, 2, 1]


def test_memory_that_is_too_little_when_something_is_saved(files: Path, tmp_path: Path) -> None:
    """Another batch would lose it: an error, and what is saved stays for when there is memory again."""
    target = str(tmp_path / "x")

    @device_faults.halving
    def stage(model: fmtool.Artifact, *, execution: Execution) -> None:
        with device_faults.resuming(execution, {"batch": execution.batch_size}) as journal:
            journal.finish_row(0, {"mask": torch.ones(1)})
            raise torch.OutOfMemoryError("CUDA out of memory.")

    said = r"out of memory \(CUDA.*\): progress is saved, run the same command again when there is more memory; with a"
    with pytest.raises(ModelError, match=said):
        stage(fmtool.read(str(files / "model.safetensors")), execution=Execution(output=target, batch_size=4))
    with device_faults.resuming(Execution(output=target), {"batch": 4}) as journal:
        assert unpack(journal.row(0)) == {"mask": torch.ones(1)}

    @device_faults.halving
    def other(model: fmtool.Artifact, *, execution: Execution) -> int | None:
        if execution.batch_size == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return execution.batch_size

    _leave_work(target)  # another command's, to the same output
    with pytest.warns(FmtoolWarning, match="starting over with 2"):
        assert (
            other(fmtool.read(str(files / "model.safetensors")), execution=Execution(output=target, batch_size=4)) == 2
        )


def _leave_work(target: str) -> None:
    """A resume file as a killed command leaves it."""
    with suppress(KeyboardInterrupt), device_faults.resuming(Execution(output=target), {"of": "another"}) as journal:
        journal.finish_row(0, {"mask": torch.ones(1)})
        raise KeyboardInterrupt


class Tensors:
    """Stands for what fills the memory."""

    def __init__(self) -> None:
        self.circle = self


@pytest.mark.slow
def test_memory_is_free_when_half_the_batch_is_tried(files: Path) -> None:
    """Also what Python's counts of references alone would not free."""
    held: list[weakref.ref[Tensors]] = []

    @device_faults.halving
    def stage(model: fmtool.Artifact, *, execution: Execution) -> list[bool]:
        free = [one() is None for one in held]
        held.append(weakref.ref(Tensors()))
        if execution.batch_size != 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return free

    gc.disable()
    try:
        with pytest.warns(FmtoolWarning, match="out of memory"):
            assert stage(
                fmtool.read(str(files / "model.safetensors")), execution=Execution(batch_size=8, device="cpu")
            ) == [True, True]
    finally:
        gc.enable()


def test_bugs_stay_bugs() -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_faults.device_errors():
        raise RuntimeError("shapes don't match")


def test_advice_and_reason_are_in_one_line() -> None:
    told = r"^out of memory \(first line\): expected fewer rows, or a device with more$"
    with pytest.raises(ModelError, match=told), device_errors("fewer rows"):
        raise torch.OutOfMemoryError("first line\nsecond line")
    told = r"^out of memory \(MemoryError\): expected a smaller --batch-size, or"
    with pytest.raises(ModelError, match=told), device_errors():
        raise MemoryError


def test_processes_that_share_the_work_do_not_halve_apart() -> None:
    """Else their batches, and so their roundings, would differ."""
    tried = []

    @halving
    def stage(model: object, *, execution: Execution) -> None:
        tried.append(execution.batch_size)
        raise MemoryError

    with pytest.raises(ModelError, match="out of memory"):
        stage(None, execution=Execution(batch_size=8, ranks=Ranks(0, 2)))
    assert tried == [8]
