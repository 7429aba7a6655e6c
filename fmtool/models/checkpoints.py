"""Checkpoints: find the state dict in a file of weights, however it is wrapped, and fill a network with it."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmtool.artifacts import files
from fmtool.artifacts.format import METADATA_KEY, parse_header
from fmtool.errors import ModelError, first_line, warn
from fmtool.models.networks import last_layer
from fmtool.models.unpickling import contents, is_safetensors

# Keys under which training loops store a state dict, and prefixes that they, DataParallel and torch.compile add; the first wins.
WRAPPERS = (
    *("state_dict", "model", "net", "model_state_dict", "network", "weights", "params"),
    *("model_ema", "ema", "state_dict_ema", "params_ema"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
COUNTERS = ("num_batches_tracked", "n_averaged")  # of batches and steps, not used afterwards
# Names that torchvision's own loaders rename.
OLD_NAMES = ((re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),)
DEEPEST = 4  # wrappers within wrappers


@dataclass(frozen=True)
class Misfit:
    """How names and shapes of weights differ from a network's; `errors`: torch's own messages."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.errors)


def is_own(content: bytes, path: str) -> bool:
    """Whether the bytes of a checkpoint are a file of fmtool, which holds more than weights."""
    return is_safetensors(content) and METADATA_KEY in (parse_header(content, path).get("__metadata__") or {})


def read_weights(path: str, data: bytes | None = None) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a pickle that holds nothing but tensors, numbers and plain containers.

    Wrappers are removed; names are those in the file. data: the file's bytes, if already read.
    """
    data = files.read_bytes(path) if data is None else data
    state = _state_dict(contents(data, path), path)
    if state is None:
        raise ModelError(f"{path}: holds no state dict, expected parameter names with tensors")
    for name, tensor in state.items():
        if tensor.layout != torch.strided:
            raise ModelError(f"{path}: {name} is sparse ({tensor.layout}), expected a dense tensor (to_dense())")
        # a stride of 0 turns one number into any size
        if tensor.numel() * tensor.element_size() > len(data):
            raise ModelError(f"{path}: {name} is {list(tensor.shape)}, more than the file holds")
    return state


def _state_dict(content: Any, path: str, depth: int = 0) -> OrderedDict[str, Tensor] | None:
    """The state dict that `content` is or wraps; None if there is none."""
    if not isinstance(content, Mapping) or not content or depth > DEEPEST:
        return None
    if _is_state(content):
        state: OrderedDict[str, Tensor] = OrderedDict()
        for name, value in content.items():
            state[name] = value if isinstance(value, Tensor) else _from_array(value, f"{path}: {name}")
        state._metadata = getattr(content, "_metadata", None)  # type: ignore[attr-defined]
        return state
    named = {name: _state_dict(content[name], path, depth + 1) for name in WRAPPERS if name in content}
    nested = {name: state for name, state in named.items() if state is not None}
    ignored = (
        [str(name) for name, value in content.items() if name not in WRAPPERS and _is_state(value)] if nested else []
    )
    if not nested:
        others = {name: _state_dict(value, path, depth + 1) for name, value in content.items() if isinstance(name, str)}
        nested = {name: state for name, state in others.items() if state is not None}
        if len(nested) > 1:
            raise ModelError(
                f"{path}: holds several state dicts ({', '.join(nested)}), expected one, or one named state_dict"
            )
    found = [*nested, *ignored]
    if len(found) > 1:
        warn(f"{path}: uses {found[0]}, ignores {', '.join(found[1:])}")
    return next(iter(nested.values()), None)


def _is_state(content: Any) -> bool:
    """Whether it is a dict of nothing but names and arrays."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor | np.ndarray) for name, value in content.items())


