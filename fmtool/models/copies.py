"""Copies of networks, which may hold results of their last forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import CellType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from fmtool.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module


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
    except Exception as error:  # third-party code may raise any exception
        raise ModelError(f"the network can't be copied: {type(error).__name__}: {error}") from error
    for module in double.modules():
        for own in (vars(module), *(getattr(module, hooks) for hooks in HOOKS)):
            own.update({name: _rebound(value, twins) for name, value in own.items() if isinstance(value, FunctionType)})
    return double


def _rebound(function: FunctionType, twins: dict[int, Any]) -> FunctionType:
    """A function that means the copy where this one means the network, which copying leaves as it is: a hook that stores
    activations in `self.features`, say. twins: the copies of the network's parts by the `id` of what they are copies of.
    """

    def twin(value: Any) -> Any:
        if isinstance(value, FunctionType) and id(value) not in twins:
            twins[id(value)] = value  # one that calls itself
            twins[id(value)] = _rebound(value, twins)
        return twins.get(id(value), value)

    def twin_of_cell(cell: CellType) -> CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            return cell
        return cell if twin(value) is value else twins.setdefault(id(cell), CellType(twin(value)))

    cells, defaults = function.__closure__ or (), function.__defaults__ or ()
    of_twins = *map(twin_of_cell, cells), *map(twin, defaults)
    if all(one is other for one, other in zip((*cells, *defaults), of_twins, strict=True)):
        return function
    code, known, name = function.__code__, function.__globals__, function.__name__
    double = FunctionType(code, known, name, of_twins[len(cells) :] or None, of_twins[: len(cells)] or None)
    double.__kwdefaults__ = function.__kwdefaults__
    vars(double).update(vars(function))
    return double


def device_of(network: nn.Module) -> torch.device:
    """That of its first parameter or buffer; the CPU without any."""
    return next((one.device for one in [*network.parameters(), *network.buffers()]), torch.device("cpu"))


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's buffers, without those of lazy modules that are not yet there."""
    return {name: one.clone() for name, one in network.named_buffers() if not isinstance(one, UninitializedBuffer)}


@torch.no_grad()
def restore_(network: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    """Give buffers the values that `buffers_of` found. Returns the names of those that have changed."""
    changed = []
    for name, one in network.named_buffers():
        old = before.get(name)
        if old is not None and old.shape == one.shape and not bool(((old == one) | (old != old) & (one != one)).all()):
            one.copy_(old)
            changed.append(name)
    return changed
