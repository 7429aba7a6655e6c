"""Attacks against Foolbox called directly, against a closed form, and what becomes of images that can't be attacked."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import Dying
from torch import Tensor, nn

import fmtool
from fmtool.attacks import foolbox as attacks
from fmtool.attacks import registry
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.rows import row_seed
from fmtool.errors import AttackError, FmtoolWarning
from fmtool.runtime.journal import Tensors

CPU = torch.device("cpu")
BOUNDS = (0, 1)


@pytest.fixture(scope="module")
def trained(files: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The small model as every stage runs it, and 16 test images that it gets right."""
    from fmtool.stages.prepare import ready_model

    run = ready_model(fmtool.read(str(files / "model.safetensors")), fmtool.Execution(device="cpu"))
    data = fmtool.load_data("digits:test", limit=40)
    images = data.pixels()
    right = (run.classifier(images).argmax(1) == data.labels).nonzero().flatten()[:16]
    return run.classifier, images[right], data.labels[right]


def attack(
    classifier: nn.Module, images: Tensor, labels: Tensor, name: str, *, epsilon: float | None = None, batch: int = 16,
    **options: Any,
) -> attacks.Attacked:  # fmt: skip
    """Through fmtool, with row seeds 0, 1, 2, ..."""
    made, _ = attacks.build(name, options)
    seeds = list(range(len(images)))
    return attacks.run(classifier, images, labels, made, epsilon=epsilon, row_seeds=seeds, batch=batch, device=CPU)


def by_foolbox(classifier: nn.Module, images: Tensor, labels: Tensor, made: Any, epsilon: float | None) -> Tensor:
    """The library as its own documentation calls it."""
    foolbox = attacks.load_foolbox()
    model = foolbox.PyTorchModel(classifier, bounds=BOUNDS, device=CPU)
    _, clipped, _ = made(model, images, labels, epsilons=epsilon)
    return clipped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "foolbox_class", "options"),
    [
        ("fmn", "LInfFMNAttack", {}),
        ("fmn", "LInfFMNAttack", {"steps": 30}),
        ("deepfool", "LinfDeepFoolAttack", {}),
        ("LinfBasicIterativeAttack", "LinfBasicIterativeAttack", {"steps": 5}),
    ],
)
def test_bitwise_equal_to_foolbox(
    trained: tuple[nn.Module, Tensor, Tensor], name: str, foolbox_class: str, options: dict[str, Any]
) -> None:
    classifier, images, labels = trained
    epsilon = 0.1 if name.startswith("Linf") else None
    found = attack(classifier, images, labels, name, epsilon=epsilon, **options)
    made = getattr(attacks.load_foolbox().attacks, foolbox_class)(**options)
    assert torch.equal(found.adversarial, by_foolbox(classifier, images, labels, made, epsilon))
    assert not torch.equal(found.adversarial, images)


