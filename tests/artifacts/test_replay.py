"""The shell commands that `inspect --history` prints make the same bytes again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts import replay
from fmtool.artifacts.files import describe
from fmtool.artifacts.history import makers, sources
from fmtool.models.resnet import ResNet

FEW = ["--min-steps", 2, "--max-steps", 4]


def lines_of(path: Path, run: Run) -> list[str]:
    """The shell lines of a file, as `inspect --history` prints them."""
    outcome = run("inspect", path, "--history")
    assert outcome.code == 0, outcome.err
    return [line for line in outcome.out.splitlines() if line.startswith(("fmtool ", "# "))]


def check_same(path: Path, folder: Path) -> None:
    """The folder holds a file under the name that the lines give to this one, with the same bytes."""
    found = describe(str(path))
    assert (folder / replay.file_name(found.kind, found.digest)).read_bytes() == path.read_bytes()


def remade(path: Path, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a file's lines in a folder, all in this process, and compare the last file's bytes with it; gives the lines."""
    lines = lines_of(path, run)
    monkeypatch.chdir(folder)
    for line in lines:
        if not line.startswith("#"):
            outcome = run(*shlex.split(line)[1:])
            assert outcome.code == 0, outcome.err
    check_same(path, folder)
    return "\n".join(lines)


def made(run: Run, folder: Path, lines: list[list[object]]) -> None:
    """Run commands that end with the name of the file they write."""
    for line in lines:
        *words, name = line
        outcome = run(*words, "-o", folder / str(name))
        assert outcome.code == 0, outcome.err


@pytest.mark.processes
def test_the_quickstarts_last_file_is_made_again_by_its_own_lines(run: Run, tmp_path: Path) -> None:
    """All stages but `correlate`, small, with one attack on the defence."""
    model, fmn, pgd = (tmp_path / name for name in ("model", "fmn", "pgd"))
    robust, plain, adaptive = (tmp_path / name for name in ("robust", "plain", "adaptive"))
    steps = ["--attack-option", "steps=5"]
    made(run, tmp_path, [
        ["train-model", "--data", "digits", "--architecture", "resnet8", "--recipe", "one-cycle", "--epochs", 3,
         "--learning-rate", 0.05, "--batch-size", 32, "--augment", "crop", "--limit", 700, "--seed", 3, "model"],
        ["attack", model, "--data", "digits", "--limit", 30, *steps, "fmn"],
        ["attack", model, "--data", "digits", "--limit", 40, "--attack", "pgd", "--epsilon", "1/3", "--seed", 7, *steps, "pgd"],
        ["class-masks", model, "--data", "digits:train", "--limit", 50, "--lambda", 0.02, *FEW, "plain"],
        ["class-masks", model, pgd, "--robust", "--limit", 20, *FEW, "robust"],
        ["attack", model, "--data", "digits", "--limit", 30, "--defense", robust, "--restarts", 2, *steps, "adaptive"],
        ["defend", model, fmn, adaptive, robust, plain, "--batch-size", 16, "defense"],
    ])  # fmt: skip
    tool, again = tmp_path / "fmtool", tmp_path / "again"
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fmtool "$@"\n')
    tool.chmod(0o755)
    again.mkdir()
    text = "\n".join(lines_of(tmp_path / "defense", run))
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(fmtool.__file__).parents[1])}
    done = subprocess.run(["bash", "-ec", text], cwd=again, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "defense", again)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("fmtool")] == [
        "train-model", "attack", "attack", "class-masks", "attack", "class-masks", "defend",
    ]  # fmt: skip
    assert re.search(r"^# data digits:train: content [0-9a-f]{64}$", text, re.M)


