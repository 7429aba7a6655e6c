"""fmtool merge: bad input and bad usage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run
from safetensors.torch import save_file
from small_files import attacked_halves

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.cli.merge import _allow_open


@pytest.fixture(scope="module")
def model(files: Path) -> Artifact:
    return fmtool.read(str(files / "model.safetensors"))


@pytest.fixture(scope="module")
def halves(model: Artifact) -> list[Artifact]:
    return attacked_halves(model)


def test_the_file_has_the_bytes_of_the_artifact_in_memory(
    halves: list[Artifact], files: Path, tmp_path: Path, run: Run
) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for file, path in zip(halves, paths, strict=True):
        fmtool.write(file, str(path))
    outcome = run("merge", *paths, "-o", tmp_path / "whole")
    assert outcome.code == 0 and outcome.err == "" and re.search(r"PGD +55 ", outcome.out), outcome
    fmtool.write(fmtool.merge(halves), str(tmp_path / "expected"))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "expected").read_bytes()
    assert run("merge", *paths, "-o", paths[0]).code == 0  # a target that is read from
    assert paths[0].read_bytes() == (tmp_path / "whole").read_bytes()
    assert "merge" in run("inspect", tmp_path / "whole").out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("fmn fmn", r"they share 60 images"),
        ("fmn essential", r"a file of kind masks and one of kind attack"),
        ("plain plain", r"is whole: expected the shards of one job"),
        ("essential adversarial", r"option 'for' of fit-masks is adversarial and essential"),
        ("fmn missing", r"missing.safetensors: can't be read"),
    ],
)
def test_bad_input_is_refused_in_one_line(line: str, pattern: str, run: Run, files: Path, tmp_path: Path) -> None:
    outcome = run("merge", *(files / f"{name}.safetensors" for name in line.split()), "-o", tmp_path / "out")
    assert outcome.code == 1 and outcome.out == ""
    assert re.fullmatch(r"fmtool: error: [^\n]+\n", outcome.err) and re.search(pattern, outcome.err), outcome.err
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_exits_with_2(run: Run, files: Path) -> None:
    for line in (["merge"], ["merge", files / "fmn.safetensors"], ["merge", "-o", "out"]):
        outcome = run(*line)
        assert outcome.code == 2 and outcome.out == "" and "Traceback" not in outcome.err


@pytest.mark.slow
def test_two_halves_by_other_files_of_data(files: Path, tmp_path: Path, run: Run) -> None:
    """Two data files with images of their own: attacked, merged and fitted on the command line."""
    digits = fmtool.load_data("digits:test", limit=24)
    for number, rows in enumerate((slice(0, 12), slice(12, 24))):
        save_file(
            {"images": digits.images[rows], "labels": digits.labels[rows]}, tmp_path / f"data{number}.safetensors"
        )
        attack = ["attack", files / "model.safetensors", "--data", tmp_path / f"data{number}.safetensors"]
        assert run(*attack, "--attack", "pgd", "--epsilon", 0.3, "-o", tmp_path / f"half{number}").code == 0
    assert run("merge", tmp_path / "half0", tmp_path / "half1", "-o", tmp_path / "whole").code == 0
    few = ["--lambda", 0.1, "--min-steps", 5, "--max-steps", 6]
    for name in ("essential", "adversarial"):
        line = ["fit-masks", files / "model.safetensors", tmp_path / "whole", "--for", name, *few]
        assert run(*line, "-o", tmp_path / name).code == 0
    assert run("correlate", tmp_path / "essential", tmp_path / "adversarial", "--permutations", 3).code == 0
    data = fmtool.read(str(tmp_path / "essential")).header["data"]
    assert [Path(entry["name"]).name for entry in data] == ["data0.safetensors", "data1.safetensors"]


def test_shards_of_class_masks_make_the_whole_files_bytes_and_its_table(run: Run, files: Path, tmp_path: Path) -> None:
    line = [
        "class-masks",
        files / "model.safetensors",
        "--data",
        "digits",
        "--limit",
        20,
        "--min-steps",
        2,
        "--max-steps",
        3,
    ]
    whole = run(*line, "-o", tmp_path / "whole")
    for number in (1, 2):
        assert run(*line, "--shard", f"{number}/2", "-o", tmp_path / str(number)).code == 0
    merged = run("merge", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "merged")
    assert (whole.code, merged.code) == (0, 0), merged.err
    assert merged.out == whole.out
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


def test_more_files_may_be_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    endless, told = resource.RLIM_INFINITY, []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: told.append(limits))
    for limits in ((256, 4096), (256, 300), (256, endless), (endless, endless)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limits=limits: limits)
        _allow_open(100)
    assert told == [(356, 4096), (300, 300), (356, endless)]
