"""What makes the frozen classifier's forward pass and input gradient cheaper, one thing after the other.

    python examples/benchmarks/bound.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import torch
from common import arguments, classifiers, pixels, rate, ratio, rounds, show, spread
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from fmtool.models import compiling
from fmtool.models.classifier import channels_last
from fmtool.runtime import threads

BATCH = 32
Passes = Callable[[Tensor, Tensor], object]


def main() -> None:
    """Print one table."""
    given = arguments()
    plain, run, _ = classifiers(given)
    images, labels = (values[:BATCH].to(run.device) for values in pixels(given, BATCH))
    folded = run.classifier
    both = compiling.input_gradient

    def compiled(change: Callable[[GraphModule], GraphModule] = lambda graph: graph, **settings: Any) -> Passes:
        graph = change(make_fx(both(folded))(images, labels))
        with compiling.quiet(), torch.no_grad():
            made = torch.compile(graph, dynamic=False, options=settings)
            made(images, labels)
            made(images, labels)
        return torch.no_grad()(made)

    def forward_alone() -> Passes:
        network = torch.compile(folded, dynamic=False)
        with compiling.quiet():
            both(network)(images, labels)  # type: ignore[arg-type]
        return both(network)  # type: ignore[arg-type]

    settings: dict[str, Callable[[], Passes]] = {
        "as it comes, rows of pixels together": lambda: both(plain),
        "channels last": lambda: both(channels_last(plain)),
        "and batch norms folded": lambda: both(folded),
        "and compiled, forward and backward apart": forward_alone,
        "and compiled as one graph": compiled,
        "and weights packed ahead (freezing)": lambda: compiled(freezing=True),
        "and backward convolutions as forward ones": lambda: compiled(_flipped, freezing=True),
        "and called from C++": lambda: compiled(_flipped, freezing=True, cpp_wrapper=True),
        "one graph called from C++, without those two": lambda: compiled(cpp_wrapper=True),
    }
    with threads.pool(run.device) as pool:
        count = threads.count(run.device)

        def in_workers(passes: Passes) -> float:
            def once() -> int:
                passes(images, labels)
                return BATCH

            jobs = [pool.submit(rate, once) for _ in range(count)]
            wait(jobs)
            return sum(job.result() for job in jobs)

        made = {name: pool.submit(build).result() for name, build in settings.items()}
        works = {name: (lambda passes=passes: in_workers(passes)) for name, passes in made.items()}
        found = rounds(works, given.rounds)
    first = found["as it comes, rows of pixels together"]
    show(
        f"The bare classifier's two passes: ResNet-20, {count} workers of {BATCH} images",
        ["", "images a second", "times the first"],
        [[name, spread(values, ".0f"), ratio(values, first)] for name, values in found.items()],
        [f"Medians, lowest and highest of {given.rounds} rounds; only gradients of the images are computed in each."],
    )


def _flipped(graph: GraphModule) -> GraphModule:
    """Each input gradient of a 3x3 convolution of stride 1 as a convolution with the turned weights."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.convolution_backward.default and list(node.args[4]) == [1, 1]:
            name = f"{node.args[2].target}_turned"
            weights = getattr(graph, node.args[2].target).detach()
            turned = weights.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            graph.register_buffer(name, turned)
            with graph.graph.inserting_before(node):
                given = graph.graph.get_attr(name)
                forward = (node.args[0], given, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
                replaced = graph.graph.call_function(aten.convolution.default, forward)
            for user in list(node.users):
                user.replace_all_uses_with(replaced)
                graph.graph.erase_node(user)
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


if __name__ == "__main__":
    main()
