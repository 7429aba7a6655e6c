"""A network of its own for each worker thread, as a forward pass may store something in the network and read it again.

Workers that ran one module would get each other's activations. A replica shares the weights; what lies beside them is copied.
Where copying can't divide what a forward pass writes, or nothing may be copied, the workers take turns.
"""

from __future__ import annotations

import contextlib
import dis
import sys
import threading
from collections import deque
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fmtool.errors import ModelError
from fmtool.models import native_code
from fmtool.models.copies import copied
from fmtool.runtime import threads

STATELESS = (
    "torch.nn.modules.",
    "torch.fx.graph_module",
)  # where classes live whose forward stores nothing in eval mode
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module

_turn = threading.RLock()


def forward(network: nn.Module, images: Tensor) -> Any:
    """What the network gives for images in this thread: itself in a thread that has no fellow workers, else through a replica."""
    if _is_traced() or (replicas := threads.own()) is None:
        return network(images)
    if id(network) not in replicas:
        with _turn:
            replicas[id(network)] = (network, _replica(network))  # the network too, so that its number stays its own
    _, replica = replicas[id(network)]
    if replica is not None:
        return replica(images)
    with _turn:
        return network(images)


def _is_traced() -> bool:
    """Whether the compiler, or torch.fx, records this pass: a copy could not be made, or would become part of the record. Not
    whether another thread compiles, which `torch.compiler.is_compiling` may say.
    """
    recorder = sys.modules.get("torch.fx.experimental.proxy_tensor")
    is_traced = recorder is not None and recorder.get_proxy_mode() is not None
    return native_code.is_recording() or is_traced or torch.compiler.is_dynamo_compiling()


def _replica(network: nn.Module) -> nn.Module | None:
    """The network itself if it stores nothing, else a copy with the same weights; None if it can't be divided so."""
    if all(_is_stateless(module) for module in network.modules()):
        return network
    if any(_stores_outside(module) for module in network.modules()):
        return None
    try:
        replica = copied(network, shared=network.parameters())
    except ModelError:
        return None
    # TorchScript and what copies itself may not share, and a network for each thread may not fit into memory
    weights = zip(network.parameters(), replica.parameters(), strict=True)
    return replica if all(one is other for one, other in weights) else None


def _is_stateless(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers, or a graph of these that reads no buffer of its own, which it might also fill."""
    hooked = any(getattr(module, hooks) for hooks in HOOKS)
    own = type(module).__module__.startswith(STATELESS) and not hooked and "forward" not in vars(module)
    if not own or not isinstance(module, GraphModule):
        return own
    weights = dict(module.named_parameters())
    return all(str(node.target) in weights for node in module.graph.nodes if node.op == "get_attr")


def _stores_outside(module: nn.Module) -> bool:
    """Whether its forward seems to write to what a copy would share: variables of a class, a module or a closure.

    The search ends at functions that are no methods. Code that torch's compiler ran would be compiled for each copy, too.
    """
    if type(module).__module__.startswith("torch._dynamo"):
        return True
    classes = [one for one in type(module).__mro__ if not one.__module__.startswith(("torch.", "builtins"))]
    hooks = [hook for name in HOOKS for hook in getattr(module, name).values()]
    waiting = [*hooks, *vars(module).values(), *(vars(one).get("forward") for one in classes)]
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        function = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        names, cells = _names(function.__code__), _contents(function)
        of_classes = [vars(one)[name] for one in classes for name in names if name in vars(one)]
        of_module = [function.__globals__.get(name) for name in names]
        if (
            hasattr(function, "_torchdynamo_orig_callable")
            or _sets_global(function.__code__)
            or any(isinstance(value, Tensor | nn.Module) or _is_store(value) for value in (*cells, *of_classes))
            or any(_is_store(value) or _may_store(value) for value in of_module)
        ):
            return True
        waiting += [*cells, *of_classes]
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions within it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


@cache
def _names(code: CodeType) -> tuple[str, ...]:
    """The attributes and variables of its module that a function names."""
    return tuple(dict.fromkeys(name for one in _codes(code) for name in one.co_names))


@cache
def _sets_global(code: CodeType) -> bool:
    """Whether a function assigns to a variable of its module."""
    return any(step.opname == "STORE_GLOBAL" for one in _codes(code) for step in dis.get_instructions(one))


def _may_store(value: Any) -> bool:
    """Whether it is a network outside the one that is copied, of other layers than torch's own."""
    return isinstance(value, nn.Module) and not all(_is_stateless(module) for module in value.modules())


def _contents(function: FunctionType) -> list[Any]:
    """The variables that a function has from the functions around it; one that is not set yet is left out."""
    values = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            values.append(cell.cell_contents)
    return values


def _is_store(value: Any) -> bool:
    """Whether it is a container for tensors: an empty one, or one that holds any. Others are settings."""
    if not isinstance(value, list | dict | set | deque):
        return False
    held = value.values() if isinstance(value, dict) else value
    return not value or any(isinstance(one, Tensor) for one in held)
