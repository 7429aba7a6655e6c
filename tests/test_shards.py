"""Shards: each is what the whole job would have at its rows, and merge makes the whole job's file of them."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, AttackError, FmtoolError, FmtoolWarning
from fmtool.runtime.shards import Shard

FIT: dict[str, Any] = {"lambda_": 0.1, "min_steps": 40, "max_steps": 90, "perturb": 0.01}


@pytest.fixture(scope="module")
def model(files: Path) -> Artifact:
    return fmtool.read(str(files / "model.safetensors"))


@pytest.fixture(scope="module")
def parts(files: Path, model: Artifact) -> list[Artifact]:
    """Three shards of masks of 40 images."""
    attack = fmtool.read(str(files / "fmn.safetensors"))
    return [
        fmtool.fit_masks(
            model, attack, limit=40, **FIT, execution=fmtool.Execution(batch_size=8, shard=Shard(number, 3))
        )
        for number in (1, 2, 3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"attack": "fmn"}, {"attack": "deepfool"}, {"attack": "pgd", "epsilon": 0.2},
             {"defense": "robust", "restarts": 2, "epsilon": 0.08}],
    ids=["fmn", "deepfool", "pgd", "adaptive"],
)  # fmt: skip
@pytest.mark.parametrize("count", [2, 5])
def test_shards_of_an_attack_make_the_whole_files_bytes(
    more: dict[str, Any], count: int, model: Artifact, files: Path, tmp_path: Path
) -> None:
    """Each image beside other mates, in batches that are padded in other places."""
    data = fmtool.load_data("digits:test", limit=43)
    if "defense" in more:
        more = {**more, "defense": fmtool.read(str(files / "robust.safetensors"))}
    whole = fmtool.attack(model, data, **more, execution=fmtool.Execution(batch_size=8))
    shards = [
        fmtool.attack(model, data, **more, execution=fmtool.Execution(batch_size=8, shard=Shard(number, count)))
        for number in range(1, count + 1)
    ]
    assert [len(part["key"]) for part in shards] == [len(range(number, 43, count)) for number in range(count)]
    assert shards[1].header["shard"] == {"number": 2, "of": count, "rows": 43}
    assert shards[1].history == whole.history
    found = fmtool.merge(shards[::-1], execution=fmtool.Execution(output=str(tmp_path / "merged")))
    fmtool.write(whole, str(tmp_path / "whole"))
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    assert found.digest == whole.digest


@pytest.mark.slow
def test_shards_of_masks_make_the_whole_files_bytes(files: Path, model: Artifact, parts: list[Artifact]) -> None:
    """In any order of the files; the choice of compiling and the limit are those of the whole job."""
    whole = fmtool.fit_masks(
        model, fmtool.read(str(files / "fmn.safetensors")), limit=40, **FIT, execution=fmtool.Execution(batch_size=8)
    )
    for order in ((0, 1, 2), (2, 0, 1)):
        assert fmtool.merge([parts[number] for number in order]).digest == whole.digest
    assert torch.equal(parts[1]["masks"], whole["masks"][1::3])


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 10])
@pytest.mark.parametrize("robust", [False, True], ids=["plain", "robust"])
def test_shards_of_class_masks_make_the_whole_files_bytes(
    robust: bool, count: int, model: Artifact, files: Path, tmp_path: Path
) -> None:
    """Other classes share their batches; of the data, one class has no images."""
    attack, data = fmtool.read(str(files / "fmn.safetensors")), fmtool.load_data("digits:train", limit=150)
    data = dataclasses.replace(data, labels=torch.where(data.labels == 3, 5, data.labels))  # predicted as 3, so wrong
    source: Any = attack if robust else data
    more: dict[str, Any] = {"robust": robust, "lambda_": 0.01, "min_steps": 30, "max_steps": 60}
    classes = 10 if robust else 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FmtoolWarning)  # masks that don't settle, and the class without images
        whole = fmtool.class_masks(model, source, **more, execution=fmtool.Execution(batch_size=8))
        shards = [
            fmtool.class_masks(
                model,
                source,
                **more,
                execution=fmtool.Execution(batch_size=8, shard=Shard(number, min(count, classes))),
            )
            for number in range(1, min(count, classes) + 1)
        ]
    assert len(whole["classes"]) == classes
    assert shards[1].header["shard"] == {"number": 2, "of": min(count, classes), "rows": classes}
    assert torch.equal(shards[1]["masks"], whole["masks"][1 :: min(count, classes)])
    assert shards[1].header["images"][0] < whole.header["images"][0]  # those of its classes
    some = fmtool.merge(shards[:2], allow_gaps=True)
    assert some.header["images"] == [
        a + b for a, b in zip(*(part.header["images"] for part in shards[:2]), strict=True)
    ]
    found = fmtool.merge(shards[::-1], execution=fmtool.Execution(output=str(tmp_path / "merged")))
    fmtool.write(whole, str(tmp_path / "whole"))
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes() and found.digest == whole.digest


def test_a_shard_of_class_masks_is_neither_a_defence_nor_empty(model: Artifact, files: Path) -> None:
    attack, few = fmtool.read(str(files / "fmn.safetensors")), {"min_steps": 1, "max_steps": 2}
    part = fmtool.class_masks(model, attack, **few, execution=fmtool.Execution(shard=Shard(1, 3)))
    with pytest.raises(ArtifactError, match="is shard 1 of 3: merge the shards with 'fmtool merge' first"):
        fmtool.defend(model, [attack], [part])
    with pytest.raises(ArtifactError, match="2 of 3 shards are missing, numbers 2, 3: to merge the others anyway"):
        fmtool.merge([part])
    some = fmtool.merge([part], allow_gaps=True)
    assert some["classes"].tolist() == [0, 3, 6, 9] and some.history[-1]["command"] == "merge"
    with pytest.raises(FmtoolError, match="--shard 11/11: there are only 10 classes"):
        fmtool.class_masks(model, attack, **few, execution=fmtool.Execution(shard=Shard(11, 11)))


def test_gaps_are_refused_unless_told(parts: list[Artifact]) -> None:
    with pytest.raises(
        ArtifactError, match="1 of 3 shards is missing, number 2: to merge the others anyway, pass --allow-gaps"
    ):
        fmtool.merge([parts[0], parts[2]])
    found = fmtool.merge([parts[2], parts[0]], allow_gaps=True)
    whole = fmtool.merge(parts)
    rows = [row for row in range(40) if row % 3 != 1]
    assert torch.equal(found["key"], whole["key"][rows]) and torch.equal(found["masks"], whole["masks"][rows])
    assert "shard" not in found.header
    assert (found.history[-1]["command"], found.history[-1]["options"]) == (
        "merge",
        {"--allow-gaps": True},
    )
    assert [entry["shard"] for entry in found.history[-1]["inputs"]] == ["3/3", "1/3"]


@pytest.mark.slow
def test_what_is_no_set_of_shards_is_refused(files: Path, model: Artifact, parts: list[Artifact]) -> None:
    attack = fmtool.read(str(files / "fmn.safetensors"))
    half, other = (
        fmtool.fit_masks(model, attack, limit=40, **FIT, execution=fmtool.Execution(batch_size=8, shard=Shard(2, of)))
        for of in (2, 3)
    )
    seeded = fmtool.fit_masks(
        model, attack, limit=40, seed=1, **FIT, execution=fmtool.Execution(batch_size=8, shard=Shard(2, 3))
    )
    fewer = fmtool.fit_masks(
        model, attack, limit=20, **FIT, execution=fmtool.Execution(batch_size=8, shard=Shard(2, 3))
    )
    whole = fmtool.merge(parts)
    cut = dataclasses.replace(parts[1], tensors={name: values[:-1] for name, values in parts[1].tensors.items()})
    strange = [
        dataclasses.replace(parts[1], header={**parts[1].header, "shard": shard})
        for shard in (None, 5, {}, {"number": 0, "of": 3, "rows": 40}, {"number": 2, "of": 3, "rows": 10**30},
                      {"number": 2, "of": "3", "rows": 40}, {"number": 4, "of": 3, "rows": 40})
    ]  # fmt: skip
    cases: list[tuple[list[Artifact], str]] = [
        ([parts[0], other, parts[1]], "both are shard 2 of 3"),
        ([parts[0], half], "they are not shards of the same job"),
        ([parts[0], fewer], "they are not shards of the same job"),
        ([parts[0], seeded], "option 'seed' of fit-masks is 1 and 0"),
        ([parts[0], whole], "is not a shard, but other files are"),
        ([whole, parts[0]], "is not a shard, but other files are"),
        ([parts[0], cut, parts[2]], "has 12 rows, expected 13 in shard 2/3 of 40 rows"),
        *(([parts[0], one], "its header describes an impossible shard") for one in strange),
    ]
    for some, message in cases:
        with pytest.raises(ArtifactError, match=re.escape(message)):
            fmtool.merge(some)


def test_a_shard_does_not_pass_for_the_whole(model: Artifact) -> None:
    """It is refused where rows are left out without a trace; what shows them takes it."""
    data = fmtool.load_data("digits:test", limit=30)
    part = fmtool.attack(
        model,
        data,
        attack="pgd",
        epsilon=0.3,
        attack_options={"steps": 3},
        execution=fmtool.Execution(shard=Shard(1, 2)),
    )
    for work in (
        lambda: fmtool.fit_masks(model, part, **FIT),
        lambda: fmtool.class_masks(model, part, robust=True, min_steps=2, max_steps=3),
    ):
        with pytest.raises(ArtifactError, match="is shard 1 of 2: merge the shards with 'fmtool merge' first"):
            work()


def test_an_attack_whose_draws_hang_on_its_batch_is_not_shared(model: Artifact) -> None:
    data = fmtool.load_data("digits:test", limit=30)
    with pytest.raises(AttackError, match="L2AdditiveGaussianNoiseAttack isn't known to attack each image on its own"):
        fmtool.attack(
            model,
            data,
            attack="L2AdditiveGaussianNoiseAttack",
            epsilon=1.0,
            execution=fmtool.Execution(shard=Shard(1, 2)),
        )


@pytest.mark.slow
def test_a_shard_without_a_right_image_is_no_error(model: Artifact) -> None:
    """Another one may have some; a shard without any image at all is one."""
    data = fmtool.load_data("digits:test", limit=20)
    predicted = fmtool.attack(model, data, attack="LinfFastGradientAttack", epsilon=0.01)["clean_predictions"]
    labels = predicted.clone()
    labels[::2] = (labels[::2] + 1) % 10
    half = dataclasses.replace(data, labels=labels)
    more: dict[str, Any] = {"attack": "pgd", "epsilon": 0.3, "attack_options": {"steps": 2}}
    shards = [
        fmtool.attack(model, half, **more, execution=fmtool.Execution(shard=Shard(number, 2))) for number in (1, 2)
    ]
    assert shards[0]["status"].tolist() == [1] * 10
    assert fmtool.merge(shards).digest == fmtool.attack(model, half, **more).digest
    with pytest.raises(FmtoolError, match="--shard 21/22: there are only 20 images"):
        fmtool.attack(model, data, attack="pgd", execution=fmtool.Execution(shard=Shard(21, 22)))


@pytest.mark.slow
def test_on_the_command_line(run: Run, files: Path, tmp_path: Path) -> None:
    line = ["fit-masks", files / "model.safetensors", files / "fmn.safetensors", "--for", "adversarial", "--limit", 9,
            "--lambda", 0.1, "--min-steps", 5, "--max-steps", 9]  # fmt: skip
    for more, name in (([], "whole"), (["--shard", "1/2"], "one"), (["--shard", "2/2"], "two")):
        assert run(*line, *more, "-o", tmp_path / name).code == 0
    assert run("merge", tmp_path / "two", tmp_path / "one", "-o", tmp_path / "merged").code == 0
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    assert run("merge", tmp_path / "two", "-o", tmp_path / "merged").code == 1
    assert run("merge", tmp_path / "two", "--allow-gaps", "-o", tmp_path / "merged").code == 0
    outcome = run(*line, "--shard", "3/2", "-o", tmp_path / "three")
    assert outcome.code == 1 and re.fullmatch(r"fmtool: error: --shard 3/2: [^\n]+\n", outcome.err)
    assert run("inspect", tmp_path / "one").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "one", "two", "whole"]
