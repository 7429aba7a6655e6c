"""What is kept of passes over all images, before and after the work, and how much a kill can cost at any moment."""

from __future__ import annotations

import itertools
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import factory
from torch import Tensor

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.datasets.data import Data
from fmtool.errors import FmtoolWarning, MaskError
from fmtool.models.classifier import Classifier
from fmtool.runtime import resume_file, threads
from fmtool.runtime.journal import Tensors
from fmtool.runtime.resume_file import ResumeFile
from fmtool.runtime.shards import Shard

FEW: dict[str, Any] = {"min_steps": 5, "max_steps": 5}
Stage = Callable[..., Artifact]


class InterruptError(Exception):
    """Stands for whatever ends a run."""


def some(files: Path, name: str, limit: int = 60) -> tuple[Artifact, Data]:
    return fmtool.read(str(files / f"{name}.safetensors")), fmtool.load_data("digits:train", limit=limit)


def attack(files: Path, **more: Any) -> Artifact:
    execution = fmtool.Execution(batch_size=8, **more)
    return fmtool.attack(*some(files, "model"), attack="pgd", attack_options={"steps": 2}, execution=execution)


def adaptive(files: Path, **more: Any) -> Artifact:
    few: dict[str, Any] = {"restarts": 1, "epsilon": 0.08, "attack_options": {"steps": 2}}
    robust, execution = fmtool.read(str(files / "robust.safetensors")), fmtool.Execution(batch_size=8, **more)
    return fmtool.attack(*some(files, "model"), defense=robust, **few, execution=execution)


def fit_masks(files: Path, **more: Any) -> Artifact:
    execution = fmtool.Execution(batch_size=8, **more)
    return fmtool.fit_masks(*some(files, "model"), lambda_=0.1, **FEW, execution=execution)


def class_masks(files: Path, **more: Any) -> Artifact:
    return fmtool.class_masks(*some(files, "model"), **FEW, execution=fmtool.Execution(batch_size=8, **more))


def train_model(files: Path, **more: Any) -> Artifact:
    data, test = fmtool.load_data("digits:train", limit=64), fmtool.load_data("digits:all")
    few: dict[str, Any] = {"architecture": "resnet8", "recipe": "one-cycle", "epochs": 1, "batch_size": 32}
    return fmtool.train_model(data, test, **few, execution=fmtool.Execution(**more))


def head_only(files: Path, **more: Any) -> Artifact:
    model, data = some(files, "model", limit=1000)
    return fmtool.train_model(data, data, from_=model, head_only=True, epochs=1, execution=fmtool.Execution(**more))


MOST_CHECKED = 7  # images of the checks before the work, in one batch


class Passes:
    """Counts the classifier's passes in eval mode over more than the few images of a check, and dies at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.forward = Classifier.forward
        self.start(None)
        patch.setattr(Classifier, "forward", lambda network, images: self.come(network, images))

    def start(self, death: int | None) -> None:
        self.death, self.numbers, self.count = death, itertools.count(), 0

    def come(self, network: Classifier, images: Tensor) -> Tensor:
        if not network.training and len(images) > MOST_CHECKED:
            number = next(self.numbers)
            if self.death is not None and number >= self.death:
                raise InterruptError
            self.count = number + 1
        return self.forward(network, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "death", "name"),
    [(attack, 3, "clean 0"), (attack, -1, "adversarial 0"), (adaptive, 3, "clean 0"), (adaptive, -1, "adversarial 0"),
     (fit_masks, 3, "clean 0"), (class_masks, 3, "clean 0"), (train_model, -1, "test 0"), (head_only, 2, "features 0"),
     (head_only, -1, "test 0")],
)  # fmt: skip
def test_a_pass_over_all_images_goes_on(
    stage: Stage, death: int, name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the batch that it had got to, and to the same bytes; death: at which pass the first run ends, -1 the last."""
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(threads, "count", lambda device: 1)  # one batch after the other
    passes, whole, target = Passes(monkeypatch), tmp_path / "whole", tmp_path / "target"
    stage(files, output=str(whole))
    count = passes.count
    passes.start(death % count)
    with pytest.raises(InterruptError):
        stage(files, output=str(target))
    assert resume_file.saved_part(str(target), name) is not None
    passes.start(None)
    stage(files, output=str(target))
    assert passes.count <= count - death % count + 1  # the two-pass classifier takes two for a batch
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "whole"]


