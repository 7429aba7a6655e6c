"""The layers of a network, with the shapes of their outputs, and the network cut in two at one of them by torch.fx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy, Tracer

from fmtool.artifacts.format import Rows
from fmtool.datasets.rows import to_float
from fmtool.errors import ModelError, first_line
from fmtool.models.classifier import Classifier, prepare
from fmtool.models.copies import copied
from fmtool.models.equivalence import Reference, passes
from fmtool.models.networks import device_of
from fmtool.models.registry import INPUT, shown_layers

IMAGES = 2  # that go through the network to learn its shapes


@dataclass(frozen=True)
class Layer:
    """A module of a network under its name. type: its class; shape: of its output for one image; obstacle: why the network can't
    be cut at its output, empty if it can.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    obstacle: str

    def field(self) -> dict[str, Any]:
        """As a model's header holds it."""
        return {"name": self.name, "type": self.type, "shape": list(self.shape), "cut": not self.obstacle}


@dataclass(frozen=True)
class Halves:
    """A classifier cut at a layer. front: images (n, c, h, w) to activations (n, *shape), the layer's output; rest: to logits.

    Both are prepared, as by `classifier.prepare`.
    """

    front: Classifier
    rest: Classifier
    shape: tuple[int, int, int]


def layers_of(classifier: Classifier, shape: Sequence[int]) -> list[Layer]:
    """The modules of a classifier's network that give one tensor, in the order of their names in the network.

    shape: that of an image. Empty if the network fails. The classifier isn't changed.
    """
    own = copied(classifier).eval().requires_grad_(False)
    device = device_of(own)
    outputs: dict[str, list[tuple[int, ...]]] = {}
    modules = {name: module for name, module in own.network.named_modules() if name}

    def note(name: str, output: Any) -> None:
        outputs.setdefault(name, []).append(tuple(output.shape) if isinstance(output, Tensor) else ())

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    failed = passes(own, torch.full((IMAGES, *shape), 0.5, device=device)).error is not None
    for hook in hooks:
        hook.remove()
    if failed:
        return []
    traced, reason = _traced(own.network)
    layers = []
    for name, module in modules.items():
        shapes = outputs.get(name, [()])
        if shapes[0]:
            obstacle = _obstacle(name, shapes, shape) or reason or (traced.obstacle(name) if traced else "")
            layers.append(Layer(name, type(module).__name__, shapes[0][1:], obstacle))
    return layers


def cut(classifier: Classifier, layer: str, shape: Sequence[int], device: torch.device) -> Halves:
    """The classifier cut at the output of the module of its network that has this name.

    shape: that of an image. ModelError, with the names of layers that would do, if it can't be cut there, or if the halves
    together are not the classifier: activations and their input gradients, logits and their gradients for the activations.
    """
    given = copied(classifier).eval().requires_grad_(False).to(device)
    layers = {one.name: one for one in layers_of(given, shape)}
    known = layer in dict(given.network.named_modules()) and layer
    missing = "it gives no tensor" if known else "the network has no such layer"
    obstacle = layers[layer].obstacle if layer in layers else missing
    if obstacle:
        names = [one.name for one in layers.values() if not one.obstacle]
        expected = f"expected {INPUT} or {', '.join(shown_layers(names))}" if names else "no layer can be cut"
        raise ModelError(f"--layer {layer}: {obstacle}; {expected} (fmtool inspect MODEL --layers lists all)")
    c, h, w = layers[layer].shape
    front, reason = Reference(_Watched(given, layer), shape, device).compared(
        lambda watched: _split(watched.classifier, layer)[0]
    )
    reason = reason.replace("logits", "activations")
    if not reason:
        replaced = Reference(_Replaced(given, layer, shape), (c, h, w), device)
        rest, reason = replaced.compared(lambda replaced: _split(replaced.classifier, layer)[1])
    if reason:
        raise ModelError(f"--layer {layer}: the network cut there is not the one that was given: {reason}")
    # prepared, and so rounded, as the whole is for attacks: adversarial images may lie next to the boundary
    return Halves(prepare(front, device, shape), prepare(rest, device, (c, h, w)), (c, h, w))


