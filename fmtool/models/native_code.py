"""Functions of tensors as libraries, which load without torch's compiler: importing it and tracing a network again take seconds.

A function is known by its operations, noted while it runs once. Inductor makes the library ahead of time (AOTInductor), with the
network's weights as further inputs, so that it serves all weights of the same shapes. It is called through its C interface, as
other threads can run Python meanwhile. This is for the CPU.
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
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

LIBRARY = "code.so"
UNSUITABLE = "unsuitable"  # stands in place of a library that can't be made, or would call Python for some operation
CALLS_PYTHON = "aoti_torch_proxy_executor_call_function"  # in the source of such a library

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
    """Run a function of `inputs`, which it may change, and note what it does. weights: the network's parameters and buffers."""
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
        self.fixed: set[str] = set()
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
        if value not in self.names and value in self.weights:
            self.names[value] = f"weight{len(self.used)}: {_layout(value)}"
            self.used.append(value)
        elif value not in self.names:
            self.names[value] = f"fixed {_digest(value)}"
            self.fixed.add(_digest(value))
        return self.names[value]


def _layout(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} {list(tensor.stride())} {tensor.device}"


def _digest(tensor: Tensor) -> str:
    """Of layout and numbers."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(_layout(tensor).encode() + values.data).hexdigest()


def library(
    function: Callable[..., Any], inputs: Sequence[Tensor], recorded: Record, folder: Path
) -> Callable[..., tuple[Tensor, ...]] | None:
    """The function as a library in `folder`, which is made if the folder is empty; None if it can't be one."""
    if not any(folder.iterdir()):
        _make(function, inputs, recorded, folder)
    return _Library(folder / LIBRARY, inputs, recorded) if (folder / LIBRARY).exists() else None


def _make(function: Callable[..., Any], inputs: Sequence[Tensor], recorded: Record, folder: Path) -> None:
    """Write the library, or `UNSUITABLE`."""
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function)(*(one.clone() for one in inputs))
    fixed = _with_weights_as_inputs(graph, recorded.used)
    code = None
    if fixed is not None and fixed <= recorded.fixed:  # the record tells this library from any other
        with suppress(Exception), torch.no_grad():  # torch.compile, which comes next, says why, or knows how
            made = Path(str(torch._inductor.aot_compile(graph, (*inputs, *recorded.used))))
            if CALLS_PYTHON not in made.with_suffix(".cpp").read_text():
                code = made.read_bytes()
    for path in folder.iterdir():  # sources and objects
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / (UNSUITABLE if code is None else LIBRARY)).write_bytes(code or b"")


def _with_weights_as_inputs(graph: GraphModule, weights: Sequence[Tensor]) -> frozenset[str] | None:
    """Make these weights inputs, after the others, and the results a tuple. Returns the digests of all tensors that remain part
    of the graph; None if a weight is not in it.
    """
    nodes = list(graph.graph.nodes)
    of_weight: dict[int, list[Node]] = {id(weight): [] for weight in weights}
    fixed = set()
    for node in nodes:
        if node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if id(value) in of_weight:
                of_weight[id(value)].append(node)
            else:
                fixed.add(_digest(value))
        elif node.op == "placeholder":
            last = node
        elif node.op == "output" and node.args == (None,):
            node.args = ((),)
        node.meta.clear()
    for number, places in enumerate(of_weight.values()):
        if not places:
            return None
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"weight{number}")
        for node in places:
            node.replace_all_uses_with(last)
            graph.graph.erase_node(node)
    graph.recompile()
    return frozenset(fixed)


class _Library:
    """Calls the function, in any number of threads. Inputs of another layout are copied, as the code is for one; those that
    the function changes must have it.
    """

    def __init__(self, path: Path, inputs: Sequence[Tensor], recorded: Record) -> None:
        self.weights, self.in_place = recorded.used, recorded.in_place
        self.layouts = [(one.dtype, one.shape, one.stride()) for one in inputs]
        self.code, self.python = ctypes.CDLL(str(path)), ctypes.PyDLL(None)
        self.python.PyCapsule_GetPointer.restype = ctypes.c_void_p
        self.python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        self.python.PyCapsule_New.restype = ctypes.py_object
        self.python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.model, results = ctypes.c_void_p(), ctypes.c_size_t()
        at_once = ctypes.c_size_t(os.cpu_count() or 1)  # further threads would wait
        self._call("CreateWithDevice", ctypes.byref(self.model), at_once, b"cpu", None)
        weakref.finalize(self, self.code.AOTInductorModelContainerDelete, self.model)
        self._call("GetNumOutputs", self.model, ctypes.byref(results))
        self.results = results.value

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = [self._laid_out(number, one) for number, one in enumerate(inputs)]
        capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([*tensors, *self.weights])
        # the code takes these over, and gives its results
        given = (ctypes.c_void_p * len(capsules))(*(self.python.PyCapsule_GetPointer(one, None) for one in capsules))
        made = (ctypes.c_void_p * self.results)()
        self._call(
            "Run", self.model, given, ctypes.c_size_t(len(given)), made, ctypes.c_size_t(self.results), None, None
        )
        pointers = [self.python.PyCapsule_New(one, None, None) for one in made]
        return tuple(torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(pointers))

    def _laid_out(self, number: int, given: Tensor) -> Tensor:
        dtype, shape, stride = self.layouts[number]
        if (given.dtype, given.shape, given.stride()) == (dtype, shape, stride):
            return given
        if (given.dtype, given.shape) != (dtype, shape) or self.in_place[number]:
            raise ValueError(f"compiled for {dtype} {list(shape)} {stride}, not for {_layout(given)}")
        return torch.empty_strided(shape, stride, dtype=dtype).copy_(given)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self.code, f"AOTInductorModelContainer{name}")(*arguments):
            raise RuntimeError(f"the compiled network failed to {name.lower()}")
