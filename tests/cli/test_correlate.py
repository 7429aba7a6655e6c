"""fmtool correlate: every statistic, curves, estimators of the dimension, and bad values."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.correlation.registry import STATISTICS, STATISTICS_BY_DEFAULT


@pytest.fixture
def sides(files: Path) -> tuple[Path, Path]:
    return files / "essential.safetensors", files / "adversarial.safetensors"


def test_all_statistics_with_nulls_and_samples(sides: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    output = tmp_path / "found.safetensors"
    outcome = run("correlate", *sides, "--statistics", "all", "--permutations", 5, "-o", output, "--format", "csv")
    assert outcome.code == 0
    assert [row["statistic"] for row in csv.DictReader(io.StringIO(outcome.out))] == list(STATISTICS)
    found = fmtool.read(str(output), "correlation")
    expected = {f"{name}_{what}" for name in STATISTICS for what in ("null", "null_within_class")}
    assert set(found.tensors) == expected | {"cosine_pairs", "cosine_all_pairs_histogram"}
    n, observed = found.header["n"], found.header["statistics"][1]["observed"]
    assert found["cosine_pairs"].mean().item() == pytest.approx(observed)
    assert found["cosine_all_pairs_histogram"].sum() == n * (n - 1)
    assert found.header["dimension"] == "twonn" and "curves" not in found.header
    assert found.header["sides"][0]["perturb"] == 0.0
    assert found.history[-1]["options"]["--statistics"] == list(STATISTICS)


def test_curves_are_recorded_and_printed(sides: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    output = tmp_path / "found.safetensors"
    outcome = run(
        "correlate", *sides, "--class-subsets", "--subsample", "20,12", "--draws", 2, "--permutations", 3,
        "-o", output, "--format", "json",
    )  # fmt: skip
    assert outcome.code == 0
    main, classes, sizes = json.loads(outcome.out)
    assert [len(table["rows"]) for table in (main, classes, sizes)] == [3, 3 * 10, 3 * 3]  # type: ignore[arg-type]
    found = fmtool.read(str(output), "correlation")
    curves, whole = found.header["curves"], found.header["statistics"]
    assert set(curves) == {"class_subsets", "subsample"}
    entries = [entry for entry in curves["subsample"] if entry["statistic"] == "svcca"]
    assert [(entry["size"], len(entry["points"])) for entry in entries] == [(12, 2), (20, 2), (found.header["n"], 1)]
    assert [entry["statistic"] for entry in curves["class_subsets"]] == [
        name for name in STATISTICS_BY_DEFAULT for _ in range(10)
    ]
    for one, name in zip(whole, STATISTICS_BY_DEFAULT, strict=True):
        for which in curves.values():
            (last,) = [entry for entry in which if entry["statistic"] == name][-1]["points"]
            assert {key: last[key] for key in ("observed", "null", "within_class")} == {
                key: one[key] for key in ("observed", "null", "within_class")
            }
    few = [point for entry in curves["class_subsets"] for point in entry["points"] if "reason" in point]
    assert few and all(set(point) == {"classes", "n", "reason"} for point in few)
    assert not any("curve" in name or "subset" in name for name in found.tensors)


def test_another_estimator_of_the_dimension(sides: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    output = tmp_path / "found.safetensors"
    line = ["correlate", *sides, "--statistics", "idcor", "--permutations", 2, "--dimension", "mle", "-o", output]
    outcome = run(*line)
    assert outcome.code == 0 and "dimensions by mle" in outcome.out
    found = fmtool.read(str(output), "correlation")
    assert found.header["dimension"] == found.history[-1]["options"]["--dimension"] == "mle"


def test_the_picture_is_drawn_in_the_same_call(sides: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    outcome = run("correlate", *sides, "--permutations", 5, "--statistics", "idcor", "--plot", picture)
    assert outcome.code == 0 and "idcor" in outcome.out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--subsample 10,x", "--subsample 10,x: expected numbers with commas between them"),
        ("--subsample ,", "--subsample ,: expected numbers"),
        ("--subsample 10,5000", "got 5000"),
        ("--subsample 0", "got 0"),
        ("--dimension mlee", "unknown dimension 'mlee' (did you mean 'mle'?)"),
        ("--statistics cka,dcorr", "unknown statistic 'dcorr' (did you mean 'dcor'?)"),
        ("--plot picture.bmp", "picture.bmp: expected a name that ends in .png, .pdf, .svg"),
        ("--plot a.png --class-subsets --subsample 5", "--plot draws one curve"),
    ],
)
def test_bad_values_are_one_line(
    options: str, message: str, sides: tuple[Path, Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("correlate", *sides, "--permutations", 2, *options.split(), "-o", "out.safetensors")
    assert outcome.code == 1 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_subsets_of_classes_need_labels(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "matrix.safetensors"
    save_file({"rows": torch.rand(30, 4)}, path)
    outcome = run("correlate", path, path, "--class-subsets")
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert "subsets of classes need labels" in outcome.err


def test_all_leaves_out_the_cosine_where_the_sides_differ_in_width(run: Run, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name, columns in (("a", 3), ("b", 4)):
        save_file({"rows": torch.randn(40, columns, generator=draw)}, tmp_path / f"{name}.safetensors")
    sides = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    outcome = run("correlate", *sides, "--statistics", "all", "--permutations", 3, "--format", "csv")
    assert outcome.code == 0, outcome.err
    assert [line.split(",")[0] for line in outcome.out.splitlines()[1:]] == [
        "svcca",
        "idcor",
        "cca",
        "pwcca",
        "cka",
        "dcor",
    ]
    assert run("correlate", *sides, "--statistics", "cosine, cka", "--permutations", 3).code == 1


def test_both_files_labels_must_agree_and_be_integers(run: Run, tmp_path: Path) -> None:
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    for name, labels in (("a", torch.arange(30) % 3), ("b", torch.arange(30) % 2), ("c", torch.rand(30))):
        save_file({"rows": rows, "labels": labels}, tmp_path / f"{name}.safetensors")
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    for other, words in ((b, "give their rows other labels"), (c, "labels that are integers")):
        outcome = run("correlate", a, other, "--statistics", "cka", "--permutations", 3)
        assert outcome.code == 1 and words in outcome.err
    assert run("correlate", a, a, "--statistics", "cka", "--permutations", 3).code == 0


def test_matrices_of_any_float_type(run: Run, tmp_path: Path) -> None:
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    save_file({"rows": rows.bfloat16()}, tmp_path / "a.safetensors")
    outcome = run(
        "correlate", tmp_path / "a.safetensors", tmp_path / "a.safetensors", "--statistics", "cka", "--permutations", 3
    )
    assert outcome.code == 0, outcome.err
