"""fmtool correlate: every statistic, curves, estimators of the dimension, and bad values."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts.format import Artifact
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
    main, classes, equal, sizes = json.loads(outcome.out)
    assert [len(table["rows"]) for table in (main, classes, equal, sizes)] == [3, 3 * 10, 3 * 10, 3 * 3]  # type: ignore[arg-type]
    found = fmtool.read(str(output), "correlation")
    curves, whole = found.header["curves"], found.header["statistics"]
    assert set(curves) == {"class_subsets", "equal_pairs", "subsample"}
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


@pytest.mark.slow
def test_thresholds_are_a_curve_whose_points_are_those_of_each_alone(
    sides: tuple[Path, Path], run: Run, tmp_path: Path
) -> None:
    """The main table is at the first one, and the curve ascends."""
    output, alone = tmp_path / "curve.safetensors", tmp_path / "alone.safetensors"
    line = ["correlate", *sides, "--permutations", 5, "--statistics", "cosine,idcor", "--format", "json"]
    outcome = run(*line, "--trim", "0.5,0,0.99,0.5", "-o", output)
    assert outcome.code == 0, outcome.err
    main, table = json.loads(outcome.out)
    assert [row["threshold"] for row in table["rows"]] == [0, 0.5, 0.99] * 2
    assert table["rows"][2]["observed"] is None and any(
        "cosine, threshold 0.99: no value" in note for note in table["notes"]
    )
    kept, empty = ({side: {} for side in sides} for _ in range(2))
    for side in sides:
        masks = fmtool.read(str(side))
        names = list(zip(masks["key"].tolist(), masks["index"].tolist(), strict=True))
        kept[side] = dict(zip(names, masks["preserved"].tolist(), strict=True))
        empty[side] = dict(zip(names, (masks["masks"] <= 0.5).flatten(1).all(1).tolist(), strict=True))
    pairs = [name for name in kept[sides[0]] if all(kept[side].get(name) for side in sides)]
    zero = sum(any(empty[side][name] for side in sides) for name in pairs)
    assert zero and table["notes"][1] == f"cosine, threshold 0.5: left out {zero} all zero"
    curve = fmtool.read(str(output), "correlation")
    assert curve.header["trim"] == 0.5
    entries = curve.header["curves"]["trim"]
    for threshold in (0.5, 0.0):
        assert run(*line, "--trim", threshold, "-o", alone).code == 0
        single = fmtool.read(str(alone), "correlation").header
        assert "curves" not in single and single["trim"] == threshold
        for one in single["statistics"]:
            (entry,) = [e for e in entries if (e["statistic"], e["threshold"]) == (one["name"], threshold)]
            assert all(entry[name] == one[name] for name in ("n", "observed", "null", "within_class"))
    (row,) = [row for row in main["rows"] if row["statistic"] == "cosine"]
    assert row["observed"] == table["rows"][1]["observed"] != table["rows"][0]["observed"]
    two = run("inspect", output, alone, "--format", "csv")
    assert "entries above 0.5" in two.out and two.code == 0
    picture = tmp_path / "trim.svg"
    assert run("plot", output, "-o", picture).code == 0 and "entries up to this are 0" in picture.read_text()
    page = tmp_path / "page.html"
    assert run("report", output, "-o", page).code == 0 and "against the threshold of entries" in page.read_text()


def masks_with(folder: Path, entries: list[list[float]], name: str) -> Path:
    """A masks file of 1x3x3 masks, six stored entries each, all preserved."""
    n = len(entries)
    tensors = {
        "masks": torch.tensor(entries, dtype=torch.float32).reshape(n, 1, 3, 2), "labels": torch.zeros(n, dtype=torch.int64),
        "targets": torch.zeros(n, dtype=torch.int64), "key": torch.arange(n), "index": torch.arange(n),
        "source": torch.zeros(n, dtype=torch.int64), "steps": torch.ones(n, dtype=torch.int64), "loss": torch.zeros(n),
        **{flag: torch.ones(n, dtype=torch.bool) for flag in ("preserved", "preserved_stored", "converged")},
    }  # fmt: skip
    header = {
        "for": "essential", "attack": None, "lambda": 0.1, "image_size": [3, 3], "basis": "fourier", "layer": "input",
        "class_names": ["a"], "data": [{"name": "x", "split": "test"}],
    }  # fmt: skip
    fmtool.write(Artifact("masks", header, tensors), str(folder / name))
    return folder / name


def test_what_the_optimiser_left_behind_is_counted(run: Run, tmp_path: Path) -> None:
    """Over the full spectrum: column 0 of the stored mask counts once, column 1 twice."""
    a = masks_with(tmp_path, [[1, 1e-3, 0, 0.5, 1e-5, 0], [0.9, 2e-3, 0, 1e-4, 0, 0], [1, 0, 0, 0.2, 2e-5, 0]], "a")
    b = masks_with(tmp_path, [[1, 0, 0, 0, 0, 0.1], [0.5, 0, 0, 0, 0, 0.2], [1, 0, 0, 0, 0, 0.3]], "b")
    output = tmp_path / "c"
    outcome = run(
        "correlate", a, b, "--statistics", "cosine", "--permutations", 3, "--trim", "0,1e-5,1e-3", "-o", output
    )
    assert outcome.code == 0, outcome.err
    # per row: 1e-3 twice and 1e-5; 1e-4 twice; 2e-5. Only the column of 1e-5 and 2e-5 holds no larger ones.
    assert "A: 6 of 15 non-zero entries are at or below 1e-3, and 1 of 9 columns hold no larger ones" in outcome.out
    assert "B: " not in outcome.out and "idcor scales" not in outcome.out
    made = fmtool.read(str(output), "correlation").header
    assert [side["residue"] for side in made["sides"]] == [
        {"non_zero": 15, "small": 6, "columns": 9, "small_columns": 1},
        {"non_zero": 9, "small": 0, "columns": 9, "small_columns": 0},
    ]
    assert [entry["columns"] for entry in made["curves"]["trim"]] == [[6, 3], [6, 3], [5, 3]]


def test_trimming_comes_before_pooling(run: Run, tmp_path: Path) -> None:
    a = masks_with(tmp_path, [[1, 0.4, 0.4, 0.6, 0.4, 0.4], [0.9, 0, 0, 0, 0, 0]], "a")
    b = masks_with(tmp_path, [[1, 0, 0, 0.6, 0, 0], [0.9, 0, 0, 0, 0, 0]], "b")
    output = tmp_path / "c"
    line = ["correlate", a, b, "--statistics", "cosine", "--permutations", 3, "--pool", 3, "-o", output]
    assert run(*line, "--trim", 0.5).code == 0
    assert fmtool.read(str(output))["cosine_pairs"].tolist() == pytest.approx([1, 1])


@pytest.mark.processes
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
    (tmp_path / "full.png").symlink_to("/dev/full")
    outcome = run("correlate", *sides, "--permutations", 5, "--statistics", "idcor", "--plot", tmp_path / "full.png")
    assert outcome.code == 1 and "No space left" in outcome.err and "idcor" in outcome.out  # the table is printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--subsample 10,x", "--subsample 10,x: expected numbers with commas between them"),
        ("--subsample ,", "--subsample ,: expected numbers"),
        ("--subsample 10,5000", "got 5000"),
        ("--subsample 0", "got 0"),
        ("--dimension mlee", "unknown dimension 'mlee' (did you mean 'mle'?)"),
        (
            "--dimension mle --statistics svcca,cosine",
            "--dimension applies to idcor only: add idcor to --statistics, or leave the option out",
        ),
        ("--no-row-normalise --statistics cka", "--no-row-normalise applies to idcor only"),
        ("--statistics cka,dcorr", "unknown statistic 'dcorr' (did you mean 'dcor'?)"),
        ("--draws 50 --statistics cosine", "--draws applies to --class-subsets and --subsample: add one of them"),
        ("--plot picture.bmp", "--plot picture.bmp: expected a name that ends in .png, .pdf, .svg"),
        ("--plot out.safetensors", "--plot and --output name the same file, out.safetensors"),
        ("--plot a.png --class-subsets --subsample 5", "--plot draws one curve"),
        ("--plot a.png --trim 0,0.1 --subsample 5", "--plot draws one curve"),
        ("--trim 0,x", "--trim 0,x: expected numbers with commas between them, like 0,1e-5,1e-3"),
        ("--trim 1", "--trim: expected thresholds from 0 to below 1, got 1"),
        ("--trim -0.1", "got -0.1"),
        ("--trim nan", "got nan"),
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


def test_trimming_is_for_masks(run: Run, tmp_path: Path) -> None:
    save_file({"rows": torch.rand(30, 4)}, tmp_path / "matrix")
    outcome = run("correlate", tmp_path / "matrix", tmp_path / "matrix", "--trim", "0,0.1")
    assert outcome.code == 1 and "--trim applies to mask files only" in outcome.err and outcome.err.count("\n") == 1


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
    told = run("correlate", *sides, "--statistics", "cosine, cka", "--permutations", 3, "-o", tmp_path / "out")
    assert told.code == 0 and "cosine: left out, cosine needs as many columns" in " ".join(told.out.split())
    assert "left out" in run("inspect", tmp_path / "out").out
    assert (
        run("verify", tmp_path / "out").code == 0
        and run("report", tmp_path / "out", "-o", tmp_path / "r.html").code == 0
    )
    none = run("correlate", *sides, "--statistics", "cosine", "--permutations", 3)
    assert none.code == 1 and none.err == "fmtool: error: cosine needs as many columns in y as in x, 3, got 4\n"


def test_idcor_of_few_rows_is_left_out_with_its_reason(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(8, 3)))
    outcome = run("correlate", tmp_path / "a.npy", tmp_path / "a.npy", "--permutations", 3, "--format", "json")
    assert outcome.code == 0, outcome.err
    table = json.loads(outcome.out)
    table = table[0] if isinstance(table, list) else table
    assert [row["statistic"] for row in table["rows"]] == ["svcca", "cosine"]
    assert any(note.startswith("idcor: left out, ") for note in table["notes"])


def test_a_matrix_of_a_file_is_chosen_by_name(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", one=rng.normal(size=(30, 3)), two=rng.normal(size=(30, 3)))
    line = ["--statistics", "cka", "--permutations", 3, "--format", "csv"]
    refused = run("correlate", tmp_path / "a.npz", tmp_path / "a.npz", *line)
    assert refused.code == 1 and "it holds 2 (one, two): expected FILE:NAME to choose one" in refused.err
    same = run("correlate", f"{tmp_path}/a.npz:one", f"{tmp_path}/a.npz:one", *line)
    other = run("correlate", f"{tmp_path}/a.npz:one", f"{tmp_path}/a.npz:two", *line)
    assert same.code == 0 and float(same.out.splitlines()[1].split(",")[2]) == pytest.approx(1)
    assert other.code == 0 and float(other.out.splitlines()[1].split(",")[2]) < 0.9


def test_both_files_labels_must_agree_and_be_integers(run: Run, tmp_path: Path) -> None:
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    for name, labels in (("a", torch.arange(30) % 3), ("b", torch.arange(30) % 2), ("c", torch.rand(30))):
        save_file({"rows": rows, "labels": labels}, tmp_path / f"{name}.safetensors")
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    for other, words in ((b, "label their rows differently"), (c, "labels that are integers")):
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
