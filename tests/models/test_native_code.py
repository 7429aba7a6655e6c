"""Functions as libraries: known by their operations, the same numbers, found again without a compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compilers import needs_compiler
from reference import random_resnet
from torch import Tensor, nn

from fmtool.errors import FmtoolWarning
from fmtool.masks.levels import make_levels
from fmtool.masks.optimisation import FitOptions
from fmtool.models import compiling, native_code, replicas
from fmtool.models.native_code import Record
from fmtool.runtime import threads

CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([3, 1])


def recorded(classifier: nn.Module, images: Tensor = IMAGES, targets: Tensor = TARGETS) -> Record:
    weights = [*classifier.parameters(), *classifier.buffers()]
    return native_code.record(compiling.input_gradient(classifier), [images, targets], weights)


def with_other_weights() -> nn.Module:
    classifier = random_resnet(3, torch.float32)
    for one in classifier.parameters():
        one.data.mul_(0.9)
    return classifier


def scaled(by: Tensor) -> tuple[str, ...]:
    """The operations of a function that multiplies by a tensor of its own."""
    return native_code.record(lambda images: (images * by,), [IMAGES], []).operations


def test_a_record_holds_the_results_and_the_backward_pass() -> None:
    classifier = random_resnet(3, torch.float32)
    found, expected = recorded(classifier), compiling.input_gradient(classifier)(IMAGES, TARGETS)
    assert all(torch.equal(one, other) for one, other in zip(found.results, expected, strict=True))
    assert any("convolution_backward" in line for line in found.operations)
    assert not found.fixed and not any(found.in_place)
    weights = [*classifier.parameters(), *classifier.buffers()]
    assert {id(one) for one in found.used} <= {id(one) for one in weights} and len(found.used) == 18


def test_a_function_is_known_by_its_operations_and_layouts_and_not_by_numbers_that_it_is_given() -> None:
    first = recorded(random_resnet(3, torch.float32)).operations
    assert recorded(with_other_weights(), IMAGES / 2, TARGETS.flip(0)).operations == first
    wider = torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    for images in (IMAGES[:1], IMAGES.transpose(2, 3), wider):
        assert recorded(random_resnet(3, torch.float32), images, TARGETS[: len(images)]).operations != first
    assert recorded(random_resnet(3, torch.float64), IMAGES.double()).operations != first


def test_a_tensor_of_the_functions_own_counts_with_its_numbers() -> None:
    assert scaled(torch.full((1,), 2.0)) == scaled(torch.full((1,), 2.0))
    assert scaled(torch.full((1,), 2.0)) != scaled(torch.full((1,), 3.0))
    assert scaled(torch.full((1,), 2.0)) != scaled(torch.full((1, 1), 2.0))
    # a conjugate view holds other numbers than it shows
    one = torch.tensor([1 + 2j])
    assert scaled(one.conj()) != scaled(one) != scaled(one.conj().resolve_conj())


def test_equal_tensors_of_its_own_are_two() -> None:
    """They may differ once the function has changed one of them."""

    def adding(changed: bool) -> tuple[str, ...]:
        pair = [torch.tensor(0.0), torch.tensor(0.0)]

        def function(images: Tensor) -> tuple[Tensor]:
            pair[0].add_(images.sum())
            return (images + pair[not changed],)

        return native_code.record(function, [IMAGES], []).operations

    assert adding(True) == adding(True) != adding(False)


def test_a_tensor_of_another_class_cannot_be_recorded() -> None:
    class Other(Tensor):
        pass

    with pytest.raises(RuntimeError, match="a tensor of the class Other"):
        native_code.record(lambda images: (images * 2,), [IMAGES.as_subclass(Other)], [])


def test_changed_inputs_are_told_apart() -> None:
    def function(one: Tensor, other: Tensor) -> None:
        one.add_(other)

    found = native_code.record(function, [IMAGES.clone(), IMAGES], [])
    assert found.in_place == (True, False) and found.results == ()


def test_a_worker_records_the_network_itself() -> None:
    """Rather than its own replica, whose buffers are copies."""

    class Storing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, images: Tensor) -> Any:
            self.last = images * self.scale
            return self.last

    network = Storing()

    def used() -> tuple[Tensor, ...]:
        return native_code.record(lambda images: (replicas.forward(network, images),), [IMAGES], [network.scale]).used

    with threads.pool(CPU, 2) as pool:
        (one,) = pool.submit(used).result()
    assert one is network.scale


@pytest.mark.processes
@needs_compiler
def test_a_library_serves_other_weights_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for classifier in (random_resnet(3, torch.float32), with_other_weights()):
        plain = compiling.input_gradient(classifier)
        with compiling.quiet():
            call = native_code.library(plain, [IMAGES, TARGETS], recorded(classifier), tmp_path)
        assert call is not None and [path.name for path in tmp_path.iterdir()] == [native_code.LIBRARY]
        monkeypatch.setattr(native_code, "_make", None)  # from now on it is found
        with threads.pool(CPU, 2) as pool:
            images = [IMAGES, IMAGES / 2, IMAGES.transpose(0, 1).contiguous().transpose(0, 1)] * 4
            results = list(pool.map(call, images, [TARGETS] * 12))
        for given, found in zip(images, results, strict=True):
            for one, other in zip(found, plain(given, TARGETS), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert all(map(torch.equal, results[0], results[2]))  # of another layout
        torch.testing.assert_close(
            call(torch._neg_view(IMAGES), TARGETS), plain(-IMAGES, TARGETS), rtol=1e-4, atol=1e-5
        )
        for given in ((IMAGES[:1], TARGETS[:1]), (IMAGES.double(), TARGETS)):
            with pytest.raises(ValueError, match=r"compiled for \(torch.float32, .*\[2, 3, 8, 8\]"):
                call(*given)
        for given in ((), (IMAGES,), (IMAGES, TARGETS, TARGETS)):
            with pytest.raises(ValueError, match="compiled for 2 tensors, not for"):
                call(*given)
        weight = next(one for one in classifier.parameters() if one.ndim == 4)
        weight.data = weight.data.transpose(2, 3).contiguous().transpose(2, 3)
        assert all(map(torch.equal, results[0], call(IMAGES, TARGETS)))


@pytest.mark.processes
@needs_compiler
def test_a_library_changes_its_inputs_in_place_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(one: Tensor) -> None:
        one.mul_(2)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with compiling.quiet():
        call = native_code.library(function, [IMAGES], native_code.record(function, [IMAGES.clone()], []), tmp_path)
    assert call is not None
    given = IMAGES.clone()
    assert call(given) == () and torch.equal(given, 2 * IMAGES)
    for other in (IMAGES.clone().transpose(2, 3), torch._neg_view(IMAGES.clone())):
        with pytest.raises(ValueError, match="compiled for"):
            call(other)


@pytest.mark.processes
@needs_compiler
@pytest.mark.parametrize("basis", ["fourier", "phase"])
def test_a_step_of_a_fit_is_a_library(basis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each start would trace it again, and each narrower batch would be compiled for itself."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    options = FitOptions(0.05, 8, 3, 6, compile_=True, basis=basis)
    levels = make_levels(random_resnet(3, torch.float32), IMAGES, TARGETS, options, CPU)
    assert levels.first.options.compile_ and list(tmp_path.rglob(native_code.ANY_NUMBER))
    narrower = levels.narrower(3, 8, int)
    assert narrower is not None and narrower.options.batch == 4 and len(list(tmp_path.rglob("*.so"))) == 1


@pytest.mark.processes
@needs_compiler
def test_a_library_takes_other_numbers_of_images_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number is tried first, as the function may do something else then; one image is compiled for itself."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    classifier = random_resnet(3, torch.float32)
    plain = compiling.input_gradient(classifier)
    many = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    call = compiling.compiled(plain, *many, network=classifier, any_number=True)
    assert compiling.takes_any_number(call)
    images, targets = many[0][:6], many[1][:6]
    assert compiling.compiled(plain, images, targets, network=classifier, wider=call) is call
    for found, expected in zip(call(images, targets), plain(images, targets), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for given in (
        (images, TARGETS),
        (images[:0], targets[:0]),
        (images[:1], targets[:1]),
        (torch.cat([many[0], images]), torch.cat([many[1], targets])),
        (images[:, :, :4], targets),
        (images, targets.float()),
    ):
        with pytest.raises(ValueError, match="compiled for"):
            call(*given)
    one = compiling.compiled(plain, IMAGES[:1], TARGETS[:1], network=classifier, wider=call)
    assert one is not None and not compiling.takes_any_number(one)

    def otherwise(images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return tuple((1 + (len(images) < 20)) * one for one in plain(images, targets))

    with pytest.warns(FmtoolWarning, match="it computes something else"):
        assert compiling.compiled(otherwise, images, targets, network=classifier, wider=call) is None


@pytest.mark.processes
@needs_compiler
def test_a_function_of_one_number_of_images_is_compiled_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes for granted of the number isn't looked at again, so that it would read beyond fewer images."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    functions: list[Callable[[Tensor], tuple[Tensor]]] = [
        lambda images: (images * weight,),
        lambda images: (images * 2 if len(images) == 6 else images,),
        lambda images: (images * 2 if len(images) > 4 else images,),
        lambda images: (images - images[:4].mean(0),),
        lambda images: (torch.cat([2 * part for part in images.split(4)]),),
    ]
    for function in functions:
        call = compiling.compiled(function, images, network=nn.Identity(), any_number=True)
        assert isinstance(call, native_code.Library) and not call.any_number
        torch.testing.assert_close(call(images)[0], function(images)[0])


@pytest.mark.processes
@needs_compiler
def test_what_would_call_python_is_left_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(images: Tensor) -> tuple[Tensor]:
        return (torch.fft.irfft2(images.to(torch.complex64), s=(8, 8)),)

    spectrum = IMAGES[..., :5].contiguous()
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    call = compiling.compiled(function, spectrum, network=nn.Identity())
    assert call is not None
    torch.testing.assert_close(call(spectrum), function(spectrum))
    assert list(tmp_path.rglob(native_code.UNSUITABLE)) and not list(tmp_path.rglob(native_code.LIBRARY))


@pytest.mark.processes
@needs_compiler
def test_what_cannot_be_a_library_is_left_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an error of the compiler's")

    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    monkeypatch.setattr("torch._inductor.aot_compile", broken)
    classifier = random_resnet(3, torch.float32)
    assert compiling.compiled(compiling.input_gradient(classifier), IMAGES, TARGETS, network=classifier) is not None
    assert list(tmp_path.rglob(native_code.UNSUITABLE))


@pytest.mark.processes
@needs_compiler
def test_code_is_for_the_layout_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not that of a part of a tensor."""
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    whole = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    for given in (whole[:, ::2], whole[:, :32].clone()):
        call = compiling.compiled(lambda images: (images * 2,), given, network=nn.Identity())
        assert call is not None and torch.equal(call(given)[0], 2 * given)


