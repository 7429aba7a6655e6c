"""What a stage does when a device fails it: halve the batch where memory is not enough, else one line, never another device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from fmtool import distributed, side_files
from fmtool.artifacts import Artifact
from fmtool.errors import ModelError
from fmtool.models.checkpoints import specification
from fmtool.models.classifier import batch_size, pick_device
from fmtool.stages.common import warn

Stage = TypeVar("Stage", bound=Callable[..., Any])


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
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if out_of_memory(error):
            raise ModelError(f"out of memory ({reason}): expected {advice}, or a device with more") from error
        if device_lost(error):
            raise ModelError(f"the GPU failed, and nothing was computed elsewhere: {reason}") from error
        raise


def halving(stage: Stage) -> Stage:
    """A stage of a `model` artifact, first, and keyword arguments `batch`, `device` and maybe `output`: out of memory it begins
    again with half the batch, which is then the one recorded. ModelError where one image is too much, several processes share
    the work, the device fails, or something is saved already, which another batch would lose.
    """

    @functools.wraps(stage)
    @device_errors()
    def run(model: Artifact, *arguments: Any, **options: Any) -> Any:
        while True:
            try:
                return stage(model, *arguments, **options)
            except Exception as error:
                # processes that share the work must not differ in their batches
                alone = distributed.world()[1] == 1
                saved = side_files.is_saved(options.get("output"))
                batch = _in_effect(model, options) if alone and not saved and out_of_memory(error) else 1
                if batch == 1:
                    raise
            # out of the handler: its traceback holds on to the tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            options["batch"] = batch // 2
            warn(
                f"out of memory with {batch} images in a batch: begins again with {batch // 2} (as --batch-size {batch // 2}); "
                "another batch may round otherwise, and the file's bytes differ"
            )

    return run  # type: ignore[return-value]


def _in_effect(model: Artifact, options: dict[str, Any]) -> int:
    """The batch size that the stage has just used."""
    shape = specification(model.header, str(model)).input_shape
    return options.get("batch") or batch_size(shape, pick_device(options.get("device", "auto")))