@pytest.mark.processes
def test_masks_and_correlations_are_made_again(
    run: Run, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of fit-masks, merge and correlate; data from a file whose name holds a space."""
    digits = fmtool.load_data("digits", limit=60)
    data = tmp_path / "my data.safetensors"
    save_file({"images": digits.images.repeat_interleave(2, 2).repeat_interleave(2, 3), "labels": digits.labels}, data)
    options = ["--lambda", 0.05, *FEW, "--perturb", 0.1, "--seed", 4, "--precision", "bfloat16", "--no-compile"]
    random = ["--attack-option", "random_start=True"]
    source, masks = (
        ["--data", data, "--size", 8],
        [tmp_path / f"{name}" for name in ("one", "two", "merged", "essential")],
    )
    model, attacked = files / "model.safetensors", tmp_path / "attacked"
    made(run, tmp_path, [
        ["attack", model, *source, "--attack", "LinfBasicIterativeAttack", "--epsilon", 0.5, *random, "attacked"],
        ["attack", model, "--data", "digits:train", "--limit", 12, "--attack", "LinfBasicIterativeAttack", "--epsilon", 0.5,
         *random, "more"],
        ["fit-masks", model, attacked, "--for", "adversarial", *options, "--limit", 50, "one"],
        ["fit-masks", model, tmp_path / "more", "--for", "adversarial", *options, "two"],
        ["merge", *masks[:2], "merged"],
        ["fit-masks", model, *source, "--for", "essential", "--limit", 55, *FEW, "essential"],
        ["correlate", masks[2], masks[3], "--statistics", "svcca,idcor", "--permutations", 5, "--preset", "paper", "--pool", 1,
         "--no-row-normalise", "--class-subsets", "--subsample", "8,12", "--draws", 2, "--seed", 5, "--dimension", "mle", "last"],
    ])  # fmt: skip
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(data, again)
    text = remade(tmp_path / "last", run, again, monkeypatch)
    assert "--data 'my data.safetensors' --size 8" in text.replace("--limit 55 ", "") and "--preset paper" in text


@pytest.mark.processes
def test_an_imported_model_and_one_trained_from_it_are_made_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    torch.save({"state_dict": ResNet(1, 12, blocks=1, width=8).state_dict()}, tmp_path / "weights.th")
    (tmp_path / "own.py").write_text(
        "import torch\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    names = ",".join(f"n{number}" for number in range(10))
    shape = ["--mean", "0.5", "--std", "0.25", "--input-shape", "1,8,8"]
    made(run, tmp_path, [
        ["import-model", tmp_path / "weights.th", "--architecture", "resnet8", *shape, "--keep-classes", "2,3,4,5,6,7,8,9,10,11",
         "--class-names", names, "imported"],
        ["train-model", "--from", tmp_path / "imported", "--head-only", "--data", "digits:all", "--limit", 80, "--epochs", 2,
         "headed"],
        ["attack", tmp_path / "headed", "--data", "digits", "--limit", 20, "--attack", "pgd", "--epsilon", 0.1, "attacked"],
    ])  # fmt: skip
    again = tmp_path / "again"
    again.mkdir()
    for name in ("weights.th", "own.py"):
        shutil.copy(tmp_path / name, again)
    text = remade(tmp_path / "attacked", run, again, monkeypatch)
    assert "fmtool import-model resnet8 --weights weights.th" in text and "--data digits:all" in text


@pytest.mark.slow
def test_somebodys_code_and_another_model_are_named_to_every_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import torch\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    factory = ["--factory", "own:net"]
    made(run, tmp_path, [
        ["train-model", "--architecture", "own:net", "--data", "digits", "--limit", 200, "--epochs", 4,
         "--recipe", "one-cycle", "one"],
        ["train-model", "--from", "one", "--data", "digits", "--limit", 200, "--epochs", 1, *factory, "two"],
        ["attack", "one", "--data", "digits", "--limit", 20, "--attack", "pgd", "--epsilon", 0.3, *factory, "attacked"],
        ["fit-masks", "two", "attacked", "--for", "adversarial", *FEW, *factory, "--allow-other-model", "masks"],
    ])  # fmt: skip
    (tmp_path / "again").mkdir()
    shutil.copy("own.py", "again")
    text = remade(tmp_path / "masks", run, tmp_path / "again", monkeypatch)
    assert text.count("--factory own:net") == 3 and text.count("--allow-other-model") == 1


def attacking(files: Path, limit: int) -> list[object]:
    """A command line without its target."""
    words = f"--data digits --limit {limit} --attack pgd --epsilon 0.3"
    return ["attack", files / "model.safetensors", *words.split()]


@pytest.mark.processes
def test_shards_and_what_is_merged_of_some_of_them_are_made_again(
    run: Run, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = attacking(files, 12)
    made(run, tmp_path, [
        *([*line, "--shard", f"{number}/3", f"shard-{number}"] for number in (1, 3)),
        ["merge", tmp_path / "shard-3", tmp_path / "shard-1", "--allow-gaps", "merged"],
    ])  # fmt: skip
    for name, shards in {"merged": ["3/3", "1/3"], "shard-3": ["3/3"]}.items():
        (tmp_path / f"again-{name}").mkdir()
        text = remade(tmp_path / name, run, tmp_path / f"again-{name}", monkeypatch)
        assert re.findall(r"--shard (\S+)", text) == shards and text.count("--allow-gaps") == len(shards) - 1


@pytest.mark.slow
def test_the_commands_are_the_end_of_what_is_printed_and_the_tree_says_as_much(
    run: Run, tmp_path: Path, files: Path
) -> None:
    """Of one file and of several correlations; the tree names a shard and the limit of its data."""
    line = attacking(files, 6)
    made(run, tmp_path, [[*line, "--shard", "2/3", "shard"]])
    correlation = files / "correlation.safetensors"
    for paths in ([tmp_path / "shard"], [correlation, correlation]):
        out = run("inspect", "--history", *paths).out
        start = out.index("\n# by fmtool ")
        assert all(one.startswith(("# ", "fmtool ")) for one in out[start:].strip().splitlines())
        assert out.count("\nfmtool ") == out[start:].count("\nfmtool ") >= 2
    out = run("inspect", "--history", tmp_path / "shard").out
    assert re.search(r"shard [0-9a-f]{12}, shard 2/3\n", out)
    assert re.search(r" --attack pgd --attack-option \S+.* --batch-size \d+ .*--limit 6 --seed 0\n", out)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": [{"kind": "data", "name": "matrix", "split": "", "digest": "a" * 64}], "command": "correlate"}, "matrices"),
        ({"options": {"--attack-option": {"init": "<object>"}}}, "Python object"),
        ({"inputs": [{"kind": "data", "option": "--adversarial", "name": "-", "digest": "a" * 64}]}, "standard input"),
        ({"command": "train-model"}, "test images"),
        ({"options": {"--limit": 3}}, "other images than --limit"),
        ({"options": {"limit": 3}}, "fmtool 0.1 recorded its options, listed above, under other names"),
        ({"inputs": [{"kind": "data", "name": "", "split": "test", "digest": "a" * 64}]}, "no name"),
        ({"command": "import-model", "options": {"--input-shape": [1], "--class-names": ["a,b"]}}, "a comma"),
    ],
)  # fmt: skip
def test_what_no_command_makes_is_said_in_a_comment(change: dict[str, Any], reason: str) -> None:
    data = {"kind": "data", "option": "--data", "name": "digits", "split": "train", "digest": "a" * 64}
    stage = {"command": "fit-masks", "options": {}, "inputs": [data], "versions": {"fmtool": "1"}, **change}
    *_, last = replay.commands([stage], "masks", "b" * 64, {})
    assert last.startswith(f"# {stage['command']} has no equivalent command: ") and reason in last


def test_names_with_a_less_than_sign_are_names() -> None:
    stage = {
        "command": "import-attack",
        "options": {"--name": "PGD eps<8/255"},
        "inputs": [],
        "versions": {"fmtool": "1"},
    }
    assert replay.commands([stage], "attack", "b" * 64, {})[-1].startswith(
        "fmtool import-attack --name 'PGD eps<8/255' -o "
    )


def test_files_of_one_name_lie_in_folders_of_their_own() -> None:
    """A history has only the end of a path: in one folder the command would read one file as both."""
    clean, moved, split = (
        {"kind": "data", "option": option, "name": name, "split": part, "digest": digit * 64}
        for option, name, part, digit in (
            ("--data", "images.npy", "whole", "a"),
            ("--adversarial", "images.npy", "", "b"),
            ("--data", "digits", "test", "c"),
        )
    )
    stages = [
        {"command": command, "options": {}, "inputs": inputs, "versions": {"fmtool": "1"}}
        for command, inputs in (
            ("import-attack", [clean, moved]),
            ("attack", [split, {**split, "limit": 3, "digest": "d" * 64}]),
        )
    ]
    lines = replay.commands(stages[:1], "attack", "e" * 64, {})
    assert f"# data {'a' * 12}/images.npy: content {'a' * 64}" in lines
    assert f"--data {'a' * 12}/images.npy --adversarial {'b' * 12}/images.npy" in lines[-1]
    assert "/" not in replay.commands(stages[1:], "attack", "e" * 64, {})[-1]


@pytest.mark.processes
def test_names_can_neither_end_a_comment_nor_a_word() -> None:
    data = {"kind": "data", "option": "--data", "name": "x\nrm -rf $HOME; 'y", "split": "test", "digest": "a" * 64}
    stage = {"command": "fit-masks", "options": {"--a b\n": "$(c)"}, "inputs": [data], "versions": {"fmtool": "1"}}
    lines = replay.commands([stage], "masks", "\n;" * 32, {})
    assert [line[:2] for line in lines] == ["# ", "# ", "fm"] and all("\n" not in line for line in lines[:-1])
    assert lines[-1].isprintable()
    parts = subprocess.run(["bash", "-c", f"printf '%s\\0' {lines[-1]}"], capture_output=True, check=True).stdout.split(
        b"\0"
    )
    assert [part.decode() for part in parts[2:6]] == ["--data", data["name"] + ":test", "--a b\n", "$(c)"]


@pytest.mark.slow
def test_names_of_files_and_data_are_no_codes_for_the_terminal(run: Run, tmp_path: Path, files: Path) -> None:
    digits = fmtool.load_data("digits", limit=20)
    save_file({"images": digits.images, "labels": digits.labels}, tmp_path / "d\x1b[2J")
    bad = "a\x1b[2J"
    made(
        run,
        tmp_path,
        [["attack", files / "model.safetensors", "--data", tmp_path / "d\x1b[2J", "--attack", "pgd", bad]],
    )
    for options in ([], ["--history"]):
        outcome = run("inspect", tmp_path / bad, *options)
        before, _, commands = outcome.out.partition("\n# by ")
        assert "a\\x1b[2J" in before and "d\\x1b[2J" in before and "\x1b" not in outcome.out
        assert ("--data $'d\\033[2J'" in commands) == bool(options)
    assert "\x1b" not in run("inspect", tmp_path / "no\x1b[2J").err


def test_histories_that_go_round_end() -> None:
    def stage(inputs: str, output: str) -> dict[str, Any]:
        entries = [{"kind": "masks", "digest": digest} for digest in inputs]
        return {"command": "merge", "options": {}, "inputs": entries, "versions": {}, "output": output}

    history = [stage("bc", "a"), stage("ca", "b"), stage("ab", "c"), {**stage("a", "m"), "command": "fit-masks"}]
    made = makers(history, "m")
    assert sources(history[-1]["inputs"], made, {"x": "file"}) == []
    assert sources(history[-1]["inputs"], made, {"c": "file"}) == ["file"]
    assert len([line for line in replay.commands(history, "masks", "m", {}) if line.startswith("fmtool")]) == 4
