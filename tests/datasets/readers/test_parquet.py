"""Parquet as Hugging Face's data sets have it, written by its own library."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from fmtool.datasets.data import load
from fmtool.errors import DataError, FmtoolWarning

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 0, 2, 0, 1, 2]


def _png(row: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(content, "PNG")
    return content.getvalue()


def _write(
    path: Path,
    rows: Any,
    names: Any = ("cat", "dog", "owl"),
    image: str = "image",
    label: str = "label",
    labels: Any = None,
    **more: Any,
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": _png(row), "path": f"{row}.png"} for row in rows], kind)
    columns = {image: images, label: pa.array([LABELS[row] for row in rows] if labels is None else labels), **more}
    features = {
        image: {"_type": "Image"},
        label: {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value"},
    }
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def _check(found: Any, rows: range) -> None:
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), PIXELS[list(rows)])
    assert found.labels.tolist() == [LABELS[row] for row in rows]


def test_a_file_is_whole(tmp_path: Path) -> None:
    _write(tmp_path / "d.parquet", range(9))
    found = load(str(tmp_path / "d.parquet"))
    _check(found, range(9))
    assert found.class_names == ("cat", "dog", "owl") and found.split == "whole" and found.format == "parquet"


@pytest.mark.parametrize("where", ["", "data", "repo/data"])
def test_part_files_of_several_splits(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "set" / where
    _write(folder / "train-00001-of-00002.parquet", range(3, 5))
    _write(folder / "train-00000-of-00002.parquet", range(3))
    _write(folder / "validation-00000-of-00001.parquet", range(5, 7))
    _write(folder / "test-00000-of-00001-0123456789abcdef.parquet", range(7, 9))
    (folder / "README.md").write_text("no part file")
    source = str(tmp_path / "set")
    for split, rows in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 9))):
        _check(load(f"{source}:{split}"), rows)


def test_folders_for_the_splits(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "0.parquet", range(5))
    _write(tmp_path / "test" / "0.parquet", range(5, 9))
    _check(load(str(tmp_path)), range(5, 9))


@pytest.mark.parametrize(
    "file", ["cifar_{}.parquet", "{}-0.parquet", "cifar_{}-00000-of-00001.parquet", "{}/one.parquet"]
)
def test_files_whose_names_contain_the_split(file: str, tmp_path: Path) -> None:
    _write(tmp_path / "set" / file.format("train"), range(5))
    _write(tmp_path / "set" / file.format("test"), range(5, 9))
    _check(load(f"{tmp_path / 'set'}:train"), range(5))
    _check(load(str(tmp_path / "set")), range(5, 9))


def test_images_of_other_splits_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("train", range(5)), ("test", range(5, 9))):
        _write(tmp_path / "set" / f"{name}.parquet", rows)
    read, column, group = [], pq.ParquetFile.read, pq.ParquetFile.read_row_group

    def reading(file: Any, columns: list[str]) -> Any:
        read.append((columns[0], file.metadata.num_rows))
        return column(file, columns=columns)

    def reading_group(file: Any, number: int, columns: list[str]) -> Any:
        read.append((f"{columns[0]} of group {number}", file.metadata.num_rows))
        return group(file, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", reading)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", reading_group)
    _check(load(f"{tmp_path / 'set'}:test"), range(5, 9))
    assert sorted(read) == [("image of group 0", 4), ("image of group 1", 4), ("label", 4), ("label", 5)]
    read.clear()
    _check(load(f"{tmp_path / 'set'}:test", rows=(3, 4)), range(8, 9))
    assert sorted(read) == [("image of group 1", 4), ("label", 4), ("label", 5)]


def test_files_that_are_no_series_are_not_put_together(tmp_path: Path) -> None:
    for folder, names in (("a", ("0", "1")), ("b", ("cats", "dogs")), ("c", ("cifar_test", "digits_test"))):
        for number, name in enumerate(names):
            _write(tmp_path / folder / f"{name}.parquet", range(4 * number, 4 * number + 4))
    _check(load(str(tmp_path / "a")), range(8))
    for number in range(2):  # other tools name each part by a UUID
        _write(tmp_path / "d" / f"part-{number}-{uuid4()}-c000.parquet", range(4 * number, 4 * number + 4))
    _check(load(str(tmp_path / "d")), range(8))
    _write(tmp_path / "e" / "ab_test_results.parquet", range(4))  # a single one, by whatever name
    assert load(str(tmp_path / "e")).splits == {"whole": 4}
    for folder in "bc":
        with pytest.raises(DataError, match=r"can't tell how \w+.parquet and \w+.parquet belong together: expected"):
            load(str(tmp_path / folder))


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label"), ("picture", "kind")])
def test_columns_by_other_names(image: str, label: str, tmp_path: Path) -> None:
    _write(tmp_path / "d.parquet", range(4), image=image, label=label, note=pa.array([1.5] * 4))
    _check(load(str(tmp_path / "d.parquet")), range(4))


def test_cifar_100_has_two_columns_of_labels(tmp_path: Path) -> None:
    _write(tmp_path / "d.parquet", range(4), image="img", label="fine_label", coarse_label=pa.array([0] * 4))
    _check(load(str(tmp_path / "d.parquet")), range(4))


def test_labels_that_are_names_and_plain_bytes(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([_png(row) for row in range(3)], pa.binary()), "label": ["owl", "cat", "dog"]})
    pq.write_table(table, tmp_path / "d.parquet")
    found = load(str(tmp_path / "d.parquet"))
    assert found.class_names == ("cat", "dog", "owl") and found.labels.tolist() == [2, 0, 1]
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), PIXELS[:3])


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary", "bool"])
def test_labels_of_any_type_beside_the_numbers_of_rows(kind: str, tmp_path: Path) -> None:
    """What pandas writes of rows that were chosen from a table."""
    names = pa.array([LABELS[row] == 1 if kind == "bool" else "abc"[LABELS[row]] for row in range(4)])
    labels = names if kind == "bool" else names.dictionary_encode() if kind == "dictionary" else names.cast(kind)
    index = pa.array([0, 1, 3, 4])
    _write(tmp_path / "d.parquet", range(4), names=None, labels=labels, __index_level_0__=index, id=index)
    found = load(str(tmp_path / "d.parquet"))
    assert found.labels.tolist() == ([False, False, True, True] if kind == "bool" else LABELS[:4])
    assert found.class_names == (() if kind == "bool" else ("a", "b", "c"))


def test_numbers_that_may_be_no_labels_are_told_or_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", range(4), names=None, labels=pa.array([1.5] * 4), id=pa.array(range(4)))
    with pytest.raises(DataError, match=r"the column label is of type double, expected integers or names$"):
        load(str(tmp_path / "a.parquet"))
    _write(tmp_path / "b.parquet", range(4), names=None, label="kind")
    with pytest.warns(FmtoolWarning, match=r"^b.parquet: takes the labels from the column kind$"):
        _check(load(str(tmp_path / "b.parquet")), range(4))


def test_missing_parts_columns_and_values_are_told(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "train-00000-of-00003.parquet", range(3))
    _write(tmp_path / "a" / "train-00002-of-00003.parquet", range(3))
    with pytest.raises(DataError, match="lacks 1 of 3 part files of train, first number 1"):
        load(f"{tmp_path / 'a'}:train")
    pq.write_table(pa.table({"text": ["x"], "label": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet has columns text, label: expected one of image bytes"):
        load(str(tmp_path / "b.parquet"))
    _write(tmp_path / "c.parquet", range(3), labels=[0, None, 1])
    with pytest.raises(DataError, match="row 1 has no label"):
        load(str(tmp_path / "c.parquet"))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": None, "path": "x.png"}], kind), "label": [1]}), tmp_path / "d.parquet"
    )
    with pytest.raises(DataError, match="0: can't be read as an image: its bytes are not in the file"):
        load(str(tmp_path / "d.parquet"))
    _write(tmp_path / "e" / "train.parquet", range(3))
    _write(tmp_path / "e" / "extra.parquet", range(3))
    with pytest.raises(DataError, match=r"extra.parquet is beside the splits train"):
        load(str(tmp_path / "e"))
    _write(tmp_path / "f" / "one" / "test.parquet", range(3))
    _write(tmp_path / "f" / "two" / "test.parquet", range(3))
    with pytest.raises(DataError, match="holds several series of part files"):
        load(str(tmp_path / "f"))
    (tmp_path / "g.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"g.parquet: can't be read as Parquet"):
        load(str(tmp_path / "g.parquet"))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, None], "row 1 has no label"),
        ([], "holds no images"),
        (None, "test.parquet has columns image: expected one of image bytes"),
    ],
)
def test_a_split_without_labels_does_not_hinder_the_others(
    labels: list[int | None] | None, reason: str, tmp_path: Path
) -> None:
    _write(tmp_path / "set" / "train.parquet", range(5))
    if labels is None:
        pq.write_table(pa.table({"image": pa.array([_png(0)], pa.binary())}), tmp_path / "set" / "test.parquet")
    else:
        _write(tmp_path / "set" / "test.parquet", range(len(labels)), labels=pa.array(labels, pa.int64()))
    source = str(tmp_path / "set")
    with pytest.warns(FmtoolWarning, match=f"set: left out the split test: {reason}"):
        _check(load(f"{source}:train"), range(5))
    for spec in (source, f"{source}:test"):
        with pytest.raises(DataError, match=f"has no split 'test', only train; left out the split test: {reason}"):
            load(spec)
    (tmp_path / "set" / "train.parquet").unlink()
    with pytest.raises(DataError, match=f"set: the split test: {reason}"):
        load(f"{source}:test")


def test_without_the_library_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "d.parquet", range(2))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="reading Parquet needs pyarrow: pip install pyarrow"):
        load(str(tmp_path / "d.parquet"))
