"""Networks that store something during their forward pass, in threads that almost certainly meet between writing and reading."""

from __future__ import annotations

import copy
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from attacking import attack
from torch import Tensor, nn

from fmtool.masks.class_fitting import Part, fit_class_masks
from fmtool.masks.fitting import fit_masks
from fmtool.masks.heatmap import Evaluation, sensitivity
from fmtool.masks.optimisation import FitOptions
from fmtool.models import replicas
from fmtool.models.classifier import Classifier, predict, prepare
from fmtool.models.registry import ARCHITECTURES
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL

CPU = torch.device("cpu")
PAUSE = 0.002  # seconds between writing and reading
SETTINGS = [8, 1]


class Stored(nn.Module):
    """Adds to its logits what it has stored; the networks below differ in where that is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 8)
        self.kept: list[Tensor] = []
        self.register_buffer("last", torch.zeros(0))

    def store(self, x: Tensor) -> None:
        self.kept.append(x)

    def read(self) -> Tensor:
        return self.kept.pop()

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        self.store(x)
        time.sleep(PAUSE)
        return self.second(x.relu()) + self.read().flip(1)


class InAnAttribute(Stored):
    def store(self, x: Tensor) -> None:
        self.h = x

    def read(self) -> Tensor:
        return self.h


class InABuffer(Stored):
    def store(self, x: Tensor) -> None:
        self.last = self.last.detach()
        self.last.resize_(x.shape).copy_(x.detach())

    def read(self) -> Tensor:
        return self.last


class InItsClass(Stored):
    everywhere: ClassVar[list[Tensor]] = []

    def store(self, x: Tensor) -> None:
        self.everywhere.append(x)

    def read(self) -> Tensor:
        return self.everywhere.pop()


GLOBAL: list[Tensor] = []


class InItsModule(Stored):
    def store(self, x: Tensor) -> None:
        GLOBAL.append(x)

    def read(self) -> Tensor:
        return GLOBAL.pop()


LATEST: Any = None


class InAVariable(Stored):
    def store(self, x: Tensor) -> None:
        global LATEST
        LATEST = x

    def read(self) -> Tensor:
        return LATEST  # type: ignore[no-any-return]


class ByAHook(Stored):
    def __init__(self) -> None:
        super().__init__()
        given: list[Tensor] = []
        self.first.register_forward_hook(lambda _, __, output: given.append(output))
        self.take = given.pop

    def store(self, x: Tensor) -> None: ...

    def read(self) -> Tensor:
        return self.take()


class ByAClassMethod(Stored):
    everywhere: ClassVar[list[Tensor]] = []

    @classmethod
    def push(cls, x: Tensor) -> None:
        cls.everywhere.append(x)

    def store(self, x: Tensor) -> None:
        self.push(x)

    def read(self) -> Tensor:
        return self.everywhere.pop()


class InAListWithinAFunction(InItsModule):
    def store(self, x: Tensor) -> None:
        for store in [lambda one: GLOBAL.append(one)]:
            store(x)


OUTSIDE = Stored()


class InANetworkOutside(Stored):
    def forward(self, images: Tensor) -> Tensor:
        return OUTSIDE(images)  # type: ignore[no-any-return]


class NotCopied(Stored):
    def __deepcopy__(self, memo: object) -> None:
        raise RuntimeError("holds a lock")


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Stored()
        network.first = nn.utils.weight_norm(network.first)
    return network


def parametrised() -> nn.Module:
    network = Stored()
    network.first = nn.utils.parametrizations.weight_norm(network.first)
    return network


TAKING_TURNS = (
    InItsClass, ByAClassMethod, InItsModule, InAListWithinAFunction, InANetworkOutside, InAVariable, ByAHook, NotCopied,
)  # fmt: skip
KINDS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": weight_normed,
    "parametrised": parametrised,
    **{kind.__name__: kind for kind in (Stored, InAnAttribute, InABuffer, *TAKING_TURNS)},
}
IMAGES, LABELS = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 8
FEW = FitOptions(lambda_=0.1, batch=4, min_steps=2, max_steps=4)


def classifier(name: str) -> Classifier:
    return Classifier(KINDS[name]()).eval().requires_grad_(False)


def of_predict(network: Classifier) -> list[Tensor]:
    return [predict(network, IMAGES, 2, CPU)]


def of_attack(network: Classifier) -> list[Tensor]:
    labels = predict(network, IMAGES, 2, CPU)
    attacked = attack(network, IMAGES, labels, "fmn", batch=2, steps=5)
    return [torch.as_tensor(attacked.adversarial[:]), attacked.adversarial_predictions, attacked.status]


def of_fit_masks(network: Classifier) -> list[Tensor]:
    return list(vars(fit_masks(network, IMAGES, LABELS, FEW)).values())


def of_class_masks(network: Classifier) -> list[Tensor]:
    return list(fit_class_masks(network, [Part(IMAGES, LABELS, LABELS)], range(8), FEW).tensors().values())


def of_heatmap(network: Classifier) -> list[Tensor]:
    asked = Evaluation(network, 8, CPU, None, NO_JOURNAL)
    return list(vars(sensitivity(asked, IMAGES[:4], LABELS[:4], range(4), 1.0, filters=False)).values())


PASSES = {one.__name__: one for one in (of_predict, of_attack, of_fit_masks, of_class_masks, of_heatmap)}


def check(name: str, of: str, set_threads: Callable[[int], None]) -> None:
    set_threads(1)
    alone = PASSES[of](classifier(name))
    set_threads(4)
    together = PASSES[of](classifier(name))
    for one, other in zip(alone, together, strict=True):
        if of == "of_fit_masks":  # in other slots, where a row of a product may be rounded otherwise
            torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=1e-5)
        else:
            assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@pytest.mark.filterwarnings("ignore::fmtool.errors.FmtoolWarning")
@pytest.mark.parametrize("of", PASSES)
def test_every_pass_gives_what_one_thread_gives(of: str, set_threads: Callable[[int], None]) -> None:
    check("Stored", of, set_threads)


@pytest.mark.filterwarnings("ignore::fmtool.errors.FmtoolWarning")
@pytest.mark.parametrize("name", KINDS)
def test_wherever_a_network_stores_it(name: str, set_threads: Callable[[int], None]) -> None:
    check(name, "of_predict", set_threads)


def in_two_workers(network: nn.Module) -> list[Any]:
    """What each of two workers has of a network after a pass."""
    met = threading.Barrier(2, timeout=30)

    def one(_: int) -> Any:
        met.wait()
        replicas.forward(network, IMAGES[:2])
        return (threads.own() or {})[id(network)][1]

    with threads.pool(CPU, 2) as pool:
        return list(pool.map(one, range(2)))


def test_replicas_share_the_weights_and_last_as_long_as_their_pool() -> None:
    network = classifier("Stored").network
    one, other = in_two_workers(network)
    assert one is not other and network not in (one, other)
    for replica in (one, other):
        assert all(a is b for a, b in zip(network.parameters(), replica.parameters(), strict=True))
    assert threads.own() is None and replicas.forward(network, IMAGES).shape == (24, 8)
    with threads.pool(CPU, 1) as pool:
        assert pool.submit(threads.own).result() is None


@pytest.mark.parametrize("name", KINDS)
def test_where_copies_do_not_help_workers_take_turns(name: str) -> None:
    expected = name in [kind.__name__ for kind in TAKING_TURNS]
    assert [replica is None for replica in in_two_workers(classifier(name).network)] == [expected, expected]


def test_a_graph_of_torchs_layers_stores_nothing() -> None:
    """So that prepared networks, which most are, are not copied at all."""
    network = prepare(Classifier(ARCHITECTURES["resnet8"].build(1, 10)), CPU, (1, 8, 8)).network
    assert in_two_workers(network) == [network, network]


class Quantised(nn.Module):
    """Scales its activations by their maximum, which it keeps in a buffer; torch.fx records that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 8)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        self.scale.copy_(x.abs().max())
        return self.last((x / self.scale).flatten(1))


