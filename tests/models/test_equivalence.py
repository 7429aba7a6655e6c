"""What runs is the network that was given: the same logits and input gradients, at any batch size, whatever makes it faster."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models.classifier import Classifier, prepare
from fmtool.models.compiling import input_gradient
from fmtool.models.registry import ARCHITECTURES
from fmtool.models.training import RECIPES, train

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: no two channels alike, some scales negative."""
    numbers = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=numbers)
            module.running_var = torch.rand(module.num_features, generator=numbers) * 2 + 0.1
            module.weight.data = torch.randn(module.num_features, generator=numbers)
            module.bias.data = torch.randn(module.num_features, generator=numbers)
    return network.eval()


class Base(nn.Module):
    """A convolution with its batch norm, then a linear layer; the networks below differ in their forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.linear, self.gate = nn.Linear(6, 5), nn.Linear(6, 6)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.features(x).mean(dim=(2, 3)))


class SharedConvolution(nn.Module):
    """One convolution, two batch norms: folding the first into it would spoil the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv(F.relu(self.bn1(self.conv(x))))).flatten(1)


class LooksAtValues(Base):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if float(x.mean()) > 0.5 else -out


class BranchesOnType(Base):
    """torch.fx traces another branch than tensors take."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 5 if isinstance(x, Tensor) else out


class WithoutGradientWithin(Base):
    """Tracing loses the `no_grad`, so that a part of the gradient would be there that the author left out."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))
        with torch.no_grad():
            gates = torch.sigmoid(self.gate(pooled))
        return self.linear(pooled * gates)


class FlattensByView(nn.Module):
    """As tutorials write it; `view` refuses channels-last tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(x.view(x.size(0), -1))


class ReadsMemory(FlattensByView):
    """Reads numbers as they lie in memory: no error in another layout, but another function."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(torch.as_strided(x, (x.size(0), 96), (96, 1)))


class ChangesItsInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.4).div_(0.3))


class DependsOnBatchSize(Base):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 2 if len(x) == 1 else out


class DrawsNumbers(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn(1, 1, 8, 8))


class GivesADict(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logits": super().forward(x)}


class GivesATuple(Base):
    def forward(self, x: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, super().forward(x), x


class Float32Within(Base):
    """Cannot be compared in float64, as it computes in float32 whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()) if self.conv.weight.dtype == torch.float32 else x.float()


def weight_normed() -> nn.Module:
    """Holds results of its last forward pass, with their graph, which can't be copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Base()
        network.conv = nn.utils.weight_norm(network.conv)
    network(torch.rand(2, *SHAPE))
    return network


NETWORKS = {
    "resnet8": lambda: ARCHITECTURES["resnet8"].build(1, 10),
    "resnet20": lambda: ARCHITECTURES["resnet20"].build(1, 10),
    "nothing to fold": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.Flatten()),
    "batch statistics": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()
    ),
    "parallel": lambda: nn.DataParallel(Base()),
    "weight norm": weight_normed,
    **{
        kind.__name__: kind
        for kind in (
            *(Base, SharedConvolution, LooksAtValues, BranchesOnType, WithoutGradientWithin, FlattensByView, ReadsMemory),
            *(ChangesItsInput, DependsOnBatchSize, GivesADict, GivesATuple, Float32Within),
        )
    },
}  # fmt: skip


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(NETWORKS[name]())


