"""Copies of networks, which may hold results of their last forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
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
    try:
        with _Detached():
            return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
    except Exception as error:  # third-party code may raise any exception
        raise ModelError(f"the network can't be copied: {type(error).__name__}: {error}") from error


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
