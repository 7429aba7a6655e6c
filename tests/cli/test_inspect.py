"""fmtool inspect: the history as a tree, spectra, several correlations as one table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run

from fmtool.artifacts.files import describe
from fmtool.artifacts.history import options_text


def test_several_correlations_make_one_table(files: Path, run: Run) -> None:
    path = files / "correlation.safetensors"
    outcome = run("inspect", path, path, "--format", "csv")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("attack,n,SVCCA,") and len(lines) == 3 and lines[1] == lines[2]
    assert lines[1].startswith(f"FMN: {path},")  # two rows of one attack are told apart by their files


def test_inspect_shows_the_history(files: Path, run: Run) -> None:
    """A tree: each stage below what was made from it, in full where it comes first, data as leaves."""
    path = files / "defense.safetensors"
    short, long = run("inspect", path).out, run("inspect", path, "--history").out
    for number, command in enumerate(("train-model", "attack", "class-masks", "class-masks", "defend"), start=1):
        assert f"── {number}. {command}" in short
    assert "--lambda" not in short and "data digits test" in short
    found = describe(str(path))
    start = long.index(f"{path} {found.digest[:12]}\n")
    tree = long[start : long.index("Accuracy after")]
    for number, stage in enumerate(found.history, start=1):
        made = f" -> {stage['output'][:12]}" if "output" in stage else ""
        head = f"── {number}. {stage['command']}{made}"
        assert len(re.findall(rf"{re.escape(head)}$", tree, re.M)) == 1
        assert f"{options_text(stage)}\n" in tree
        assert all(entry["digest"][:12] in tree for entry in stage["inputs"])
        assert all(f"{key} {value}" in tree for key, value in stage["versions"].items())
    depth = {line.partition("── ")[2]: line.index("── ") // 4 for line in tree.splitlines() if "── " in line}
    model, attack = (found.history[place]["output"][:12] for place in (0, 1))
    assert depth["5. defend"] == 0 and depth[f"1. train-model -> {model}"] == 1
    assert depth[f"1. train-model -> {model} (as above)"] == 2 and depth[f"2. attack -> {attack}"] == 1
    data = found.history[0]["inputs"][0]
    assert depth[f"data digits train {data['digest'][:12]}"] == 2


def test_inspect_shows_how_high_the_frequencies_are(files: Path, run: Run) -> None:
    names = ("essential", "adversarial", "fmn", "robust")
    paths = [files / f"{name}.safetensors" for name in names]
    rows = json.loads(run("inspect", "--spectrum", *paths, "--format", "json").out)["rows"]
    kinds = ["essential masks", "adversarial masks (FMN)", "perturbations (FMN)", "images"]
    assert [row["spectra"] for row in rows] == [*kinds, "class masks (robust FMN)"]
    single = "".join(run("inspect", path).out for path in paths)
    for row in rows:
        line = f"{row['spectra']}: mean radial frequency {row['mean frequency']:.3f} ± "
        assert line in single and f"(n = {row['n']}" in single.partition(line)[2].partition("\n")[0]
    assert "radial" not in run("inspect", paths[0], "--format", "csv").out
    refused = run("inspect", "--spectrum", files / "model.safetensors")
    assert (
        refused.code == 1 and "expected a masks or attack or class-masks file, got a file of kind model" in refused.err
    )
    assert run("inspect", "--spectrum", "--history", paths[0]).code == 1


def test_histories_of_correlations_are_shown_whether_or_not_they_share_a_statistic(
    files: Path, tmp_path: Path, run: Run
) -> None:
    masks = [files / f"{name}.safetensors" for name in ("essential", "adversarial")]
    made = [tmp_path / f"{name}.safetensors" for name in ("cosine", "svcca")]
    for path in made:
        assert run("correlate", *masks, "--statistics", path.stem, "--permutations", 3, "-o", path).code == 0
    assert "share no statistic" in run("inspect", *made).err
    shown = run("inspect", *made, "--history")
    assert shown.code == 0 and all(f"--statistics {path.stem}" in shown.out for path in made)


@pytest.mark.parametrize(
    "given",
    [
        ["fmn"], ["essential"], ["plain"], ["heatmap"], ["model"], ["correlation"], ["defense"],
        ["essential", "adversarial", "--format", "csv"],
        ["fmn", "--spectrum", "--format", "json"],
        ["essential", "adversarial", "--spectrum", "--format", "markdown"],
        ["fmn", "--history"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_large_files_are_not_read_into_memory(
    given: list[str], files: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And look the same."""
    there = [path.stem for path in files.iterdir()]
    line = ["inspect", *(files / f"{word}.safetensors" if word in there else word for word in given)]
    small = run(*line)
    monkeypatch.setattr("fmtool.artifacts.descriptions.LARGE", 0)
    monkeypatch.setattr("fmtool.artifacts.files.read_bytes", lambda source: pytest.fail(f"{source} is read whole"))
    assert run(*line) == small and small.code == 0