def test_pgd_is_bitwise_equal_to_foolbox_from_the_same_start(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foolbox' own uniform draw is replaced by the start that fmtool drew for each image; nothing else differs."""
    classifier, images, labels = trained
    foolbox = attacks.load_foolbox()
    starts = torch.stack(
        [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(len(images))]
    )
    import eagerpy

    monkeypatch.setattr(
        eagerpy, "uniform",
        lambda like, shape, low, high: eagerpy.astensor((starts * 2 - 1) * high),
    )  # fmt: skip
    direct = by_foolbox(classifier, images, labels, foolbox.attacks.LinfPGD(), 0.2)
    monkeypatch.undo()
    assert torch.equal(attack(classifier, images, labels, "pgd", epsilon=0.2).adversarial, direct)


def test_pgds_start_hangs_on_the_image_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Other mates and another order give the same adversarial image; another seed another one."""
    classifier, images, labels = trained
    made, _ = attacks.build("pgd", {})

    def run(rows: list[int], seed: int) -> Tensor:
        seeds = [row_seed(seed, key=row, index=row) for row in rows]
        return attacks.run(
            classifier, images[rows], labels[rows], made, epsilon=0.2, row_seeds=seeds, batch=16, device=CPU
        ).adversarial

    assert torch.equal(run([3, 4, 5], 0), run([9, 5, 4, 3], 0)[[3, 2, 1]])
    assert not torch.equal(run([3], 0), run([3], 1))


def test_several_draws_for_an_image_differ_and_leave_the_first_as_it_was() -> None:
    """The seed without a trial is what files of earlier versions were made from."""
    assert row_seed(0, -5, 7) == 8370682566865628288
    assert len({row_seed(0, -5, 7, *trial) for trial in ((), (0,), (1,), ("mask", 0), ("mask", 1))}) == 5


def test_only_the_rows_asked_for_are_perturbed(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """All of those, also what the classifier gets wrong, each as `run` would."""
    classifier, images, labels = trained
    made, _ = attacks.build("pgd", {})
    rows, seeds, found = torch.tensor([9, 2, 5]), list(range(len(images))), images.clone()
    common: dict[str, Any] = {"epsilon": 0.2, "row_seeds": seeds, "batch": 2, "device": CPU}
    attacks.perturb_(classifier, found, labels, rows, made, **common)
    others = [row for row in seeds if row not in rows.tolist()]
    assert torch.equal(found[others], images[others])
    expected = attacks.run(classifier, images, labels, made, **common).adversarial
    assert torch.equal(found[rows], expected[rows])
    attacks.perturb_(classifier, found, (labels + 1) % 10, rows, made, **common)
    assert not torch.equal(found[rows], expected[rows])


@pytest.mark.parametrize("name", ["fmn", "deepfool"])
def test_minimal_perturbation_of_a_linear_classifier(name: str) -> None:
    """For logits a.x + b against 0 the smallest l-inf perturbation is |a.x + b| / |a|_1, if no pixel meets its bounds.

    Over images whose margin exceeds 0.01 the median distance is within 5 % of it. Failures count as infinitely far.
    """
    torch.manual_seed(0)
    layer = nn.Linear(64, 2, bias=True)
    with torch.no_grad():
        layer.weight[0] = torch.randn(64)
        layer.weight[1] = 0
        layer.bias[0], layer.bias[1] = -0.5 * layer.weight[0].sum(), 0
    classifier = nn.Sequential(nn.Flatten(), layer).requires_grad_(False).eval()
    images = torch.rand(200, 1, 8, 8) * 0.4 + 0.3
    gap = classifier(images)[:, 0] / layer.weight[0].abs().sum()
    chosen = gap.abs() > 0.01
    images, least = images[chosen], gap[chosen].abs()
    labels = (gap[chosen] < 0).long()
    found = attack(classifier, images, labels, name, batch=64)
    distance = (found.adversarial - images).abs().amax(dim=(1, 2, 3))
    distance[found.status == FAILED] = torch.inf
    assert len(images) > 50
    assert float(distance.median()) == pytest.approx(float(least.median()), rel=0.05)
    assert float((distance / least).median()) == pytest.approx(1, abs=0.05)


def test_images_wrong_before_are_flagged_and_left_alone(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    wrong = labels.clone()
    wrong[:5] = (wrong[:5] + 1) % 10
    found = attack(classifier, images, wrong, "pgd", epsilon=0.3)
    assert found.status[:5].tolist() == [WRONG_BEFORE] * 5
    assert torch.equal(found.adversarial[:5], images[:5])
    assert torch.equal(found.adversarial_predictions[:5], found.clean_predictions[:5])
    assert bool((found.status[5:] != WRONG_BEFORE).all())


def test_success_is_judged_on_the_stored_image(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    classifier, images, labels = trained
    found = attack(classifier, images, labels, "fmn")
    again = classifier(found.adversarial).argmax(1)
    assert torch.equal(found.adversarial_predictions, again)
    assert torch.equal(found.status == OK, again != labels)


def test_an_attack_that_fails_says_so(trained: tuple[nn.Module, Tensor, Tensor], files: Path) -> None:
    classifier, images, labels = trained
    found = attack(classifier, images, labels, "pgd", epsilon=1e-6)
    assert bool((found.status == FAILED).all())
    model = fmtool.read(str(files / "model.safetensors"))
    with pytest.warns(FmtoolWarning, match="fails on"):
        fmtool.attack(model, fmtool.load_data("digits:test", limit=20), attack="pgd", epsilon=1e-6)


def test_all_options_in_effect_are_recorded(files: Path) -> None:
    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:test", limit=10)
    made = fmtool.attack(model, data, attack="pgd", epsilon=0.3, attack_options={"steps": 7})
    assert made.header["options"] == {
        "steps": 7, "epsilon": 0.3, "random_start": True, "rel_stepsize": 0.01 / 0.3, "abs_stepsize": None,
    }  # fmt: skip
    default = fmtool.attack(model, data, attack="pgd")
    assert default.header["options"]["epsilon"] == 8 / 255


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fnm", {}, "unknown attack 'fnm' .did you mean 'fmn'"),
        ("Attack", {}, "unknown attack 'Attack' .did you mean '(?!Attack')(?!.* (Attack|FixedEpsilonAttack),)"),
        ("pgd", {"stpes": 3}, "unknown option of attack pgd 'stpes' .did you mean 'steps'"),
    ],
)
def test_unknown_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        attacks.build(name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "rel_stepsize: expected a number of at most 1e.300"),
        ("-1e301", "rel_stepsize: expected a number"),
        ("0x" + "f" * 5000, "rel_stepsize: expected a number"),  # too long to print
        ("'\\ud800'", r"rel_stepsize: expected printable text, got '.ud800'"),
        ("{[]: 1}", "can't run on this classifier, or with such an option"),  # no literal, and so text
        ("abc", "can't run on this classifier, or with such an option"),
    ],
)
def test_options_that_no_attack_or_file_takes(text: str, message: str, files: Path) -> None:
    """In one line, before the work where that can be told."""
    options = registry.parse_options({"rel_stepsize": text})
    with pytest.raises(AttackError, match=message):
        fmtool.attack(
            fmtool.read(str(files / "model.safetensors")),
            fmtool.load_data("digits", limit=10),
            attack="pgd",
            attack_options=options,
        )


def test_bounds_where_there_are_none_or_must_be(trained: tuple[nn.Module, Tensor, Tensor], files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=10)
    with pytest.raises(AttackError, match="takes no bound"):
        fmtool.attack(model, data, attack="fmn", epsilon=0.1)
    with pytest.raises(AttackError, match="needs an --epsilon"):
        fmtool.attack(model, data, attack="LinfBasicIterativeAttack")


def test_nothing_right_is_nothing_to_attack(files: Path) -> None:

    model = fmtool.read(str(files / "model.safetensors"))
    data = fmtool.load_data("digits:test", limit=20)
    attacked = fmtool.attack(model, data, attack="LinfFastGradientAttack", epsilon=0.01)
    wrong = (attacked["clean_predictions"] + 1) % 10
    with pytest.raises(AttackError, match="nothing to attack"):
        fmtool.attack(model, dataclasses.replace(data, labels=wrong), attack="fmn")


@pytest.mark.slow
def test_real_network_on_real_images(shared_data: Path) -> None:
    """The published ResNet-20 and CIFAR-10 images: clean accuracy of all 1,017; the attacks on 64, where all succeed.

    The medians over all images are 0.608/255 and 0.779/255 (measured apart); those of these 64 lie within a third of that.
    """
    model = fmtool.import_model(
        str(shared_data / "resnet20-12fca82f.th"), architecture="resnet20", mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    from fmtool.models.classifier import predict
    from fmtool.stages.prepare import ready_model

    path = str(shared_data / "cifar10-test-1017.safetensors")
    everything, run = fmtool.load_data(path), ready_model(model, fmtool.Execution(device="cpu"))
    clean = predict(run.classifier, everything.pixels(), run.batch, CPU)
    assert int((clean == everything.labels).sum()) == 932  # 91.64 %
    data = fmtool.load_data(path, limit=64)
    for name, expected in (("fmn", 0.608), ("deepfool", 0.779), ("pgd", None)):
        found = fmtool.attack(model, data, attack=name)
        right = found["status"] != WRONG_BEFORE
        assert int((found["adversarial_predictions"] == found["labels"]).sum()) == 0, name
        distance = 255 * (found["adversarial"] - found["images"]).abs().amax(dim=(1, 2, 3))[right]
        if expected is None:
            assert float(distance.max()) <= 8 * (1 + 1e-6)
        else:
            assert float(distance.median()) == pytest.approx(expected, rel=1 / 3), name


def test_deepfool_takes_one_forward_pass_a_step(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    """And the same bits as Foolbox, which takes one for each of 9 classes (`test_bitwise_equal_to_foolbox`)."""
    classifier, images, labels = trained
    passes: list[int] = []
    hook = classifier.register_forward_hook(lambda *_: passes.append(1))
    try:
        made, _ = attacks.build("deepfool", {})
        ours = by_foolbox(classifier, images, labels, made, None)
        mine, passes[:] = len(passes), []
        theirs = by_foolbox(classifier, images, labels, attacks.load_foolbox().attacks.LinfDeepFoolAttack(), None)
    finally:
        hook.remove()
    assert torch.equal(ours, theirs)
    # Foolbox: 2 passes for the start and the result, 9 a step, and one to see that all are done
    assert len(passes) - mine == 8 * ((len(passes) - 3) // 9) > 0


def test_an_error_in_a_worker_is_the_commands_error(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    _, images, labels = trained

    class Breaks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                raise RuntimeError("out of luck")
            return torch.nn.functional.one_hot(labels, 10).float()[: len(images)]

    with pytest.raises(AttackError, match="can't run on this classifier, or with such an option: out of luck"):
        attack(Breaks().eval(), images, labels, "fmn")


class Pixel(nn.Module):
    """Of single pixels, none of which is misclassified."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([1 + images, images], dim=1)[..., 0, 0]


def test_ctrl_c_does_not_wait_for_the_end_of_a_batch() -> None:
    """Which comes after a thousand passes; the classifier is left as it was."""
    passes: list[int] = []

    class Interrupting(Pixel):
        def forward(self, images: Tensor) -> Tensor:
            passes.append(len(images))
            if len(passes) == 10:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.01)
            return super().forward(images)

    classifier, images = Interrupting().eval(), torch.zeros(8, 1, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        attack(classifier, images, torch.zeros(8, dtype=torch.int64), "fmn", batch=4, steps=1000)
    assert 10 <= len(passes) < 1000
    assert not classifier._forward_pre_hooks


def test_batches_that_are_whole_when_ctrl_c_comes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Future[Any]] = []
    submit = ThreadPoolExecutor.submit

    def submitted(*arguments: Any) -> Future[Any]:
        jobs.append(submit(*arguments))
        return jobs[-1]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)

    class Interrupted(Dying):
        came = False

        def finish_all(self, parts: Mapping[str, Tensors], *, again: bool = False) -> None:
            if not self.came:
                self.came = True
                wait(jobs)
                raise KeyboardInterrupt
            super().finish_all(parts, again=again)

    journal, images = Interrupted(()), torch.zeros(6, 1, 1, 1)
    made, _ = attacks.build("pgd", {"steps": 2})
    with pytest.raises(KeyboardInterrupt):
        attacks.perturb_(
            *(Pixel().eval(), images, torch.zeros(6, dtype=torch.int64), torch.arange(6), made),
            epsilon=0.1, row_seeds=list(range(6)), batch=2, device=CPU, journal=journal,
        )  # fmt: skip
    assert len(jobs) == 3 and set(journal.parts) == set("012345")


