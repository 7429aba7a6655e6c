"""Compile a network if that pays, and continue with the plain one if compiling fails.

Compiling rounds differently, so whether it is done depends on the amount of work alone, is an option (`--compile`), and is
recorded: the same command gives the same bytes.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.errors import FmtoolWarning, ModelError, first_line, unknown
from fmtool.models import code_cache, native_code
from fmtool.models.registry import PRECISIONS
from fmtool.runtime.failures import out_of_memory
from fmtool.runtime.journal import Journal

# Numbers that go through the network, images times passes (forward or backward) times entries an image, from which compiling
# pays: it takes 20 s the first time and 1 s later, and saves a quarter of the time; 175,000 passes of a 3x32x32 image through
# ResNet-20 take a minute.
PAYS_FROM = 2**29
# Share of the norm by which what a compiled network gives may differ, by the precision that it computes in. Rounding is some 1e-6
# in float32, more where a rectifier switches; in bfloat16 a gradient differs by 0.1.
SAME = {"float32": 0.01, "tf32": 0.3, "bfloat16": 0.3}

FORM = "compiled"  # the part of a journal that says whether the network runs compiled

# (images, targets) to cross-entropy (b), logits (b, k) and the gradient (b, c, h, w) of each image's loss for that image
InputGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def pays(passes: int, shape: Sequence[int]) -> bool:
    """Whether compiling is worthwhile for this many passes of one image of shape (c, h, w)."""
    return passes * shape[0] * shape[1] * shape[2] >= PAYS_FROM


def as_begun(asked: bool, journal: Journal) -> bool:
    """Whether the network ran compiled in the run that is resumed; as asked if that had not come so far, or there is none."""
    before = journal.part(FORM)
    return asked if before is None else bool(before[FORM])


def record_form(compiled: bool, asked: bool, journal: Journal) -> None:
    """Record whether the network runs compiled; ModelError if the run that is resumed did, and it can't be compiled now."""
    if journal.part(FORM) is None:
        journal.finish(FORM, {FORM: torch.tensor(compiled)}, again=True)
    elif asked and not compiled:
        raise ModelError(
            "this job began compiled, but the network can't be compiled here: resume where it can, or pass --restart"
        )