@pytest.mark.processes
@needs_compiler
@pytest.mark.parametrize("fault", ["record", "Library.__init__"])
def test_what_fails_on_the_way_is_left_to_torch(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("not to be loaded")

    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    monkeypatch.setattr(f"fmtool.models.native_code.{fault}", broken)
    call = compiling.compiled(lambda images: (images.sin(),), IMAGES, network=nn.Identity())
    assert call is not None
    torch.testing.assert_close(call(IMAGES)[0], IMAGES.sin())
    assert bool(list(tmp_path.rglob(native_code.LIBRARY))) is (fault != "record")


def test_a_library_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(
        function: Callable[..., tuple[Tensor]], _: object, __: object, folder: Path, **___: object
    ) -> Callable[..., tuple[Tensor]]:
        (folder / native_code.LIBRARY).touch()
        return lambda images: (function(images)[0] + 1,)

    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    monkeypatch.setattr(native_code, "library", other)
    with pytest.warns(FmtoolWarning, match="it computes something else"):
        assert compiling.compiled(lambda images: (images.sin(),), IMAGES, network=nn.Identity()) is None
    assert not list(tmp_path.rglob(native_code.LIBRARY))


SECOND_START = """
import sys, torch
from fmtool.errors import FmtoolWarning
from fmtool.models import compiling
network = torch.nn.Linear(4, 2)
call = compiling.compiled(lambda images: (network(images).relu(),), torch.ones(3, 4), network=network)
assert call is not None
torch.testing.assert_close(call(torch.ones(3, 4))[0], network(torch.ones(3, 4)).relu())
print(*(name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules))
"""


@pytest.mark.processes
@needs_compiler
def test_a_second_start_imports_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTOOL_CACHE", str(tmp_path))
    command = [sys.executable, "-c", SECOND_START]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in "12")
    assert first and not second