def _from_array(values: np.ndarray[Any, Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(values))
    except TypeError:
        raise ModelError(f"{name} is an array of {values.dtype}, expected numbers") from None


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Fill a network; ModelError lists what is missing, unexpected or of another shape.

    Names are compared after the network's own loading hooks. Prefixes are removed if the names then fit and did not before.
    """
    problems: list[tuple[Misfit, Mapping[str, Tensor]]] = []
    for candidate, left in named_as(weights):
        misfit = misfit_of(network, candidate)
        if not misfit:
            if left:
                total = sum(not one.endswith(COUNTERS) for one in weights)  # as `left` leaves them out
                warn(
                    f"{name}: {len(left)} of {total} tensors don't belong to the network and are ignored: {_few(left)}"
                )
            own = network.state_dict()
            for key, tensor in candidate.items():
                if tensor.is_complex() and key in own and not own[key].is_complex():  # torch would drop a part of it
                    raise ModelError(f"{name}: {key} is complex, expected real numbers, as the network has")
            _let_it_load(network, candidate, name)
            return
        problems.append((misfit, candidate))
    misfit, candidate = min(problems, key=lambda pair: len(pair[0]))
    raise ModelError(f"{name}: the weights don't fit the architecture: {_described(misfit, candidate, network)}")


def _let_it_load(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Fill the network as torch does, if loading does more in it than copy: an override, or hooks that run afterwards."""
    overrides = type(network).load_state_dict is not nn.Module.load_state_dict
    hooks = any(module._load_state_dict_post_hooks for module in network.modules())
    if not (overrides or hooks) or any(tensor.is_meta for tensor in network.state_dict().values()):
        return
    own = getattr(network.state_dict(), "_metadata", None)
    for candidate in (weights, _with_metadata(weights, own)):  # a hook may need the version, see `misfit_of`
        try:
            network.load_state_dict(candidate, strict=False)
            return
        except Exception as error:
            reason = first_line(error)
    raise ModelError(f"{name}: the network's own load_state_dict fails: {reason}")


def named_as(weights: Mapping[str, Tensor]) -> Iterator[tuple[Mapping[str, Tensor], list[str]]]:
    """The weights under their own names, then without one prefix after the other, each also under torchvision's new names;
    and the names that don't have the prefix, counters apart.
    """
    metadata = getattr(weights, "_metadata", None)
    candidate, left = _with_metadata(weights, metadata), list[str]()
    while True:  # once where there are no weights, as of a network without any
        yield candidate, left
        renamed = _renamed(candidate)
        if renamed.keys() != candidate.keys():
            yield renamed, left
        counts = {prefix: sum(name.startswith(prefix) for name in candidate) for prefix in PREFIXES}
        prefix = max(counts, key=lambda one: counts[one])  # the most frequent prefix
        if not counts[prefix]:
            return
        metadata = {key[len(prefix) :]: value for key, value in (metadata or {}).items() if key.startswith(prefix)}
        left = left + [name for name in candidate if not name.startswith(prefix) and not name.endswith(COUNTERS)]
        inner = {name[len(prefix) :]: tensor for name, tensor in candidate.items() if name.startswith(prefix)}
        candidate = _with_metadata(inner, metadata or None)


def _renamed(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    names = {name: name for name in weights}
    for pattern, new in OLD_NAMES:
        names = {name: pattern.sub(new, text) for name, text in names.items()}
    return _with_metadata(
        {names[name]: tensor for name, tensor in weights.items()}, getattr(weights, "_metadata", None)
    )


def _with_metadata(weights: Mapping[str, Tensor], metadata: Any) -> OrderedDict[str, Tensor]:
    """torch keeps the modules' versions, which loading hooks use, as an attribute of the state dict."""
    state = OrderedDict(weights)
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


@torch.no_grad()
def misfit_of(network: nn.Module, weights: Mapping[str, Tensor]) -> Misfit:
    """Fill a network with the weights that fit, after its own loading hooks, and report how the rest differs."""
    own = getattr(network.state_dict(), "_metadata", {})
    versions = getattr(weights, "_metadata", None)
    try:
        return _load(network, weights, versions or {})
    except Exception:  # a hook that needs the version, which safetensors files don't hold
        return _load(network, weights, own)


def _load(network: nn.Module, weights: Mapping[str, Tensor], versions: Mapping[str, Any]) -> Misfit:
    """As `load_state_dict`, which reports names or shapes but never both."""
    state, missing, unexpected, errors = OrderedDict(weights), list[str](), list[str](), list[str]()

    def fill(module: nn.Module, prefix: str) -> None:
        version = versions.get(prefix[:-1], {})
        module._load_from_state_dict(state, prefix, version, True, missing, unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                fill(child, f"{prefix}{name}.")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that are dropped on the meta device
        fill(network, "")
    own = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    filled = {id(weight) for name, weight in own.items() if name in state}  # of tied weights a file may hold one
    needed = [name for name in missing if not name.endswith(COUNTERS) and id(own.get(name)) not in filled]
    return Misfit(needed, [name for name in unexpected if not name.endswith(COUNTERS)], errors)


def _described(misfit: Misfit, weights: Mapping[str, Tensor], network: nn.Module) -> str:
    own = network.state_dict()
    shapes = [
        f"{key} {list(weights[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    if misfit.errors and not shapes:
        shapes = [" ".join(error.split()) for error in misfit.errors]
    parts = (("missing", misfit.missing), ("unexpected", misfit.unexpected), ("shape", shapes))
    return "; ".join(f"{what} {_few(names)}" for what, names in parts if names)


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def outputs_of(weights: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """The number of outputs of a checkpoint of this architecture, according to its last layer if it has one."""
    try:
        name = last_layer(network)[0] + ".weight"
    except ModelError:
        return None
    weight = next((candidate[name] for candidate, _ in named_as(weights) if name in candidate), None)
    return len(weight) if weight is not None and weight.ndim else None