@pytest.mark.parametrize("message", ["init_attack failed for 31 of 64 inputs", ""])
def test_an_image_without_a_starting_point_is_one_failed_attack(
    files: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are attacked as ever; counts are of the user's images, not of the padded batch."""
    data = fmtool.load_data("digits:test", limit=20)
    model, kind = fmtool.read(str(files / "model.safetensors")), attacks.load_foolbox().attacks.L2CarliniWagnerAttack
    unlucky, batches = data.pixels()[[3, 11]], list[int]()

    def attacked(self: object, model: object, inputs: Any, criterion: object, **_: object) -> Any:
        batches.append(len(inputs))
        if any(torch.equal(one, other) for one in inputs.raw for other in unlucky):
            raise ValueError(message) if message else AssertionError
        return 1 - inputs

    monkeypatch.setattr(kind, "run", attacked)
    with pytest.warns(
        FmtoolWarning, match=r"2 of \d+ images count as failed attacks: attack L2CarliniWagnerAttack can't"
    ):
        found = fmtool.attack(model, data, attack="L2CarliniWagnerAttack")
    right = found["clean_predictions"] == data.labels
    assert right[3] and right[11] and set(batches) == {256}
    assert found["status"][[3, 11]].tolist() == [2, 2]
    assert torch.equal(found["adversarial"][[3, 11]], unlucky)
    others = right.clone()
    others[[3, 11]] = False
    assert torch.equal(found["adversarial"][others], 1 - found["images"][others])
    only = fmtool.load_data("digits:test", limit=20)
    few = dataclasses.replace(only, **{n: getattr(only, n)[[3, 11]] for n in ("images", "labels", "key", "index")})
    with pytest.raises(AttackError, match="can't run on this classifier"):
        fmtool.attack(model, few, attack="L2CarliniWagnerAttack")


@pytest.mark.slow
def test_a_bound_is_in_the_attacks_own_norm(files: Path) -> None:
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=10)
    for name, epsilon, p in (("L2PGD", 3.0, 2), ("L1PGD", 12.0, 1), ("LinfPGD", 0.9, torch.inf)):
        found = fmtool.attack(model, data, attack=name, epsilon=epsilon, attack_options={"steps": 5})
        moved = torch.linalg.vector_norm((found["adversarial"] - found["images"]).flatten(1), p, dim=1)
        assert 0.5 * epsilon < float(moved.max()) <= epsilon * (1 + 1e-5)
        assert found.header["norm"] == {2: "l2", 1: "l1", torch.inf: "l-inf"}[p]
    for name, epsilon, largest in (
        ("L2PGD", 8.5, "an l2 distance above 0 and at most 8,"),
        ("L1PGD", 65, "at most 64,"),
        ("FGSM", 2, "at most 1,"),
    ):
        with pytest.raises(AttackError, match=f"--epsilon {epsilon:g}: expected .*{largest}"):
            fmtool.attack(model, data, attack=name, epsilon=epsilon)
    with pytest.raises(AttackError, match="L0FMNAttack takes no --epsilon"):
        fmtool.attack(model, data, attack="L0FMNAttack", epsilon=1, attack_options={"steps": 3})
    with pytest.raises(AttackError, match=r"needs --attack-option distance=l2 \(or l-inf, l1, l0\)"):
        fmtool.attack(model, data, attack="InversionAttack", epsilon=0.5)
    assert (
        fmtool.attack(model, data, attack="InversionAttack", attack_options={"distance": "l1"}).header["norm"] == "l1"
    )
