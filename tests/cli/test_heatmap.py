"""fmtool heatmap: the file, its tables, shards and merging, resuming, pictures, and bad values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run

import fmtool
from fmtool.masks.radial import share_interval
from fmtool.masks.registry import FILTERS


def line(files: Path, *more: object) -> list[object]:
    return ["heatmap", files / "model.safetensors", "--data", "digits", "--limit", 12, *more]


def test_the_file_and_its_tables(files: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "heatmap"
    outcome = run(*line(files, "--filters", "--norm", 2, "-o", target, "--format", "json"))
    assert outcome.code == 0, outcome.err
    made = fmtool.read(str(target), "heatmap")
    assert made["wrong"].shape == made["loss"].shape == (12, 8, 5) and made.header["norm"] == 2.0
    torch.testing.assert_close(made["error_rate"], made["wrong"].float().mean(dim=0))
    torch.testing.assert_close(made["mean_loss"], made["loss"].mean(dim=0))
    assert torch.equal(
        made["wrong"][:, 1:, 0], made["wrong"][:, 1:, 0].flip(1)
    )  # rows k and -k of column 0 are one frequency
    main, worst, bands, filters = json.loads(outcome.out)
    weights = np.array([1, 2, 2, 2, 1])
    (row,) = main["rows"]
    assert row["n"] == 12 and row["mean error %"] == pytest.approx(
        100 * float((made["error_rate"].numpy() * weights).sum()) / 64, abs=1e-4
    )
    assert worst["rows"][0]["error %"] == pytest.approx(row["highest %"])
    assert [one["error %"] for one in worst["rows"]] == sorted((one["error %"] for one in worst["rows"]), reverse=True)
    assert sum(one["frequencies"] for one in bands["rows"]) == 64
    assert bands["rows"][0]["error %"] == pytest.approx(100 * float(made["error_rate"][0, 0]))
    radii, right = made.header["filters"]["radii"], made.header["filters"]["right"]
    assert len(filters["rows"]) == len(radii) and set(right) == set(FILTERS)
    clean = 12 - int(made["clean_wrong"].sum())
    assert right["low-pass"][-1] == right["high-pass"][0] == clean
    low, high = share_interval(clean / 12, 12)
    assert filters["rows"][-1]["low-pass 95 % low"] == pytest.approx(100 * low)
    assert filters["rows"][-1]["low-pass 95 % high"] == pytest.approx(100 * high)
    shown = run("inspect", target, "--history")
    assert shown.code == 0 and "Accuracy on filtered images" in shown.out and "--norm 2.0" in shown.out


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_and_another_seed_others(files: Path, run: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*line(files, "--seed", seed, "-o", tmp_path / name)).code == 0
    one, two, three = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == two and not torch.equal(
        fmtool.read(str(tmp_path / "a"))["loss"], fmtool.read(str(tmp_path / "c"))["loss"]
    )
    assert one != three


@pytest.mark.slow
def test_shards_merge_to_what_one_process_makes(files: Path, run: Run, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert run(*line(files, "--filters", "-o", whole)).code == 0
    parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        assert run(*line(files, "--filters", "--shard", f"{number}/3", "-o", part)).code == 0
    joined = tmp_path / "joined"
    assert run("merge", parts[2], parts[0], parts[1], "-o", joined).code == 0
    assert joined.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_files_of_other_images_merge_and_others_are_refused(files: Path, run: Run, tmp_path: Path) -> None:
    test, train = tmp_path / "test", tmp_path / "train"
    assert run(*line(files, "--filters", "-o", test)).code == 0
    model = files / "model.safetensors"
    assert run("heatmap", model, "--data", "digits:train", "--limit", 10, "--filters", "-o", train).code == 0
    assert run("merge", test, train, "-o", tmp_path / "both").code == 0
    both, parts = fmtool.read(str(tmp_path / "both")), [fmtool.read(str(path)) for path in (test, train)]
    assert torch.equal(both["loss"], torch.cat([part["loss"] for part in parts]))
    torch.testing.assert_close(both["error_rate"], both["wrong"].float().mean(dim=0))
    for kind in FILTERS:
        counts = zip(*(part.header["filters"]["right"][kind] for part in parts), strict=True)
        assert both.header["filters"]["right"][kind] == [sum(pair) for pair in counts]
    other = tmp_path / "other"
    assert run(*line(files, "--filters", "--norm", 3, "-o", other)).code == 0
    refused = run("merge", train, other, "-o", tmp_path / "none")
    assert refused.code == 1 and "norm" in refused.err and refused.err.count("\n") == 1


@pytest.mark.slow
def test_pictures_and_the_report(files: Path, run: Run, tmp_path: Path) -> None:
    heat, plain = files / "heatmap.safetensors", tmp_path / "plain"
    assert run(*line(files, "-o", plain)).code == 0
    for name in (heat, plain):
        assert run("plot", name, "-o", tmp_path / "heat.svg").code == 0
    three = [files / f"{name}.safetensors" for name in ("adversarial", "fmn", "essential")]
    target = tmp_path / "compare.svg"
    assert run("plot", heat, *three, "--figure", "compare", "-o", target).code == 0
    text = target.read_text()
    assert all(words in text for words in ("mean essential mask", "mean adversarial mask", "mean perturbation"))
    page = tmp_path / "page.html"
    assert run("report", heat, *three, "-o", page).code == 0
    assert "masks and perturbations of the same model" in page.read_text()
    twice = run("plot", heat, three[0], three[0], three[1], "--figure", "compare", "-o", target)
    assert twice.code == 1 and "got two of one purpose" in twice.err and twice.err.count("\n") == 1


def test_maps_that_do_not_fit_their_images_are_refused(files: Path, run: Run, tmp_path: Path) -> None:
    made = fmtool.read(str(files / "heatmap.safetensors"))
    bad = tmp_path / "bad"
    fmtool.write(dataclasses.replace(made, header={**made.header, "image_size": [8, 7]}), str(bad))
    for command in (["inspect"], ["plot", "-o", tmp_path / "x.png"], ["report", "-o", tmp_path / "x.html"]):
        outcome = run(command[0], bad, *command[1:])
        assert outcome.code == 1 and "does not fit images of [8, 7]" in outcome.err, outcome
        assert outcome.err.count("\n") == 1
    short = {**made.header, "filters": {"radii": [0.0], "right": {kind: [1, 2] for kind in FILTERS}}}
    fmtool.write(dataclasses.replace(made, header=short), str(bad))
    assert "its heatmap header is damaged (filters)" in run("inspect", bad).err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--norm 0", "--norm 0: expected a number above 0"),
        ("--norm -1", "--norm -1: expected a number above 0"),
        ("--norm nan", "--norm nan: expected a number above 0"),
        ("--shard 3/2", "3/2"),
        ("--data nothing", "unknown data set 'nothing'"),
    ],
)
def test_bad_values_are_one_line(options: str, message: str, files: Path, run: Run, tmp_path: Path) -> None:
    outcome = run(*line(files, "-o", tmp_path / "out", *options.split()))
    assert outcome.code == 1 and message in outcome.err and outcome.err.count("\n") == 1 and outcome.out == ""
    assert not list(tmp_path.iterdir())
