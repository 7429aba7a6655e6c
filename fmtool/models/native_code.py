"""Functions of tensors as libraries, which load without torch's compiler: importing it and tracing a network again take seconds.

A function is known by its operations, noted while it runs once. Inductor makes the library ahead of time (AOTInductor), with the
network's weights as further inputs, so that it serves all weights of the same shapes; and any number of images, where tracing
allows it. It is called through its C interface, as other threads can run Python meanwhile. Operations without a C function, such
as the inverse FFT, would go through a proxy that only a caller in C++ has: functions with such operations are left to
torch.compile, and so is the GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

LIBRARY = "code.so"
ANY_NUMBER = "any_number.so"  # one that takes any number of images
UNSUITABLE = "unsuitable"  # stands in place of a library that can't be made or called
# code that only calls the kernels is as fast without optimisation, and made sooner
OPTIONS = {"aot_inductor.compile_wrapper_opt_level": "O0"}
PROXY = "aoti_torch_proxy_executor_call_function"  # in the source of a library that needs the proxy

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_thread = threading.local()


@dataclass(frozen=True)
class Record:
    """What a function did. results: what it returned; operations: one a line; used: weights, in the order of their first use.

    fixed: digests of the tensors that are neither inputs nor weights nor computed from these, which are part of the library.
    in_place: for each input, whether it was changed.
    """

    results: tuple[Tensor, ...]
    operations: tuple[str, ...]
    used: tuple[Tensor, ...]
    fixed: frozenset[str]
    in_place: tuple[bool, ...]


def record(function: Callable[..., Any], inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Record:
    """Run a function of `inputs`, which it may change, and note what it does. weights: the network's parameters and buffers.

    RuntimeError for tensors of a class of their own, whose operations would not all be seen.
    """
    recorder, versions = _Recorder(inputs, weights), [one._version for one in inputs]
    _thread.records = True
    try:
        with recorder:
            results = tuple(function(*inputs) or ())
    finally:
        _thread.records = False
    return Record(
        results,
        (*recorder.operations, f"results: {[recorder.named(one) for one in results]}"),
        tuple(recorder.used),
        frozenset(recorder.fixed),
        tuple(one._version != before for one, before in zip(inputs, versions, strict=True)),
    )


def is_recording() -> bool:
    """Whether this thread is within `record`."""
    return getattr(_thread, "records", False)


class _Recorder(TorchDispatchMode):
    """Notes every operation below autograd, and so those of the backward pass too, with a name for each tensor."""

    def __init__(self, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.weights = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        self.operations: list[str] = []
        self.used: list[Tensor] = []
        self.fixed: list[str] = []
        for number, one in enumerate(inputs):
            self.names[one] = f"input{number}"
            self.operations.append(f"input{number}: {_layout(one)}")
        for one in weights:
            self.weights[one] = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or entering the mode would import torch's compiler

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_map(self.named, (args, kwargs))
        results = operation(*args, **kwargs)
        for number, one in enumerate(tree_leaves(results)):
            if isinstance(one, Tensor) and one not in self.names:
                self.names[one] = f"{len(self.operations)}.{number}"
        self.operations.append(f"{operation} {given} {tree_map(self.named, results)}")
        return results

    def named(self, value: Any) -> Any:
        """A tensor's name; anything else is its own."""
        if not isinstance(value, Tensor):
            return value
        if type(value) not in (Tensor, nn.Parameter):
            raise RuntimeError(f"a tensor of the class {type(value).__name__}")
        if value not in self.names and value in self.weights:
            self.names[value] = f"weight{len(self.used)}: {_layout(value)}"
            self.used.append(value)
        elif value not in self.names:  # numbered, as equal ones may differ later
            digest = _digest(value)
            self.names[value] = f"fixed{len(self.operations)}.{len(self.fixed)} {digest}"
            self.fixed.append(digest)
        return self.names[value]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """All that a library takes for granted of a tensor that it is given, but for its numbers."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg()


def _digest(tensor: Tensor) -> str:
    """Of layout and numbers."""
    values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(repr(_layout(tensor)).encode() + values.data).hexdigest()


def library(
    function: Callable[..., Any], inputs: Sequence[Tensor], recorded: Record, folder: Path, *, any_number: bool = False
) -> Library | None:
    """The function as a library in `folder`, which is made if the folder is empty; None if it can't be one.

    any_number: for any number of images from two to that of the inputs, their first dimension, if such a library can be made.
    """
    if not any(folder.iterdir()):
        _make(function, inputs, recorded, folder, (ANY_NUMBER, LIBRARY) if any_number else (LIBRARY,))
    # one that doesn't load is left to torch.compile, too
    with suppress(OSError, AttributeError, RuntimeError):
        for name in (ANY_NUMBER, LIBRARY):
            if (folder / name).exists():
                return Library(folder / name, inputs, recorded)
    return None


def _make(
    function: Callable[..., Any], inputs: Sequence[Tensor], recorded: Record, folder: Path, names: Sequence[str]
) -> None:
    """Write the library, by the first name that it can have, or `UNSUITABLE`: torch.compile says why, or knows how."""
    code, name = b"", UNSUITABLE
    for form in names:
        try:
            with torch.no_grad():
                code = _code(function, inputs, recorded, form == ANY_NUMBER)
        except _OneNumberError:
            continue
        except Exception:
            break
        name = form if code else UNSUITABLE
        break
    for path in folder.iterdir():  # sources and objects
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / name).write_bytes(code)


class _OneNumberError(Exception):
    """The function can't be traced for any number of images."""