def test_a_graph_that_fills_a_buffer_is_copied() -> None:
    network = prepare(Classifier(Quantised()).eval(), CPU, (1, 8, 8)).network
    assert isinstance(network, torch.fx.GraphModule)
    one, other = in_two_workers(network)
    assert len({id(network), id(one), id(other)}) == 3 and None not in (one, other)
    assert one.scale is not network.scale and one.conv.weight is network.conv.weight


def test_settings_and_layers_of_a_network_are_no_stores() -> None:
    class Usual(nn.Module):
        names: ClassVar[list[str]] = ["a", "b"]

        def __init__(self) -> None:
            super().__init__()
            self.act = nn.functional.relu
            self.scale = lambda x: x / SETTINGS[0]
            self.linear = nn.Linear(64, 8)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.scale(self.act(self.linear(x.flatten(1)))) * len(self.names)

    network = Usual().eval()
    assert network not in in_two_workers(network) and None not in in_two_workers(network)


def test_a_network_that_fails_fails_in_a_replica_too() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no")

    with threads.pool(CPU, 2) as pool, pytest.raises(Exception, match="forward raised KeyError: 'no'"):
        pool.submit(Classifier(Fails()).eval(), IMAGES).result()


def test_a_classifier_is_copied_and_pickled_after_its_passes() -> None:
    network = classifier("Stored")
    expected = predict(network, IMAGES, 2, CPU)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(predict(again, IMAGES, 2, CPU), expected)


def test_a_worker_has_its_replica_also_while_another_thread_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has one flag for the whole process."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    network = InAnAttribute().eval().requires_grad_(False)
    with threads.pool(CPU, 2) as pool:
        pool.submit(replicas.forward, network, torch.rand(2, 1, 8, 8)).result()
    assert not hasattr(network, "h")
