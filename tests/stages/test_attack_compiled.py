"""`attack --compile`: when, judged by what, the same bytes; and what reads such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compilers import as_it_is, needs_compiler
from small_files import load
from torch import Tensor, nn

import fmtool
from fmtool.attacks.registry import FAILED, OK, WRONG_BEFORE
from fmtool.datasets.data import Data
from fmtool.errors import AttackError
from fmtool.models import compiled_classifier, compiling
from fmtool.models.classifier import predict
from fmtool.models.compiled_classifier import CompiledClassifier
from fmtool.runtime.shards import Shard
from fmtool.stages import prepare

PGD: dict[str, Any] = {"attack": "pgd", "epsilon": 0.3, "attack_options": {"steps": 3, "rel_stepsize": 0.4}}


def digits(limit: int = 30) -> Data:
    return fmtool.load_data("digits:test", limit=limit)


class Turned(nn.Module):
    """Stands for a compiled classifier, and can be told from the plain one: it exchanges classes 0 and 1."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images)
        return torch.cat([logits[:, :2].flip(1), logits[:, 2:]], dim=1)


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_classifier, "compiled", lambda classifier, *_: Turned(classifier).eval())


@pytest.mark.slow
def test_it_is_done_where_there_is_enough_work(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By images times steps, of all shards together; and recorded."""
    model, asked = load(files, "model"), list[bool]()
    monkeypatch.setattr(
        compiled_classifier, "compiled", lambda classifier, *_: asked.append(True) or Turned(classifier).eval()
    )
    for pays_from, given, expected in ((1 + 2 * 30 * 3 * 64, None, False), (2 * 30 * 3 * 64, None, True), (2**60, True, True),
                                       (1, False, False)):  # fmt: skip
        monkeypatch.setattr(compiling, "PAYS_FROM", pays_from)
        for shard in (None, Shard(2, 3)):
            made = fmtool.attack(model, digits(), **PGD, compile_=given, execution=fmtool.Execution(shard=shard))
            assert made.history[-1]["options"]["--compile"] is expected and bool(asked) is expected
            asked.clear()
    made = fmtool.attack(model, digits(), attack="deepfool", attack_options={"steps": 1})
    assert made.history[-1]["options"]["--compile"] is False and not asked


def test_what_is_recorded_is_what_ran(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compiling fails the plain network runs, and who reads the file is to run that too."""
    model, data = load(files, "model"), digits()
    monkeypatch.setattr(compiling, "compiled", lambda *_, **__: None)
    few = {"min_steps": 1, "max_steps": 2}
    made = fmtool.attack(model, data, **PGD, compile_=True)
    for artifact in (
        made,
        fmtool.fit_masks(model, made, compile_=True, **few),  # type: ignore[arg-type]
        fmtool.class_masks(model, made, compile_=True, **few),  # type: ignore[arg-type]
        fmtool.heatmap(model, digits(3), compile_=True),
    ):
        assert artifact.history[-1]["options"]["--compile"] is False
    assert made.digest == fmtool.attack(model, data, **PGD, compile_=False).digest


def test_attacks_that_run_only_uncompiled_say_so(files: Path) -> None:
    with pytest.raises(AttackError, match="--compile: deepfool doesn't follow the gradient of one loss"):
        fmtool.attack(load(files, "model"), digits(), attack="deepfool", compile_=True)


@pytest.mark.slow
def test_the_compiled_network_is_what_judges(files: Path, turned: None) -> None:
    """What is right before, and what succeeded; `defend` and `check-masks` run what the attack ran."""
    model = load(files, "model")
    plain, made = (fmtool.attack(model, digits(), **PGD, compile_=form) for form in (False, True))
    clean = plain["clean_predictions"]
    assert torch.equal(made["clean_predictions"], torch.where(clean < 2, 1 - clean, clean))
    ready = prepare.ready_model(model, fmtool.Execution())
    after = predict(ready.network(True), made["adversarial"], ready.batch, ready.device)
    right = made["clean_predictions"] == made["labels"]
    assert torch.equal(made["adversarial_predictions"], after) and 0 < int(right.sum()) < len(right)
    status = torch.where(right, torch.where(after == made["labels"], FAILED, OK), WRONG_BEFORE)
    assert torch.equal(made["status"], status)
    attacks = [plain, made]
    table = fmtool.defend(model, attacks, [load(files, "plain")])
    assert torch.equal(table["predictions"][0, 0], plain["clean_predictions"])  # as the first attack has it
    for row, file in enumerate(attacks, start=1):
        assert torch.equal(table["predictions"][row, 0], file["adversarial_predictions"])
    few = {"min_steps": 0, "max_steps": 0}
    for file in attacks:
        for purpose in ("essential", "adversarial"):
            masks = fmtool.fit_masks(model, file, for_=purpose, **few)
            no_filter = fmtool.check_masks(model, file, masks, draws=1).controls[0]
            assert no_filter.name == "no filter" and no_filter.preserved.value == 1


@pytest.mark.slow
def test_the_two_pass_classifier_is_attacked_alike(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that compile nothing give the bits of an uncompiled attack, though autograd never sees the network."""
    monkeypatch.setattr(compiling, "compiled", as_it_is)
    model, robust = load(files, "model"), load(files, "robust")
    few: dict[str, Any] = {"epsilon": 0.3, "restarts": 2, "attack_options": {"steps": 4}}
    plain, made = (fmtool.attack(model, digits(), defense=robust, **few, compile_=form) for form in (False, True))
    for name in plain.tensors:
        assert torch.equal(plain[name], made[name])
    assert made.header == plain.header and made.header["defense"]["found"]["two_pass"] > 0


@pytest.mark.processes
@needs_compiler
@pytest.mark.parametrize("more", [{"attack": "fmn", "attack_options": {"steps": 20}}, PGD, {"defense": "robust"}])
def test_compiled_attacks_are_the_same_in_shards_and_resumed(
    more: dict[str, Any], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = load(files, "model"), tmp_path / "attack"
    if "defense" in more:
        more = {"defense": load(files, "robust"), "epsilon": 0.3, "restarts": 1, "attack_options": {"steps": 3}}

    def run(**execution: Any) -> fmtool.Artifact:
        how = fmtool.Execution(batch_size=8, device="cpu", **execution)
        return fmtool.attack(model, digits(), **more, compile_=True, execution=how)

    whole = run()
    assert int((whole["status"] == OK).sum()) > 0
    shards = [run(shard=Shard(number, 3)) for number in (1, 2, 3)]
    assert fmtool.merge(shards).digest == whole.digest
    judge, die = CompiledClassifier.forward, iter([False] * 18 + [True] * 100)

    def dying(network: CompiledClassifier, images: Tensor) -> Tensor:
        if next(die):
            raise KeyboardInterrupt
        return judge(network, images)

    monkeypatch.setattr(CompiledClassifier, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        run(output=str(target))
    monkeypatch.setattr(CompiledClassifier, "forward", judge)
    assert (tmp_path / ".attack.resume").exists()
    assert run(output=str(target)).digest == whole.digest