def _code(function: Callable[..., Any], inputs: Sequence[Tensor], recorded: Record, any_number: bool) -> bytes:
    """The library's bytes; none if it needs the proxy. Errors of any kind if it can't be made."""
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    given, weights = inputs, recorded.used
    if any_number:
        try:
            given, weights = _of_any_number(inputs, weights)
            graph = make_fx(function, tracing_mode="symbolic")(*given)
        except Exception as error:
            raise _OneNumberError from error
        _check_guards(given[0], len(inputs[0]))
    else:
        graph = make_fx(function)(*(one.clone() for one in inputs))
    if not _with_weights_as_inputs(graph, recorded.used) <= recorded.fixed:
        raise RuntimeError("the record wouldn't tell the library from others")
    made = Path(str(torch._inductor.aot_compile(graph, (*given, *weights), options=OPTIONS)))
    if any_number:
        _check_guards(given[0], len(inputs[0]))  # the compiler adds its own
    return b"" if PROXY in made.with_suffix(".cpp").read_text() else made.read_bytes()


def _of_any_number(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    """Tensors without numbers to trace with: the first dimensions of the inputs, which are equal, become one unknown."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def unknown(one: Tensor) -> Tensor:
        sizes = [DimDynamic.DUCK, *(DimDynamic.STATIC for _ in one.shape[1:])]  # DUCK: equal ones are one
        fake = mode.from_tensor(one, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
        if not all(isinstance(stride, int) for stride in fake.stride()):
            raise _OneNumberError
        return fake

    if len(set(map(len, inputs))) != 1 or len(inputs[0]) < 2:  # code for one image would be for it alone
        raise _OneNumberError
    return tuple(map(unknown, inputs)), tuple(mode.from_tensor(one, static_shapes=True) for one in weights)


def _check_guards(traced: Tensor, most: int) -> None:
    """Raise unless all that was taken for granted of the number of images holds from 2 to `most`: a library doesn't look again,
    and would read and write beyond its tensors.

    One guard may fail: from how many images on torch gives a convolution to oneDNN. The library calls oneDNN for any number.
    """
    import sympy  # type: ignore[import-untyped]

    number = traced.shape[0].node.expr  # type: ignore[attr-defined]
    guards = traced.fake_mode.shape_env.guards  # type: ignore[attr-defined]
    of_others = [
        guard.expr
        for guard in guards
        if not (guard.sloc.framework_loc.name == "conv" and guard.sloc.framework_loc.filename.endswith("fake_impls.py"))
    ]
    numbers = [sympy.Integer(n) for n in range(2, most + 1)]
    if not number.is_Symbol or not all(
        guard.xreplace({number: n}) == sympy.true for guard in of_others for n in numbers
    ):
        raise _OneNumberError


def _with_weights_as_inputs(graph: GraphModule, weights: Sequence[Tensor]) -> set[str]:
    """Make these weights inputs, after the others, and results a tuple where there is none. Returns the digests of all tensors
    that remain part of the graph.
    """
    fixed, nodes_of = set(), {id(weight): list[Node]() for weight in weights}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if id(value) in nodes_of:
                nodes_of[id(value)].append(node)
            else:
                fixed.add(_digest(value))
        elif node.op == "placeholder":
            last = node
        elif node.op == "output" and node.args == (None,):
            node.args = ((),)
        node.meta.clear()
    for number, nodes in enumerate(nodes_of.values()):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"weight{number}")
        for node in nodes:
            node.replace_all_uses_with(last)
            graph.graph.erase_node(node)
    graph.recompile()
    return fixed


class Library:
    """Calls the function, in any number of threads. Tensors of another layout than the first ones are copied; those that the
    function changes, or of other shapes or dtypes, are refused with a ValueError. any_number: of images, from two to as many as
    it was made with.
    """

    def __init__(self, path: Path, inputs: Sequence[Tensor], recorded: Record) -> None:
        self.weights, self.any_number = recorded.used, path.name == ANY_NUMBER
        self.layouts = [_layout(one) for one in (*inputs, *self.weights)]
        self.in_place = (*recorded.in_place, *(False for _ in self.weights))
        self.code = ctypes.CDLL(str(path))
        self.model, results = ctypes.c_void_p(), ctypes.c_size_t()
        at_once = ctypes.c_size_t(os.cpu_count() or 1)  # further threads would wait
        self._call("CreateWithDevice", ctypes.byref(self.model), at_once, b"cpu", None)
        weakref.finalize(self, self.code.AOTInductorModelContainerDelete, self.model).atexit = False
        self._call("GetNumOutputs", self.model, ctypes.byref(results))
        self.results = results.value

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs) + len(self.weights) != len(self.layouts):
            raise ValueError(f"compiled for {len(self.layouts) - len(self.weights)} tensors, not for {len(inputs)}")
        count = len(inputs[0]) if self.any_number else None
        most = self.layouts[0][2][0]
        if count is not None and not 2 <= count <= most:
            raise ValueError(f"compiled for 2 to {most} images, not for {count}")
        given = [self._laid_out(number, one, count) for number, one in enumerate(inputs)]
        given += [self._laid_out(number, one) for number, one in enumerate(self.weights, len(inputs))]
        # the code owns these from the call on, whether or not it succeeds
        capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(given)
        handles = (ctypes.c_void_p * len(capsules))(*(_pointer(one, None) for one in capsules))
        made = (ctypes.c_void_p * self.results)()
        sizes = ctypes.c_size_t(len(handles)), ctypes.c_size_t(self.results)
        self._call("Run", self.model, handles, sizes[0], made, sizes[1], None, None)
        return tuple(
            torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule(one, None, None) for one in made])
        )

    def _laid_out(self, number: int, given: Tensor, count: int | None = None) -> Tensor:
        found, expected = _layout(given), self.layouts[number]
        if count is not None:
            dtype, device, shape, *rest = expected
            expected = (dtype, device, (count, *shape[1:]), *rest)
        if found == expected:
            return given
        if found[:3] != expected[:3] or self.in_place[number]:
            raise ValueError(f"compiled for {expected}, not for {found}")
        return torch.empty_strided(expected[2], expected[3], dtype=given.dtype).copy_(given)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self.code, f"AOTInductorModelContainer{name}")(*arguments):
            raise RuntimeError(f"the compiled network failed to {name.lower()}")
