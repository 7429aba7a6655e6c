"""Files that fmtool 0.1 wrote, of schema 1: all stages take them, but their commands are not printed.

tests/schema-1 holds one file of each kind, about twelve images of the digits, and `schema1.py` with the network.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run

import fmtool
from fmtool.artifacts.files import describe
from fmtool.artifacts.format import SCHEMA
from fmtool.artifacts.schema import TENSORS

OLD = Path(__file__).parent / "schema-1"
FACTORY = ["--factory", "schema1:net"]
FIT = ["--min-steps", 20, "--max-steps", 30, "--lambda", 0.002, *FACTORY]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, where the network's module can be imported."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_file_of_every_kind_is_read_with_its_tables(run: Run, old: Path) -> None:
    kinds = set()
    for path in sorted(old.glob("*.safetensors")):
        file = describe(str(path))
        assert file.schema == 1 < SCHEMA
        outcome = run("inspect", path)
        assert outcome.code == 0 and f"kind {file.kind}, schema 1, digest {file.digest}" in outcome.out
        assert fmtool.read(str(path)).digest == file.digest
        kinds.add(file.kind)
    assert kinds == {"model", "attack", "masks", "class-masks", "correlation", "defense"} <= set(TENSORS)


def test_their_histories_are_drawn_and_a_line_says_why_no_command_is_printed(run: Run, old: Path) -> None:
    out = run("inspect", "--history", old / "defense.safetensors").out
    assert " attack=pgd " in out and " epsilon=0.3 " in out and "--limit 20 " in out
    comments = [line for line in out.splitlines() if "has no equivalent command" in line]
    assert [line.split()[1] for line in comments] == ["train-model", "attack", "class-masks", "defend"]
    assert all("fmtool 0.1 recorded its options, listed above, under other names" in line for line in comments)
    assert not any(line.startswith("fmtool ") for line in out.splitlines())


@pytest.mark.slow
def test_stages_go_on_from_them_and_print_the_commands_of_what_is_new(run: Run, old: Path) -> None:
    new = old / "new.safetensors"
    model, attack = old / "model.safetensors", old / "attack.safetensors"
    assert run("fit-masks", model, attack, "--for", "adversarial", *FIT, "-o", new).code == 0
    file = describe(str(new))
    assert file.schema == SCHEMA and len(file.history) == 3
    lines = [line for line in run("inspect", "--history", new).out.splitlines() if line.startswith(("fmtool ", "# "))]
    assert [line.split()[1] for line in lines if "has no equivalent" in line] == ["train-model", "attack"]
    (line,) = [line for line in lines if line.startswith("fmtool ")]
    names = [f"{file.kind}-{file.digest[:12]}.safetensors" for file in (describe(str(model)), describe(str(attack)))]
    assert line.split()[:4] == ["fmtool", "fit-masks", *names] and " --for adversarial " in line
    for words in (
        ["correlate", old / "essential.safetensors", new, "--statistics", "cosine", "--permutations", 9],
        ["defend", model, attack, old / "class-masks.safetensors", *FACTORY],
        ["check-masks", model, attack, old / "adversarial.safetensors", *FACTORY],
        ["plot", old / "essential.safetensors", "--count", 2, "-o", old / "picture.png"],
        ["verify", *sorted(old.glob("*.safetensors"))],
        ["report", *sorted(old.glob("*.safetensors")), "-o", old / "report.html"],
    ):
        outcome = run(*words)
        assert outcome.code == 0, outcome.err


def test_shards_are_merged_to_what_was_fitted_at_once(run: Run, old: Path) -> None:
    merged = old / "merged.safetensors"
    assert run("merge", old / "essential-2.safetensors", old / "essential-1.safetensors", "-o", merged).code == 0
    ours, whole = fmtool.read(str(merged)), fmtool.read(str(old / "essential.safetensors"))
    assert (ours.header, ours.history) == (whole.header, whole.history)
    assert all(torch.equal(ours[name], whole[name]) for name in whole.tensors)


@pytest.mark.slow
def test_they_are_merged_with_new_files_of_the_same_options_alone(run: Run, old: Path) -> None:
    model = old / "model.safetensors"
    attack = ["attack", model, "--data", "digits:train", "--limit", 12, "--attack", "pgd", "--epsilon", 0.3, *FACTORY]
    for name, steps in (("same", 30), ("other", 20)):
        assert run(*attack, "--attack-option", f"steps={steps}", "-o", old / name).code == 0
    outcome = run("merge", old / "attack.safetensors", old / "same", "-o", old / "both", "--format", "json")
    assert outcome.code == 0 and json.loads(outcome.out)["rows"][0]["n"] == 24, outcome.err
    made = run("fit-masks", model, old / "same", "--for", "essential", *FIT, "-o", old / "masks")
    assert made.code == run("merge", old / "essential.safetensors", old / "masks", "-o", old / "both").code == 0
    assert len(fmtool.read(str(old / "both"))["key"]) > len(fmtool.read(str(old / "essential.safetensors"))["key"])
    outcome = run("merge", old / "attack.safetensors", old / "other", "-o", old / "both")
    assert outcome.code == 1 and "option 'steps' of attack is 20 and 30" in outcome.err


def test_a_schema_of_the_future_is_refused_in_a_line(run: Run, old: Path) -> None:
    path = old / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"schema\\":1', b'\\"schema\\":%d' % (SCHEMA + 1)))
    outcome = run("inspect", path)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert f"written by another version of fmtool (this one reads schema 1 and {SCHEMA})" in outcome.err