@pytest.mark.slow
def test_an_error_that_would_come_again_leaves_nothing(files: Path, tmp_path: Path) -> None:
    """No image is eligible: there is nothing to go on from."""
    import dataclasses

    model, data = some(files, "model", limit=20)
    attacked = fmtool.attack(model, data, attack="LinfFastGradientAttack", epsilon=0.01)
    wrong = dataclasses.replace(data, labels=(attacked["clean_predictions"] + 1) % 10)
    for stage in (fmtool.fit_masks, fmtool.class_masks):
        with pytest.raises(MaskError, match="no image is left"):
            stage(model, wrong, execution=fmtool.Execution(output=str(tmp_path / "masks")))
    with pytest.raises(fmtool.errors.AttackError, match="nothing to attack"):
        fmtool.attack(model, wrong, execution=fmtool.Execution(output=str(tmp_path / "attack")))
    with pytest.raises(fmtool.errors.FmtoolError, match="there are only"):
        fmtool.fit_masks(model, data, execution=fmtool.Execution(output=str(tmp_path / "masks"), shard=Shard(99, 99)))
    assert list(tmp_path.iterdir()) == []


class Clock:
    """A time of our own in resume files, and how old the work is that each commit puts on disk.

    What is recorded at one moment was begun when what was recorded before it was finished.
    """

    def __init__(self, patch: pytest.MonkeyPatch, step: float) -> None:
        self.now, self.step = 0.0, step
        self.kept, self.before = 0.0, 0.0
        self.begun: list[float] = []
        self.ages: list[float] = []
        record, commit = ResumeFile._record, ResumeFile.commit

        def recording(journal: ResumeFile, name: str, state: Tensors, *, again: bool = False) -> None:
            if self.kept != self.now:
                self.before, self.kept = self.kept, self.now
            self.begun.append(self.before)
            record(journal, name, state, again=again)

        def committing(journal: ResumeFile) -> None:
            self.ages += [self.now - min(self.begun)] if self.begun else []
            self.begun.clear()
            commit(journal)

        patch.setattr(resume_file, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        patch.setattr(ResumeFile, "_record", recording)
        patch.setattr(ResumeFile, "commit", committing)

    def tick(self, label: str, done: int, total: int) -> None:
        """A callback for progress: after each batch or step."""
        self.now += self.step


@pytest.mark.slow
@pytest.mark.parametrize("stage", [attack, class_masks, head_only])
def test_no_more_than_the_time_between_commits_and_one_batch_or_step_is_lost(
    stage: Stage, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes 15 s of a clock of ours; work that is on disk only 35 s after it was begun is 20 s and a batch old."""
    monkeypatch.setattr(threads, "count", lambda device: 1)
    clock = Clock(monkeypatch, 15.0)
    stage(files, output=str(tmp_path / "x"), progress=clock.tick)
    assert len(clock.ages) >= 2
    assert clock.step < max(clock.ages) <= resume_file.SECONDS_BETWEEN + clock.step


@pytest.mark.parametrize("noise", [0, 1])
def test_another_network_of_the_same_factory_begins_anew(
    noise: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are the model's, its code is not in any file. One that draws random numbers can't be told from another."""
    name, target = f"changing_{noise}", str(tmp_path / "masks")
    forward = "x = images.flatten(1)\nreturn self.linear(scale * x - 0.1 * NOISE * torch.rand_like(x))"
    (tmp_path / f"{name}.py").write_text(factory(forward.replace("NOISE", str(noise)), "scale = 1.0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume_file, "SECONDS_BETWEEN", 0.0)
    model = fmtool.import_model(f"{name}:make", input_shape=(1, 8, 8))
    data = fmtool.load_data("digits:train", limit=60)

    def stop(label: str, done: int, total: int) -> None:
        raise InterruptError

    def interrupted() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if noise else "error")
            execution = fmtool.Execution(factory=f"{name}:make", output=target, progress=stop)
            with pytest.raises(InterruptError):
                fmtool.class_masks(model, data, min_steps=50, max_steps=50, execution=execution)

    interrupted()
    interrupted()  # the same network resumes
    monkeypatch.setattr(sys.modules[name], "scale", 2.0)
    if noise:
        interrupted()
    else:
        with pytest.raises(FmtoolWarning, match="starting over"):
            interrupted()
