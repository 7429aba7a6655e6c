"""Histories record options under the command line's names, each stage once, and what each input was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from conftest import Run
from forged import TINY
from typer.testing import CliRunner

from fmtool.artifacts import history
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.history import option_words, shares_images, stage
from fmtool.cli import app

DATA = {"option": "--data", "name": "digits", "split": "test", "digest": "d" * 64, "limit": 9}


def made_by(command: str, *inputs: history.Input, kind: str = "masks", **header: Any) -> Artifact:
    return Artifact(kind, header, TINY.tensors, stage(command, {}, None, inputs))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("--batch-size", 64, ["--batch-size", "64"]),
        ("--robust", True, ["--robust"]),
        ("--compile", False, ["--no-compile"]),
        ("--mean", [0.5, 0.25], ["--mean", "0.5,0.25"]),
        ("--attack-option", {"steps": 5, "loss": "a b"}, ["--attack-option", "steps=5", "--attack-option", "loss='a b'"]),
        ("batch_size", 64, ["batch_size=64"]),
    ],
)  # fmt: skip
def test_options_as_words_of_the_command_line(name: str, value: Any, words: list[str]) -> None:
    assert option_words(name, value) == words


@pytest.mark.slow
def test_every_recorded_option_is_one_of_its_command(run: Run, files: Any) -> None:
    """Of every kind of file, whatever stage led to it."""
    recorded = {
        (entry["command"], words[0])
        for path in files.glob("*.safetensors")
        for entry in fmtool_history(path)
        for name, value in [*entry["options"].items(), *((one["option"], "") for one in entry["inputs"] if "option" in one)]
        for words in [option_words(name, value)]
    }  # fmt: skip
    assert {command for command, _ in recorded} == {
        "train-model", "attack", "fit-masks", "class-masks", "correlate", "defend", "heatmap",
    }  # fmt: skip
    pages = {
        command: CliRunner().invoke(app, [command, "--help"], terminal_width=200).output for command, _ in recorded
    }
    assert [(command, option) for command, option in recorded if f"{option} " not in pages[command]] == []


def fmtool_history(path: Any) -> list[dict[str, Any]]:
    from fmtool.artifacts.files import describe

    return describe(str(path)).history


def test_what_was_not_given_is_not_recorded() -> None:
    (entry,) = stage("fit-masks", {"--lambda": 0.0, "--limit": None, "--compile": False}, None, [])
    assert entry["options"] == {"--lambda": 0.0, "--compile": False}
    assert "seed" not in entry and "arguments" not in entry
    (entry,) = stage("import-model", {}, 0, [], arguments=["resnet8"])
    assert entry["seed"] == 0 and entry["arguments"] == ["resnet8"]


def test_each_stage_stands_once_with_the_digest_of_its_output() -> None:
    model = made_by("train-model", DATA, kind="model")
    attack = made_by("attack", model, DATA, kind="attack")
    masks = made_by("fit-masks", model, attack)
    entries = stage("defend", {}, None, [model, attack, masks, ("--defense", masks)])
    assert [entry["command"] for entry in entries] == ["train-model", "attack", "fit-masks", "defend"]
    assert [entry.get("output") for entry in entries] == [model.digest, attack.digest, masks.digest, None]
    assert entries[-1]["inputs"] == [
        {"kind": "model", "digest": model.digest},
        {"kind": "attack", "digest": attack.digest},
        {"kind": "masks", "digest": masks.digest},
        {"kind": "masks", "digest": masks.digest, "option": "--defense"},
    ]
    assert entries[0]["inputs"] == [{"kind": "data", **DATA}]


def test_a_shard_is_named_where_it_is_taken() -> None:
    shard = made_by("fit-masks", DATA, shard={"number": 2, "of": 3, "rows": 9})
    assert stage("merge", {}, None, [shard])[-1]["inputs"][0]["shard"] == "2/3"
    assert history.shard_text({}) == history.shard_text({"shard": None}) == ""


@pytest.mark.parametrize(
    ("split", "argument"),
    [("test", "digits:test"), ("test+train", "digits:all"), ("test+val+train", "digits:all"), ("whole", "digits"),
     ("", "digits")],
)  # fmt: skip
def test_data_as_the_command_line_takes_them(split: str, argument: str) -> None:
    assert history.data_argument({**DATA, "split": split}) == argument


def test_a_stages_options_are_shown_with_those_that_chose_its_images() -> None:
    (entry,) = stage("attack", {"--attack": "pgd", "--epsilon": 0.5}, 3, [DATA])
    assert history.options_text(entry) == "--attack pgd --epsilon 0.5 --limit 9 --seed 3"
    assert history.title(entry["inputs"][0]) == f"data digits test {'d' * 12}, limit 9"


def test_options_of_either_schema_are_compared_by_plain_names() -> None:
    now = {"--batch-size": 8, "--attack-option": {"steps": 5}}
    before = {"batch_size": 8, "steps": 5}
    assert history.plain_options({"options": now}) == history.plain_options({"options": before}) == before
    assert history.names_of_schema_1({"options": before}) and not history.names_of_schema_1({"options": now})


def test_inputs_that_no_given_file_provides_are_missing() -> None:
    model = made_by("train-model", DATA, kind="model")
    masks = made_by("fit-masks", model, DATA)
    lacking = history.missing({"a": masks.history}, [masks.digest])
    assert lacking == {f"data digits test {'d' * 12}, limit 9": ["a"], f"model {model.digest[:12]}": ["a"]}
    assert history.missing({"a": masks.history}, [model.digest, DATA["digest"]]) == {}  # type: ignore[list-item]


def test_a_changed_copy_has_a_digest_of_its_own() -> None:
    stored = dataclasses.replace(TINY, stored_digest="e" * 64)
    assert stored.digest == "e" * 64
    assert dataclasses.replace(stored, name="elsewhere").digest == TINY.digest


@pytest.mark.parametrize(
    ("theirs", "shared"),
    [
        ({"digest": "d"}, True),
        ({"digest": "e", "limit": 9}, True),
        ({"digest": "e", "split": "train"}, False),
        ({"digest": "e", "name": "other"}, False),
        ({"digest": "e", "rows": "0:9"}, True),
        ({"digest": "e", "split": "test+train"}, True),
        ({"digest": "e", "split": "val+train"}, False),
    ],
)
def test_two_histories_share_images(theirs: dict[str, Any], shared: bool) -> None:
    """By the data of the newest attack or class masks, not of the model that both use."""
    data = {"kind": "data", "name": "digits", "split": "test", "digest": "d"}
    trained = stage_of("train-model", {**data, "split": "train", "digest": "t"})
    one = [trained, stage_of("attack", data)]
    two = [trained, stage_of("class-masks", {**data, **theirs})]
    assert shares_images(one, two) is shares_images(two, one) is shared
    assert not shares_images([trained], one)


def test_imported_attacks_are_told_apart_by_their_files() -> None:
    """One attack may have been imported in parts, of which masks can have been fitted to one."""

    def imported(*digests: str) -> list[dict[str, Any]]:
        return [
            stage_of("import-attack", {"kind": "data", "option": "--adversarial", "digest": digest})
            for digest in digests
        ]

    assert history.other_attack(imported("a"), imported("b")) == "--adversarial a and b"
    assert (
        history.other_attack(imported("a"), imported("a", "b"))
        == history.other_attack(imported("b"), imported("b"))
        == ""
    )
    assert history.other_attack([stage_of("attack", {"digest": "d"})], [stage_of("attack", {"digest": "e"})]) == ""


def test_of_merged_attacks_all_count() -> None:
    data = {"kind": "data", "name": "digits"}
    of_test, of_train = (
        {**stage_of("attack", {**data, "split": split, "digest": split}), "output": f"attack on {split}"}
        for split in ("test", "train")
    )
    files = [{"kind": "attack", "digest": one["output"]} for one in (of_test, of_train)]
    merge = {"command": "merge", "options": {}, "inputs": files}
    masks = {"command": "class-masks", "options": {}, "inputs": [{"kind": "attack", "digest": "merged"}]}
    assert shares_images([of_test], [of_test, of_train, merge, masks])
    assert shares_images([of_train], [of_test, of_train, merge, masks])
    assert not shares_images([of_test], [of_test, of_train, masks])
    later = {**stage_of("attack", {**data, "split": "val", "digest": "val"}), "output": "attack on val"}
    inner = {**merge, "output": "merged of two"}
    inputs = [{"kind": "attack", "digest": digest} for digest in ("attack on val", "merged of two")]
    for order in (inputs, inputs[::-1]):
        outer = {**merge, "inputs": order}
        for made in (of_test, of_train, later):
            assert shares_images([made], [of_test, of_train, inner, later, outer, masks])
            assert shares_images([made], [later, of_test, of_train, inner, outer, masks])
    cycle = {**merge, "output": "cycle", "inputs": [{"kind": "attack", "digest": "cycle"}]}  # forged
    assert not shares_images([of_test], [of_train, cycle, masks])


def test_ranges_of_rows_share_images_only_if_they_overlap() -> None:
    def part(rows: str, digest: str, split: str = "test") -> list[dict[str, Any]]:
        data = {"kind": "data", "name": "digits", "split": split, "digest": digest, "rows": rows}
        return [stage_of("attack", data)]

    assert not shares_images(part("0:9", "d"), part("9:18", "e"))
    assert shares_images(part("0:9", "d"), part("0:9", "e")) and shares_images(part("0:9", "d"), part("8:18", "e"))


def test_choices_among_the_images_of_one_file_may_share_some() -> None:
    def part(digest: str, **chosen: Any) -> list[dict[str, Any]]:
        data = {"kind": "data", "name": "my.npz", "split": "whole", "digest": digest, **chosen}
        return [stage_of("attack", data)]

    assert shares_images(part("d", limit=60), part("e", limit=40)) and shares_images(part("d"), part("e", limit=40))
    assert shares_images(part("d", rows="0:60"), part("e", rows="20:100"))
    assert not shares_images(part("d", rows="0:60"), part("e", rows="60:100"))
    for chosen in ({}, {"limit": 60}, {"rows": "0:9"}):  # files of one name in two folders
        assert not shares_images(part("d", **chosen), part("e", **chosen))


def stage_of(command: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"command": command, "options": {}, "inputs": [{"kind": "model", "digest": "m"}, data]}
