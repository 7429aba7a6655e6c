"""Handle device failures: halve the batch if memory runs out, else end with one line; never change the device."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fmtool.artifacts.format import Artifact
from fmtool.artifacts.output import check_target
from fmtool.errors import ModelError, first_line, warn
from fmtool.models.classifier import batch_size, pick_device
from fmtool.models.model_files import specification
from fmtool.runtime import resume_file
from fmtool.runtime.distributed import ALONE
from fmtool.runtime.failures import device_lost, out_of_memory
from fmtool.runtime.journal import Journal, as_tensor, from_tensor
from fmtool.stages.options import DEFAULT_EXECUTION, Execution

REVISION = 7  # of what stages compute: another one does not continue work that was begun with this one
BATCH = "batch"  # the part of a journal that records the batch size that fitted into memory
SAVED = (
    "out of memory ({}): progress is saved, run the same command again when there is more memory; "
    "with a smaller --batch-size it starts over"
)
_opened: set[str | None] = set()  # the outputs whose resume files were opened: others' say nothing of this work
Stage = TypeVar("Stage", bound=Callable[..., Any])


@contextmanager
def device_errors(advice: str = "a smaller --batch-size") -> Iterator[None]:
    """ModelError if a device fails or runs out of memory, with advice on how to use less; also a decorator."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        if out_of_memory(error):
            raise ModelError(f"out of memory ({reason}): expected {advice}, or a device with more") from error
        if device_lost(error):
            raise ModelError(f"the GPU failed, and nothing was computed elsewhere: {reason}") from error
        raise


@dataclass(frozen=True)
class _Halved(Execution):
    """An execution with a smaller batch than requested. asked: the hash of the command as given."""

    asked: str = ""


def halving(stage: Stage) -> Stage:
    """Decorate a stage whose first argument is a `model` artifact and whose keyword `execution` is an `Execution`.

    Out of memory, it starts over with half the batch size, which is then the one recorded; if it is killed later, the same
    command resumes with that batch size. ModelError if one image is too much, if several processes share the work, if the device
    fails, or if another batch size would lose saved work.
    """

    @functools.wraps(stage)
    def with_enough_memory(
        model: Artifact, *inputs: Any, execution: Execution = DEFAULT_EXECUTION, **options: Any
    ) -> Any:
        check_target(execution.output)
        asked = functools.cache(lambda given=execution: _hash(stage.__name__, model, inputs, options, given))
        alone = execution.ranks.of == 1  # processes that share the work must not differ in their batches
        batch = _batch_before(execution.output, asked) if alone and not execution.restart else None
        if batch is not None:
            warn(f"resuming with {batch} images per batch, which fitted into memory (as with --batch-size {batch})")
            execution = _halved(execution, batch, asked())
        _opened.discard(execution.output)
        while True:
            try:
                with device_errors():
                    return stage(model, *inputs, execution=execution, **options)
            except ModelError as error:
                if not alone or not out_of_memory(error):
                    raise
                if execution.output in _opened and resume_file.holds_work(execution.output):
                    raise ModelError(SAVED.format(first_line(error.__cause__))) from error
                batch = execution.batch_size or _found(model, execution)
                if batch == 1:
                    raise
            # outside the handler, as the traceback and the workers' futures keep the tensors alive, in a cycle
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            execution = dataclasses.replace(_halved(execution, batch // 2, asked()), restart=True)
            warn(
                f"out of memory with {batch} images per batch: starting over with {batch // 2} (as with --batch-size "
                f"{batch // 2}); another batch size may round differently, so the file's bytes may differ"
            )

    return with_enough_memory  # type: ignore[return-value]


@contextmanager
def resuming(
    execution: Execution, work: Mapping[str, Any], *, holds_rows: bool = False, agreed: Any = None
) -> Iterator[Journal]:
    """The journal of this execution, see `resume_file.resuming`; it records a batch size that was halved for lack of memory.

    agreed: what processes that share the work must have in common besides, though it may change before the work is resumed.
    """
    ranks, work = execution.ranks, {**work, "revision": REVISION}
    # not a factory's logits, which other processors round differently
    common = {name: value for name, value in work.items() if name != "network"}
    ranks.check_work(resume_file.key_of({**common, "agreed": agreed}))
    with resume_file.resuming(
        execution.output,
        work,
        restart=execution.restart,
        rank=(ranks.rank, ranks.of),
        holds_rows=holds_rows,
    ) as journal:
        _opened.add(execution.output)
        if isinstance(execution, _Halved):
            journal.finish(BATCH, {"note": as_tensor([execution.asked, execution.batch_size])}, again=True)
        yield journal


def _halved(execution: Execution, batch: int, asked: str) -> _Halved:
    return _Halved(**{**vars(execution), "batch_size": batch, "asked": asked})


def _batch_before(target: str | None, asked: Callable[[], str]) -> int | None:
    """The batch size that the same command had halved to before it was killed, if any."""
    part = resume_file.saved_part(target, BATCH)
    if part is None:
        return None
    command, batch = from_tensor(part["note"])
    return int(batch) if command == asked() else None


def _hash(name: str, model: Artifact, inputs: Sequence[Any], options: Mapping[str, Any], execution: Execution) -> str:
    """The hash of a command's inputs and options, without output and progress."""
    compared = dataclasses.replace(execution, output=None, progress=None, ranks=ALONE, restart=False)

    def known_by(value: Any) -> Any:
        return [known_by(one) for one in value] if isinstance(value, list | tuple) else getattr(value, "digest", value)

    return hashlib.sha256(
        repr(known_by([name, model, *inputs, sorted(options.items()), compared])).encode()
    ).hexdigest()


def _found(model: Artifact, execution: Execution) -> int:
    """The batch size that a stage has just used."""
    return batch_size(specification(model.header, str(model)).input_shape, pick_device(execution.device))
