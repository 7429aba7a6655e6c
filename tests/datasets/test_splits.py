"""Splits: their names in files and arrays, and which one is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmtool.datasets.source import WHOLE
from fmtool.datasets.splits import choose, parse_spec, split_in, split_named
from fmtool.errors import DataError, FmtoolWarning


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images", (None, "images")), ("x_train", ("train", "x")), ("train_images", ("train", "images")),
        ("Xtest", ("test", "x")),
        ("y-val", ("val", "y")), ("validation_labels", ("val", "labels")), ("testX", ("test", "x")), ("dev.y", ("val", "y")),
        ("train", ("train", "")), ("train_test_x", (None, "train_test_x")), ("latest", (None, "latest")),
        ("fine_labels", (None, "fine_labels")),
    ],
)  # fmt: skip
def test_splits_are_found_in_the_names_of_arrays(name: str, expected: tuple[str | None, str]) -> None:
    assert split_in(name) == expected


def test_folders_are_splits_by_several_names() -> None:
    assert [split_named(name) for name in ("Training", "valid", "DEV", "testing", "tests", "")] == [
        "train", "val", "val", "test", None, None,
    ]  # fmt: skip


def test_a_split_is_the_last_part_unless_the_whole_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_spec("digits") == ("digits", None) and parse_spec("a:b:train") == ("a:b", "train")
    Path("data:train").mkdir()
    assert parse_spec("data:train") == ("data:train", None) and parse_spec("data:train:all") == ("data:train", "all")
    with pytest.raises(DataError, match=r"unknown split 'trian' \(did you mean 'train'\?\).* in --data digits:trian"):
        parse_spec("digits:trian")


def test_which_splits_are_read() -> None:
    every = ("train", "val", "test")
    assert choose(None, "train", every, "set") == ["train"] and choose("val", "train", every, "set") == ["val"]
    assert choose("all", "test", every, "set") == ["test", "val", "train"]
    assert choose("all", "test", ("train", "test"), "set") == ["test", "train"]
    assert choose(None, "test", [WHOLE], "set") == [WHOLE]
    with pytest.warns(FmtoolWarning, match="^set: has no test split: using val$"):
        assert choose(None, "test", ("train", "val"), "set") == ["val"]
    with pytest.raises(DataError, match=r"^set: has no splits, expected it without ':train'$"):
        choose("train", "test", [WHOLE], "set")
    with pytest.raises(DataError, match=r"^set: has no split 'test', only train, val$"):
        choose("test", "test", ("val", "train"), "set")