def trainable(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network compiled for forward and backward passes at one shape; on a GPU as a CUDA graph, one launch a pass."""
    graph = {"triton.cudagraphs": True} if device.type == "cuda" else {}
    # dropout draws what it draws uncompiled, so that the two can be compared
    return torch.compile(network, dynamic=False, options={**graph, "fallback_random": True})


def input_gradient(
    classifier: nn.Module,
    precision: str = "float32",
    device: torch.device | None = None,
    loss: Callable[..., Tensor] | None = None,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The two passes of a frozen classifier in eval mode, uncompiled. No gradient of a weight is computed.

    loss: of logits and of what follows the images in a call, a loss for each image (b); cross-entropy with targets unless given.

    precision: a name of `PRECISIONS`; the losses, logits and gradients have the images' dtype in each.
    """
    kind = "cpu" if device is None else device.type
    if precision not in PRECISIONS:
        raise ModelError(unknown("--precision", precision, PRECISIONS))
    if precision == "tf32" and kind != "cuda":
        raise ModelError("--precision tf32: needs a GPU, expected float32 or bfloat16 here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    loss_of = loss or partial(F.cross_entropy, reduction="none")

    def plain(images: Tensor, *known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = classifier(images)
            if not logits.requires_grad:
                raise ModelError("the network's logits have no gradient with respect to its images, which this needs")
            losses = loss_of(logits.to(images.dtype), *known)
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), logits.detach().to(images.dtype), gradient

    return plain


def compiled(
    function: Callable[..., Any],
    *inputs: Tensor,
    network: nn.Module,
    precision: str = "float32",
    warn: bool = True,
    any_number: bool = False,
    wider: Callable[..., Any] | None = None,
) -> Callable[..., Any] | None:
    """A function of tensors, which it may change in place, as one graph for the shapes, dtypes and device of `inputs`.

    It may take gradients within: those are traced beside the rest, so that the compiler merges across both and keeps only
    what is read. None if it can't be compiled, or gives different results for these inputs or darker images.
    network: the one whose weights it uses. precision: the precision of the function, a name of `PRECISIONS`. warn: say why,
    if None. any_number: for fewer images, too, the first dimension of every input, if that can be had. wider: what the
    function was compiled to for more images, which is tried with these and given again if it takes any number.
    """
    inputs = tuple(_copies(inputs))  # of the layout that compiled code is for
    try:
        if takes_any_number(wider) and len(inputs[0]) > 1:
            with torch.no_grad():
                _try(wider, function, inputs, precision)
            return wider
        with quiet(), _no_garbage(), torch.no_grad():
            return _compile(function, inputs, network, precision, any_number)
    except Exception as error:  # a missing compiler, or an unsupported third-party network
        if out_of_memory(error):  # which a smaller batch may mend
            raise
        if warn:
            cannot(error)
        return None


def takes_any_number(function: Callable[..., Any] | None) -> TypeGuard[native_code.Library]:
    """Whether a compiled function takes any number of images."""
    return isinstance(function, native_code.Library) and function.any_number


def _compile(
    function: Callable[..., Any], inputs: Sequence[Tensor], network: nn.Module, precision: str, any_number: bool
) -> Callable[..., Any]:
    """The function compiled; ModelError if that gives other results, and then nothing is kept."""
    given = _copies(inputs)
    recorded = _recorded(function, given, network)
    known = [*given, *recorded.results] if recorded else None
    key = (*recorded.operations, f"any number: {any_number}") if recorded else None
    with code_cache.kept(key) as folder:
        graph = _graph(function, inputs, recorded, folder, any_number)
        _try(graph, function, inputs, precision, known)
    return graph if isinstance(graph, native_code.Library) else torch.no_grad()(graph)


def _try(
    graph: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    precision: str,
    known: Sequence[Tensor] | None = None,
) -> None:
    """ModelError if a graph gives other results than the function for these inputs, or for darker ones. known: what the function
    makes of these, inputs included.
    """
    darker = _darker(inputs)
    expected = [*(known or _after(function, _copies(inputs))), *_after(function, _copies(darker))]
    actual = [*_after(graph, _copies(inputs)), *_after(graph, darker)]
    if not all(close(*pair, SAME[precision]) for pair in zip(actual, expected, strict=True)):
        raise ModelError("it computes something else")


def _recorded(function: Callable[..., Any], inputs: Sequence[Tensor], network: nn.Module) -> native_code.Record | None:
    """What a function does with `inputs`, which it may change; None if that can't be noted."""
    try:
        return native_code.record(function, inputs, [*network.parameters(), *network.buffers()])
    except Exception as error:  # third-party code may do anything
        if out_of_memory(error):
            raise
        return None


def _graph(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    recorded: native_code.Record | None,
    folder: Path,
    any_number: bool,
) -> Callable[..., Any]:
    """The function compiled, or found in the folder: as a library if it can be one."""
    on_cpu = inputs[0].device.type == "cpu"
    if recorded and on_cpu:
        library = native_code.library(function, inputs, recorded, folder, any_number=any_number)
        if library:
            return library
    from torch.fx.experimental.proxy_tensor import make_fx

    # calls from C++, so that workers don't wait for each other's Python: a tenth faster on 2 cores
    options: dict[str, Any] = {"cpp_wrapper": on_cpu}
    graph: Callable[..., Any] = torch.compile(make_fx(function)(*_copies(inputs)), dynamic=False, options=options)
    return graph


def _copies(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [values.clone() for values in inputs]


def _after(function: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """Inputs and results, after the call."""
    return [*inputs, *(function(*inputs) or ())]


def _darker(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Other inputs of the same shapes: images, spectra and masks of half the size."""
    return [
        values / 2 if values.ndim > 2 and values.dtype.is_floating_point | values.dtype.is_complex else values.clone()
        for values in inputs
    ]


def close(actual: Tensor, expected: Tensor, same: float = SAME["float32"]) -> bool:
    """Equal except for rounding, which may be larger for a pixel's gradient at the edge of a rectifier. NaN equals NaN."""
    if not expected.is_floating_point():
        return bool((actual == expected).double().mean() >= 1 - same)
    if not torch.equal(actual.isnan(), expected.isnan()):
        return False
    gap = (actual - expected).nan_to_num()  # a window of losses that isn't full holds NaN
    return bool(gap.norm() <= same * expected.nan_to_num().norm())


def cannot(reason: object) -> None:
    """Warn that the plain network runs instead of the compiled one."""
    warnings.warn(
        FmtoolWarning(f"the network can't be compiled and runs uncompiled: {first_line(reason)}"), stacklevel=3
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and log lines that compiling prints for developers of torch."""
    import logging

    loggers: list[Any] = [
        logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Don't collect garbage: what is imported and traced stays, and looking through it takes a sixth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
