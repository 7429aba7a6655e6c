"""Copies of networks, which may hold results of their last forward pass."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from fmtool.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)


class _Detached(TorchFunctionMode):
    """In the body, deep copies of tensors with a graph are made without it; torch refuses to copy them."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.__deepcopy__ and not arguments[0].is_leaf:
            tensor, memo = arguments
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return function(*arguments, **(options or {}))


def copied(network: Network, shared: Iterable[Tensor] = ()) -> Network:
    """A deep copy, in which activations that a forward pass left in the network, as weight norm does, have no graph.

    shared: tensors that the copy has in common with the network. ModelError if the network can't be copied.
    """
    twins: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    try:
        with _Detached():
            double = copy.deepcopy(network, twins)
        made = {id(one) for one in twins.values()}
        for module in double.modules():
            if id(module) in made:
                made.add(id(vars(module)))
                _rebound(vars(module), twins, made)
    except Exception as error:  # third-party code may raise any exception
        raise ModelError(f"the network can't be copied: {type(error).__name__}: {error}") from error
    return double


def _rebound(value: Any, twins: dict[int, Any], made: set[int]) -> Any:
    """What a module of the copy holds, with the functions in it that mean the network replaced by ones that mean the copy: in
    tuples and partial functions by new ones, in lists and dictionaries, as of hooks, in place.

    twins: as of `_twin`. made: the `id` of what was made for the copy; of lists and dictionaries those still to be done.
    """
    if isinstance(value, FunctionType):
        return _twin(value, twins)
    if type(value) is tuple:
        parts = tuple(_rebound(one, twins, made) for one in value)
        return parts if any(new is not one for new, one in zip(parts, value, strict=True)) else value
    if type(value) is partial:
        old = (value.func, *value.args, *value.keywords.values())
        function, *given = new = _rebound(old, twins, made)
        if new is old:
            return value
        named = dict(zip(value.keywords, given[len(value.args) :], strict=True))
        double = partial(function, *given[: len(value.args)], **named)
        vars(double).update(vars(value))
        return double
    if isinstance(value, list | dict) and id(value) in made:
        made.remove(id(value))  # it may contain itself
        for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new = _rebound(one, twins, made)
            if new is not one:
                value[key] = new
    return value


def _twin(value: Any, twins: dict[int, Any]) -> Any:
    """What a value is in the copy. Copying leaves functions as they are, and so what their closures and defaults mean: the
    network that was copied, in a hook which fills `self.features`.

    twins: the copies by the `id` of what they are copies of; those of functions are added.
    """
    if id(value) in twins:
        return twins[id(value)]
    if not _means(value, twins, set()):
        return value
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _twin(value.__self__, twins))
    cells = value.__closure__ or ()
    own = [twins.setdefault(id(one), CellType()) if _means(one, twins, set()) else one for one in cells]
    double = FunctionType(value.__code__, value.__globals__, value.__name__, None, tuple(own) or None)
    twins[id(value)] = double  # before its cells are filled, as a function may mean itself
    for one, new in zip(cells, own, strict=True):
        if new is not one:
            new.cell_contents = _twin(one.cell_contents, twins)
    double.__defaults__ = value.__defaults__ and tuple(_twin(one, twins) for one in value.__defaults__)
    named = value.__kwdefaults__
    double.__kwdefaults__ = named and {name: _twin(one, twins) for name, one in named.items()}
    vars(double).update(vars(value))
    return double


def _means(value: Any, twins: Mapping[int, Any], seen: set[int]) -> bool:
    """Whether a value is a part of the network that was copied, or a function, method or cell that leads to one."""
    if id(value) in seen:
        return False
    seen.add(id(value))
    if id(value) in twins:
        return True
    held: list[Any] = []
    if isinstance(value, MethodType):
        held = [value.__self__]
    elif isinstance(value, FunctionType):
        held = [*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, CellType):
        with contextlib.suppress(ValueError):  # not filled yet
            held = [value.cell_contents]
    return any(_means(one, twins, seen) for one in held)


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's buffers, without those of lazy modules that are not yet there."""
    return {name: one.clone() for name, one in network.named_buffers() if not isinstance(one, UninitializedBuffer)}


@torch.no_grad()
def restore_(network: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    """Give buffers the values that `buffers_of` found. Returns the names of those that have changed."""
    changed = []
    for name, one in network.named_buffers():
        if name not in before or before[name].shape != one.shape:
            continue
        old = before[name].to(one.device)
        if not bool(((old == one) | (old != old) & (one != one)).all()):
            one.copy_(old)
            changed.append(name)
    return changed
