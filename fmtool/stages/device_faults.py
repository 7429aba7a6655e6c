"""What a stage does when a device fails it: halve the batch where memory is not enough, else one line, never another device."""

from __future__ import annotations

import functools
import gc
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from fmtool.artifacts.format import Artifact
from fmtool.errors import ModelError, warn
from fmtool.models.checkpoints import specification
from fmtool.models.classifier import batch_size, pick_device
from fmtool.runtime import distributed, resume_file
from fmtool.runtime.journal import Journal, as_tensor, from_tensor

BATCH = "batch"  # the part of a journal that says which batch memory was enough for
SAVED = (
    "out of memory ({}): what is done is saved, and the same command goes on when there is more; "
    "with a smaller --batch-size it begins anew"
)
Stage = TypeVar("Stage", bound=Callable[..., Any])

_NOTE: ContextVar[list[str | int] | None] = ContextVar("_NOTE", default=None)  # for `note_batch`


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, is a device's or the system's lack of memory."""
    if error is None:
        return False
    # torch has no class of its own for the CPU's
    here = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate" in str(
        error
    )
    return here or out_of_memory(error.__cause__)


def device_lost(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, says that a GPU failed."""
    if error is None:
        return False
    here = isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return here or device_lost(error.__cause__)


@contextmanager
def device_errors(advice: str = "a smaller --batch-size") -> Iterator[None]:
    """ModelError for a device that fails or has too little memory, with what would need less; also a decorator of a stage."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if out_of_memory(error):
            raise ModelError(f"out of memory ({reason}): expected {advice}, or a device with more") from error
        if device_lost(error):
            raise ModelError(f"the GPU failed, and nothing was computed elsewhere: {reason}") from error
        raise


def halving(stage: Stage) -> Stage:
    """A stage of a `model` artifact, first, and keyword arguments `batch`, `device` and, if it can go on, `output` and `restart`.

    Out of memory it begins again with half the batch, which is then the one recorded; killed after that, the same command goes
    on with that batch. ModelError where one image is too much, several processes share the work, the device fails, or something
    is saved already, which another batch would lose.
    """
    resumes = "restart" in inspect.signature(stage).parameters

    @functools.wraps(stage)
    def run(model: Artifact, *arguments: Any, **options: Any) -> Any:
        alone = distributed.world()[1] == 1  # processes that share the work must not differ in their batches
        told, target = dict(options), options.get("output") if resumes else None
        before = None if options.get("restart") or not alone else _batch_before(target, stage, model, arguments, told)
        if before is not None:
            warn(f"goes on with {before} images in a batch, which memory was enough for (as --batch-size {before})")
            options["batch"] = before
        while True:
            found = None if options.get("batch") == told.get("batch") else options["batch"]
            token = _NOTE.set(None if found is None else [_command(stage, model, arguments, told), found])
            try:
                with device_errors():
                    return stage(model, *arguments, **options)
            except ModelError as error:
                if not alone or not out_of_memory(error):
                    raise
                if resume_file.costs_time(target):
                    raise ModelError(SAVED.format(_reason(error.__cause__))) from error
                batch = _in_effect(model, options)
                if batch == 1:
                    raise
            finally:
                _NOTE.reset(token)
            # out of the handler: its traceback holds on to the tensors, and the workers' futures to it, in a circle
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            options |= {"batch": batch // 2, **({"restart": True} if resumes else {})}
            warn(
                f"out of memory with {batch} images in a batch: begins again with {batch // 2} (as --batch-size {batch // 2}); "
                "another batch may round otherwise, and the file's bytes differ"
            )

    return run  # type: ignore[return-value]


def note_batch(journal: Journal) -> None:
    """Record which batch memory was enough for, if that isn't the one asked for."""
    note = _NOTE.get()
    if note is not None:
        journal.finish(BATCH, {"note": as_tensor(note)}, again=True)


def _batch_before(
    target: str | None, stage: Stage, model: Artifact, arguments: Sequence[Any], options: dict[str, Any]
) -> int | None:
    """The batch that the same command was working with when it was killed, if it had to halve it."""
    part = resume_file.saved_part(target, BATCH)
    if part is None:
        return None
    command, batch = from_tensor(part["note"])
    return int(batch) if command == _command(stage, model, arguments, options) else None


def _command(stage: Stage, model: Artifact, arguments: Sequence[Any], options: dict[str, Any]) -> str:
    """The hash of what makes a command the same."""
    told = [value for value in sorted(options.items()) if value[0] not in ("output", "progress", "ranks", "restart")]
    values = [stage.__name__, model, *arguments, *(part for option in told for part in option)]
    return hashlib.sha256(repr([getattr(value, "digest", value) for value in values]).encode()).hexdigest()


def _in_effect(model: Artifact, options: dict[str, Any]) -> int:
    """The batch size that the stage has just used."""
    shape = specification(model.header, str(model)).input_shape
    return options.get("batch") or batch_size(shape, pick_device(options.get("device", "auto")))


def _reason(error: BaseException | None) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
