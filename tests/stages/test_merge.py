"""merge: rows one after the other, what it refuses, and that every later stage takes what it makes."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_files import PGD, attacked_halves

import fmtool
from fmtool.artifacts import history as artifacts
from fmtool.artifacts.format import Artifact
from fmtool.errors import ArtifactError, FmtoolWarning

FEW: dict[str, Any] = {"lambda_": 0.1, "min_steps": 20, "max_steps": 30}


@pytest.fixture(scope="module")
def model(files: Path) -> Artifact:
    return fmtool.read(str(files / "model.safetensors"))


@pytest.fixture(scope="module")
def halves(model: Artifact) -> list[Artifact]:
    return attacked_halves(model)


def with_header(artifact: Artifact, **fields: object) -> Artifact:
    return dataclasses.replace(artifact, header={**artifact.header, **fields})


def with_options(artifact: Artifact, options: dict[str, object]) -> Artifact:
    """As if its stage had been given other options."""
    last = artifact.history[-1]
    changed = {**last, "options": {**last["options"], **options}}
    return dataclasses.replace(artifact, history=[*artifact.history[:-1], changed])


def test_rows_follow_one_another(halves: list[Artifact]) -> None:
    found = fmtool.merge(halves)
    assert found.kind == "attack" and set(found.tensors) == set(halves[0].tensors)
    for name in set(found.tensors) - {"source"}:
        assert torch.equal(found[name], torch.cat([file[name] for file in halves])), name
    assert found["source"].tolist() == [0] * 30 + [1] * 25
    assert found.header["data"] == [{"name": "digits", "split": "test"}, {"name": "digits", "split": "train"}]
    assert {k: v for k, v in found.header.items() if k != "data"} == {
        k: v for k, v in halves[0].header.items() if k != "data"
    }
    last = found.history[-1]
    assert (last["command"], last["options"], "seed" in last) == ("merge", {}, False)
    assert [entry["digest"] for entry in last["inputs"]] == [file.digest for file in halves]
    assert [stage["command"] for stage in found.history] == ["train-model", "attack", "attack", "merge"]


def test_other_contents_of_one_name_and_imports_without_a_name_are_told(
    model: Artifact, halves: list[Artifact], tmp_path: Path
) -> None:
    found = []
    for number, (half, folder) in enumerate(zip(halves, "ab", strict=True)):
        (tmp_path / folder).mkdir()
        save_file({"images": half["images"], "labels": half["labels"]}, tmp_path / folder / "data.safetensors")
        save_file({"adversarial": half["adversarial"]}, tmp_path / f"adv{number}.safetensors")
        data = fmtool.load_data(str(tmp_path / folder / "data.safetensors"))
        found.append(fmtool.import_attack(model, data, adversarial=str(tmp_path / f"adv{number}.safetensors")))
    with pytest.warns(FmtoolWarning) as told:
        merged = fmtool.merge(found)
    lines = [str(one.message) for one in told]
    assert (
        len(lines) == 2 and "imported from different files without a --name: are both of the same attack?" in lines[0]
    )
    assert (
        lines[1] == "several files are called data.safetensors: the merged file can't tell their images apart by name"
    )
    assert len(merged["labels"]) == 55
    trained = [{"command": "train-model", "inputs": found[1].history[-1]["inputs"], "options": {}, "versions": {}}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the model's own training data are not among the images
        fmtool.merge([dataclasses.replace(found[0], history=[*trained, *found[0].history])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fmtool.merge(halves)


def test_order_is_the_one_given_and_one_file_is_itself(halves: list[Artifact]) -> None:
    found = fmtool.merge(halves[::-1])
    assert torch.equal(found["key"], torch.cat([halves[1]["key"], halves[0]["key"]]))
    assert [entry["split"] for entry in found.header["data"]] == ["train", "test"]
    alone = fmtool.merge(halves[:1])
    assert all(torch.equal(alone[name], halves[0][name]) for name in alone.tensors)


def test_merges_can_be_merged_and_equal_entries_are_one(model: Artifact) -> None:
    """Parts of one split, and a part of another between them: the sources are renumbered."""
    whole = fmtool.attack(model, fmtool.load_data("digits:all", limit=40), **PGD)
    parts = [
        dataclasses.replace(whole, tensors={name: tensor[rows] for name, tensor in whole.tensors.items()})
        for rows in (slice(0, 10), slice(10, 20), slice(20, 40))
    ]
    strange = with_header(parts[1], data=[{"name": "unused", "split": ""}, {"name": "other", "split": ""}])
    strange = dataclasses.replace(strange, tensors={**strange.tensors, "source": torch.ones(10, dtype=torch.int64)})
    two = fmtool.merge([parts[0], strange])
    found = fmtool.merge([parts[2], two])
    assert [entry["name"] for entry in found.header["data"]] == ["digits", "unused", "other"]
    assert found["source"].tolist() == [0] * 30 + [2] * 10
    assert found.input_digest("model") == model.digest and found.input_digest("attack") == parts[2].digest


@pytest.mark.slow
def test_later_stages_take_merged_files(model: Artifact, halves: list[Artifact], tmp_path: Path) -> None:
    """attack twice, merged, masks of all; and masks of each, merged, are the same masks."""
    attacked = fmtool.merge(halves)
    essential, adversarial = (
        fmtool.fit_masks(model, attacked, for_=name, **FEW) for name in ("essential", "adversarial")
    )
    parts = fmtool.merge([fmtool.fit_masks(model, half, for_="essential", **FEW) for half in halves])
    for name in essential.tensors:
        assert torch.equal(parts[name], essential[name]), name
    assert parts.header == essential.header and parts.input_digest("model") == model.digest
    found = fmtool.correlate(parts, adversarial, statistics=["cosine"], permutations=9)
    assert (
        found.header["statistics"]
        == fmtool.correlate(essential, adversarial, statistics=["cosine"], permutations=9).header["statistics"]
    )
    robust = fmtool.class_masks(model, attacked, robust=True, min_steps=5, max_steps=6)
    table = fmtool.defend(model, [attacked], [robust])
    assert table.header["n"] == 55 and robust.header["data"] == table.header["data"] == attacked.header["data"]
    assert fmtool.check_masks(model, attacked, parts, draws=1).n == len(essential["labels"])


def test_images_are_apart(model: Artifact, halves: list[Artifact]) -> None:
    again = fmtool.attack(model, fmtool.load_data("digits:test", limit=10), **PGD)
    shared = len(set(again["index"].tolist()) & set(halves[0]["index"].tolist()))
    assert shared
    with pytest.raises(ArtifactError, match=f"they share {shared} images, the first at index "):
        fmtool.merge([halves[0], halves[1], again])
    twice = dataclasses.replace(again, tensors={n: torch.cat([t, t]) for n, t in again.tensors.items()})
    with pytest.raises(ArtifactError, match="contains an image twice"):
        fmtool.merge([twice])


@pytest.mark.slow
def test_what_differs_in_more_than_its_images_is_refused(model: Artifact, halves: list[Artifact], files: Path) -> None:
    one, two = halves
    masks = [fmtool.fit_masks(model, half, for_="essential", limit=4, **FEW) for half in halves]
    other = dataclasses.replace(model, tensors={**model.tensors, "linear.bias": model["linear.bias"] + 1})
    longer = fmtool.fit_masks(model, two, for_="essential", limit=4, lambda_=0.1, min_steps=20, max_steps=31)
    effect = two.history[-1]["options"]["--attack-option"]
    stronger = [dict(stage) for stage in masks[1].history]
    stronger[-2]["options"] = {**stronger[-2]["options"], "--epsilon": 0.5}
    transferred = [dict(stage) for stage in masks[1].history]
    transferred[-2]["inputs"] = [{**entry, "digest": "abc"} for entry in transferred[-2]["inputs"]]
    cases: list[tuple[list[Artifact], str]] = [
        ([one, masks[0]], "a file of kind masks and one of kind attack"),
        (
            [fmtool.read(str(files / "model.safetensors"))],
            "expected files of kind attack or masks or heatmap or class-masks",
        ),
        ([fmtool.read(str(files / "plain.safetensors"))], "is whole: expected the shards of one job"),
        ([], "at least one file"),
        ([one, fmtool.attack(other, fmtool.load_data("digits:train", limit=9), **PGD)], "made with model "),
        ([one, with_header(two, class_names=list("abcdefghij"))], "their class names differ"),
        (
            [one, with_options(two, {"--attack-option": {**effect, "steps": 40}})],
            "option 'steps' of attack is 40 and 3",
        ),
        ([one, with_options(two, {"--epsilon": 0.1})], "option 'epsilon' of attack is 0.1 and 0.3"),
        (
            [one, fmtool.attack(model, fmtool.load_data("digits:train", limit=9), seed=1, **PGD)],
            "option 'seed' of attack is 1 and 0",
        ),
        ([one, with_header(two, defense="abc")], "defense is abc and None"),
        ([one, with_options(two, {"--compile": True})], "make both with --compile, or both with --no-compile"),
        ([masks[0], longer], "option 'max_steps' of fit-masks is 31 and 30"),
        ([masks[0], with_options(masks[1], {"--perturb": 0.1})], "option 'perturb' of fit-masks is 0.1 and 0.0"),
        ([masks[0], dataclasses.replace(masks[1], history=transferred)], "model of attack is abc and "),
        ([masks[0], dataclasses.replace(masks[1], history=stronger)], "option 'epsilon' of attack is 0.5 and 0.3"),
        (
            [masks[0], fmtool.fit_masks(model, two, for_="adversarial", limit=4, **FEW)],
            "option 'for' of fit-masks is adversarial and essential",
        ),
        (
            [one, dataclasses.replace(two, tensors={**two.tensors, "more": two["key"]})],
            "more of the tensors is torch.int64",
        ),
    ]
    for files_, pattern in cases:
        with pytest.raises(ArtifactError, match=re.escape(pattern)) as caught:
            fmtool.merge(files_)
        assert "\n" not in str(caught.value)
    assert len(fmtool.merge([with_header(one, defense="abc"), with_header(two, defense="abc")])["key"]) == 55


def test_limit_may_differ_and_rounding_is_a_warning(halves: list[Artifact]) -> None:
    one, two = halves
    assert len(fmtool.merge([with_options(one, {"--limit": 30}), with_options(two, {"--limit": 7})])["key"]) == 55
    with pytest.warns(FmtoolWarning, match="different batch_size of attack"):
        fmtool.merge([one, with_options(two, {"--batch-size": 1})])
    older = {**two.history[-1], "versions": {"fmtool": "0.0.1"}}
    with pytest.warns(FmtoolWarning, match="different versions of attack"):
        fmtool.merge([one, dataclasses.replace(two, history=[*two.history[:-1], older])])


@pytest.mark.slow
def test_masks_made_before_there_was_a_perturb_started_at_ones(model: Artifact, halves: list[Artifact]) -> None:
    one, two = (fmtool.fit_masks(model, half, for_="essential", limit=4, **FEW) for half in halves)
    header = {name: value for name, value in one.header.items() if name != "perturb"}
    assert "--perturb" not in one.history[-1]["options"]
    older = dataclasses.replace(one, header=header)
    assert len(fmtool.merge([older, two])["key"]) == len(fmtool.merge([two, older])["key"]) == 8


def test_an_inputs_digest_is_the_newest_stages(model: Artifact, halves: list[Artifact]) -> None:
    """Of the first input of the kind that a stage took; stages without one are passed over."""
    two = fmtool.merge(halves)
    assert two.input_digest("model") == model.digest and two.input_digest("attack") == halves[0].digest
    assert two.input_digest("masks") is None
    history = artifacts.stage("fit-masks", {}, None, [dataclasses.replace(model, header={"x": 1}), two])
    newer = Artifact("masks", {}, {}, history)
    assert newer.input_digest("attack") == two.digest and newer.input_digest("model") != model.digest
