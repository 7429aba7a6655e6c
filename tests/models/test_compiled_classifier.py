"""Compiled classifiers as networks: which gradient autograd gets, and the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from compilers import needs_compiler
from reference import random_resnet
from torch import Tensor, nn

from fmtool.attacks.foolbox import margin
from fmtool.errors import FmtoolWarning
from fmtool.models import compiled_classifier, compiling
from fmtool.models.compiled_classifier import CompiledClassifier, labelled

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 3])


class Linear(nn.Module):
    """Logits (n, 4) of images (n, 1, 2, 2): their pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture
def marked() -> CompiledClassifier:
    """A classifier over `Linear` whose "graph" claims that the gradient of the margin is 7, and adds 100 to logits."""

    def passes(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = images.flatten(1) + 100
        return margin(logits, labels), logits, torch.full_like(images, 7)

    return CompiledClassifier(
        Linear(), lambda images: (images.flatten(1) + 100,), passes, margin, torch.Size([4, 1, 2, 2])
    )


def images() -> Tensor:
    return torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_the_losss_gradient_is_the_graphs(marked: CompiledClassifier) -> None:
    given = images()
    with labelled(LABELS):
        logits = marked(given)
    torch.testing.assert_close(logits, given.flatten(1) + 100)
    margin(logits, LABELS).sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None and (given.grad == 7).all()


def test_any_other_gradient_is_the_plain_classifiers(marked: CompiledClassifier) -> None:
    """Image by image: here of two images the loss's, of one twice that, of one another's."""
    given, weights = images(), torch.tensor([1.0, 2.0, 1.0, 0.0])
    with labelled(LABELS):
        logits = marked(given)
    (weights * margin(logits, LABELS)).sum().add(5 * logits[3, 0]).backward()
    slope = torch.autograd.functional.jacobian(lambda x: margin(x.flatten(1), LABELS)[1], given.detach())
    assert given.grad is not None
    assert (given.grad[[0, 2]] == 7).all()
    assert torch.equal(given.grad[1], 2 * slope[1])
    assert given.grad[3].flatten().tolist() == [5, 0, 0, 0]


def test_what_the_graphs_are_not_for_is_the_plain_classifiers(marked: CompiledClassifier) -> None:
    given = images()
    assert torch.equal(marked(given), given.flatten(1))  # to be differentiated, without known labels
    with labelled(LABELS):
        assert torch.equal(marked(given[:3]), given[:3].flatten(1))  # a batch of another size
        with torch.no_grad():
            assert torch.equal(marked(given), given.flatten(1) + 100)


def test_a_classifier_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compiling, "_graph", broken)
    classifier = Linear()
    with pytest.warns(FmtoolWarning, match="can't be compiled and runs uncompiled: no compiler"):
        assert compiled_classifier.compiled(classifier, (1, 2, 2), 4, CPU, margin) is classifier


@pytest.mark.processes
@needs_compiler
def test_compiled_passes_are_the_plain_ones_in_any_slot() -> None:
    """To rounding; bitwise in other slots, and the same logits whether or not they will be differentiated."""
    classifier = random_resnet(3, torch.float32)
    network = compiled_classifier.compiled(classifier, (3, 8, 8), 8, CPU, margin)
    assert isinstance(network, CompiledClassifier)
    given = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels, order = torch.arange(8), torch.tensor([5, 1, 7, 0, 2, 6, 4, 3])

    def passes(network: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with labelled(labels[rows]):
            return compiling.input_gradient(network, loss=margin)(given[rows], labels[rows])

    found, moved = passes(network, torch.arange(8)), passes(network, order)
    for one, other, plain in zip(found, moved, passes(classifier, torch.arange(8)), strict=True):
        assert torch.equal(one[order], other)
        torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(network(given), found[1])