class Activations:
    """A layer's output (n, c, h, w) float32 for rows of images: computed when it is asked for, and kept nowhere.

    Each image goes through the front alone, so that no other image can change its rounding.
    """

    dtype = torch.float32

    def __init__(self, images: Rows, halves: Halves, device: torch.device) -> None:
        self.images, self.front, self.device = images, halves.front, device
        self.shape = (len(images), *halves.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> Tensor:
        images = to_float(self.images[rows])
        return self._of(images) if images.ndim == 3 else torch.stack([self._of(image) for image in images])

    @torch.no_grad()
    def _of(self, image: Tensor) -> Tensor:
        activations: Tensor = self.front(image[None].to(self.device))
        return activations[0].cpu().contiguous()


class _Watched(nn.Module):
    """Images to the output of a layer in the whole classifier."""

    def __init__(self, classifier: Classifier, layer: str) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, layer

    def forward(self, images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        # a copy, as what follows may change it in place
        with _hooked(self.classifier, self.layer, lambda output: outputs.append(output.clone())):
            self.classifier(images)
        return outputs[0]


class _Replaced(nn.Module):
    """Activations (n, c, h, w) to logits: the whole classifier, with a layer's output replaced by them."""

    def __init__(self, classifier: Classifier, layer: str, shape: Sequence[int]) -> None:
        super().__init__()
        self.classifier, self.layer, self.shape = classifier, layer, tuple(shape)

    def forward(self, activations: Tensor) -> Tensor:
        with _hooked(self.classifier, self.layer, lambda _: activations.clone()):
            logits: Tensor = self.classifier(activations.new_full((len(activations), *self.shape), 0.5))
        return logits


@contextmanager
def _hooked(classifier: Classifier, layer: str, change: Any) -> Iterator[None]:
    """change: called with the layer's output; what it returns, unless None, takes its place."""
    hook = classifier.network.get_submodule(layer).register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def _obstacle(name: str, shapes: Sequence[tuple[int, ...]], image: Sequence[int]) -> str:
    """Why a layer whose calls gave outputs of these shapes for `IMAGES` images (c, h, w) can't have masks."""
    first = shapes[0]
    if name == INPUT:
        return "this name stands for the images"
    if len(shapes) > 1:
        return f"it runs {len(shapes)} times"
    if len(first) != 4 or first[0] != IMAGES or 0 in first:
        return f"its output is {'x'.join(map(str, first[1:])) or 'one number'} an image, not channels x height x width"
    _, a, b, c = first
    _, h, w = image
    if a * w == b * h and b * w != c * h:  # the first two, not the last two, have the proportions of the image: Swin's
        return f"its output is {a}x{b}x{c} an image, height x width x channels, not channels x height x width"
    return ""


class _Tracer(Tracer):
    """Notes the node of each module's output. A container's is the one that its last module returned."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Any] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        self.outputs[self.path_of_module(m)] = output
        return output


@dataclass(frozen=True)
class _Traced:
    """A network's graph. outputs: layer -> what it gave; root: the network, which the graph refers to."""

    root: nn.Module
    graph: Graph
    outputs: dict[str, Any]

    def node(self, layer: str) -> Node | None:
        output = self.outputs.get(layer)
        return output.node if isinstance(output, Proxy) else None

    def obstacle(self, layer: str) -> str:
        """Why the graph can't be cut at a layer, empty if it can."""
        node = self.node(layer)
        if node is None:
            return "torch.fx sees no output of it"
        rest = _needed(self._end, node)
        if node not in rest:
            return "the logits don't depend on it"
        if self._images in rest:
            return "another path leads around it"
        return ""

    def halves(self, layer: str) -> tuple[GraphModule, GraphModule]:
        """Images to the layer's output, and the rest."""
        node = self.node(layer)
        assert node is not None
        front, rest = Graph(), Graph()
        copied: dict[Node, Node] = {}
        needed = _needed(node)
        for one in self.graph.nodes:
            if one in needed:
                copied[one] = front.node_copy(one, copied.__getitem__)
        front.output(copied[node])
        copied = {node: rest.placeholder("activations")}
        needed = _needed(self._end, node)
        for one in self.graph.nodes:
            if one in needed and one is not node:
                copied[one] = rest.node_copy(one, copied.__getitem__)
        return GraphModule(self.root, front), GraphModule(self.root, rest)

    @property
    def _images(self) -> Node:
        node: Node = next(one for one in self.graph.nodes if one.op == "placeholder")
        return node

    @property
    def _end(self) -> Node:
        node: Node = next(one for one in self.graph.nodes if one.op == "output")
        return node


def _needed(end: Node, without: Node | None = None) -> set[Node]:
    """`end` and the nodes that it is computed from; those that only `without` is computed from are not among them."""
    needed: set[Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(() if node is without else node.all_input_nodes)
    return needed


def _traced(network: nn.Module) -> tuple[_Traced | None, str]:
    """The network's graph, or why it can't be traced. Tracing may leave proxies in the network."""
    tracer = _Tracer()
    try:
        return _Traced(network, tracer.trace(network), tracer.outputs), ""
    except Exception as error:  # tracing runs a third-party forward on proxies, which may raise any exception
        return None, f"torch.fx can't trace the network ({first_line(error)})"


def _split(classifier: Classifier, layer: str) -> tuple[Classifier, Classifier]:
    """Copies: images to the layer's output, and that to logits."""
    front = copied(classifier)  # tracing may leave proxies in a network
    network, front.network = front.network, nn.Identity()
    traced, reason = _traced(network)
    if traced is None:
        raise ModelError(reason)
    rest = copied(front)
    front.network, rest.network = (half.eval().requires_grad_(False) for half in traced.halves(layer))
    front.keep_classes = None
    rest.mean = rest.std = None
    return front, rest