def authors(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross-entropy, of the network as its author wrote it."""
    leaf = images.clone().requires_grad_()
    output = network(leaf * 1)  # what a network changes in place must not be a leaf
    logits = output["logits"] if isinstance(output, dict) else output[1] if isinstance(output, tuple) else output
    labels = torch.arange(len(images)) % logits.shape[1]
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)
    return logits.detach(), gradient


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fmtool.errors.FmtoolWarning")
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("name", NETWORKS)
def test_prepared_network_is_the_one_that_was_given(name: str, n: int) -> None:
    """Equal to 1e-4 of the largest: float32 rounds otherwise when two steps become one."""
    network = made(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    ready = prepare(Classifier(network), CPU, SHAPE)
    for scale in (0.3, 1.0):  # below and above what LooksAtValues looks for
        images = scale * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(9))
        given = images.clone()
        logits, gradient = authors(network, images)
        _, found, slope = input_gradient(ready)(images, torch.arange(n) % logits.shape[1])
        assert torch.equal(images, given)
        for one, other in ((found, logits), (slope, gradient)):
            assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


FOLDED, LAYOUT = "batch norms folded", "channels-last layout"


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("resnet8", {}),
        ("resnet20", {}),
        ("nothing to fold", {}),
        ("ChangesItsInput", {}),
        ("GivesADict", {}),
        ("SharedConvolution", {FOLDED: "runs a layer twice"}),
        ("LooksAtValues", {FOLDED: "torch.fx can't trace its forward"}),
        ("BranchesOnType", {FOLDED: "its logits would differ by 80 %"}),
        ("WithoutGradientWithin", {FOLDED: "its input gradients would differ by"}),
        ("FlattensByView", {LAYOUT: "view size is not compatible"}),
        ("ReadsMemory", {LAYOUT: "its logits would differ by"}),
    ],
)
def test_what_is_left_out_is_told_in_one_line_each(name: str, steps: dict[str, str], capfd: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(Classifier(made(name)), CPU, SHAPE)
    # torch says something of its own about branches on values, once in a process
    lines = [str(one.message) for one in caught if issubclass(one.category, FmtoolWarning)]
    assert len(lines) == len(steps), lines
    for line, (step, reason) in zip(lines, steps.items(), strict=True):
        assert step in line and reason in line and "\n" not in line
    assert capfd.readouterr() == ("", "")  # torch.fx prints tracebacks


def test_folding_leaves_no_batch_norm_where_it_can() -> None:
    folded: Any = prepare(Classifier(made("resnet8")), CPU, SHAPE).network
    calls = [node.target for node in folded.graph.nodes if node.op == "call_module"]
    assert calls and not any(isinstance(folded.get_submodule(name), nn.BatchNorm2d) for name in calls)


def test_drawn_numbers_are_drawn_anew_by_the_prepared_network() -> None:
    torch.manual_seed(0)
    with pytest.warns(FmtoolWarning, match=FOLDED):
        ready = prepare(Classifier(with_statistics(DrawsNumbers())), CPU, SHAPE)
    images = torch.rand(2, *SHAPE)
    assert not torch.equal(ready(images), ready(images))


class Stops(Base):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("a key\nand more")


class WithoutGradient(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_what_a_forward_raises_is_one_line_that_names_it() -> None:
    with pytest.raises(ModelError, match=r"^the network's forward raised KeyError: 'a key\\nand more'$"):
        prepare(Classifier(Stops()), CPU, SHAPE)
    with pytest.warns(FmtoolWarning):
        ready = prepare(Classifier(WithoutGradient().eval()), CPU, SHAPE)
    with pytest.raises(ModelError, match="logits have no gradient with respect to its images"):
        input_gradient(ready)(torch.rand(2, *SHAPE), torch.arange(2))


class NotCopied(Base):
    def __deepcopy__(self, memo: object) -> None:
        raise RuntimeError("holds a lock")


def test_a_network_that_cannot_be_copied_is_told() -> None:
    with pytest.raises(ModelError, match="the network can't be copied: RuntimeError: holds a lock"):
        prepare(Classifier(NotCopied()), CPU, SHAPE)


def test_training_takes_a_network_that_flattens_by_view() -> None:
    images, labels = torch.rand(16, *SHAPE), torch.arange(16) % 5
    classifier = Classifier(FlattensByView())
    before = copy.deepcopy(classifier.network.state_dict())
    with pytest.warns(FmtoolWarning, match=LAYOUT):
        train(classifier, images, labels, RECIPES["one-cycle"].__class__("sgd", "steps", 0.1, 0.0, epochs=1, batch=8))
    assert not torch.equal(before["linear.weight"], classifier.network.state_dict()["linear.weight"])
