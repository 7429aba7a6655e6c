"""Matrices in other programs' files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fmtool.artifacts.matrices import read_matrix
from fmtool.errors import ArtifactError, FmtoolWarning

ROWS = np.random.default_rng(0).normal(size=(6, 4))


def _write(path: Path, values: Any) -> str:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, m=values)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(values), path)
    elif path.suffix == ".csv":
        np.savetxt(path, values, delimiter=",", fmt="%.17g")
    else:
        save_file({"m": torch.from_numpy(values)}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".csv", ".safetensors", ""])
def test_every_format_gives_the_same_numbers(suffix: str, tmp_path: Path) -> None:
    rows, labels = read_matrix(_write(tmp_path / f"x{suffix}", ROWS))
    assert rows.dtype == torch.float64 and np.array_equal(rows.numpy(), ROWS) and labels is None


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "bool"])
def test_integers_bytes_and_narrow_floats_are_converted(suffix: str, dtype: str, tmp_path: Path) -> None:
    values = (ROWS * 10 + 100).astype(dtype)
    rows, _ = read_matrix(_write(tmp_path / f"x{suffix}", values))
    assert rows.dtype == (torch.float32 if dtype == "float16" else torch.float64)
    assert np.array_equal(rows.numpy(), values.astype(float))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_axes_behind_the_first_are_flattened_and_a_vector_is_a_column(suffix: str, tmp_path: Path) -> None:
    with pytest.warns(FmtoolWarning, match=r"\[6, 2, 2\] is flattened to \[6, 4\]"):
        rows, _ = read_matrix(_write(tmp_path / f"x{suffix}", ROWS.reshape(6, 2, 2)))
    assert np.array_equal(rows.numpy(), ROWS)
    assert np.array_equal(read_matrix(_write(tmp_path / f"y{suffix}", ROWS[:, 0].copy()))[0].numpy(), ROWS[:, :1])


def test_one_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    content = {
        "a": torch.from_numpy(ROWS),
        "b": torch.from_numpy(ROWS) + 1,
        "labels": torch.arange(6),
        "v": torch.arange(6),
    }
    save_file(content, tmp_path / "x.safetensors")
    torch.save(content, tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", **{name: values.numpy() for name, values in content.items()})
    for suffix in ("safetensors", "pt", "npz"):
        source = f"{tmp_path}/x.{suffix}"
        rows, labels = read_matrix(f"{source}:b")
        assert np.array_equal(rows.numpy(), ROWS + 1) and labels is not None and labels.tolist() == list(range(6))
        assert read_matrix(f"{source}:labels")[0].shape == (6, 1)
        with pytest.raises(ArtifactError, match=r"it holds 2 \(a, b, v\): expected FILE:NAME"):
            read_matrix(source)
        with pytest.raises(ArtifactError, match="holds no matrix 'c', only a, b, v"):
            read_matrix(f"{source}:c")


def test_a_matrix_among_vectors_is_taken_and_the_rest_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", m=ROWS, index=np.arange(6), scalar=np.float64(1))
    with pytest.warns(FmtoolWarning, match="x.npz: takes m and leaves out index"):
        assert np.array_equal(read_matrix(f"{tmp_path}/x.npz")[0].numpy(), ROWS)


@pytest.mark.parametrize(
    ("text", "rows", "labels"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], None),
        ("1;2.5\n3;4\n", [[1, 2.5], [3, 4]], None),
        ("1\t2\n3\t4\n", [[1, 2], [3, 4]], None),
        ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]], None),
        (",a,b\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], None),
        ("1\n2\n", [[1], [2]], None),
        ("1e-3,-2\n3,4\n", [[0.001, -2], [3, 4]], None),
        ("1,2\n3,4\n\n# end\n", [[1, 2], [3, 4]], None),
        ("1,2 # first\n3,4\n", [[1, 2], [3, 4]], None),
        ("0\n1\n", [[0], [1]], None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*leaves out the column without a name")
def test_csv_with_and_without_names(
    text: str, rows: list[list[float]], labels: list[int] | None, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text(text)
    found, numbers = read_matrix(f"{tmp_path}/x.csv")
    assert found.tolist() == rows and (None if numbers is None else numbers.tolist()) == labels


@pytest.mark.parametrize("text", ['"a","label","b"\n1,7,2\n3,8,4\n', "# a,Class,b\n1,7,2\n3,8,4\n"])
def test_a_column_of_labels_is_taken_and_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.warns(FmtoolWarning, match=r"takes column (label|Class) as the labels of the rows; rename it if it is"):
        found, numbers = read_matrix(f"{tmp_path}/x.csv")
    assert found.tolist() == [[1, 2], [3, 4]] and numbers is not None and numbers.tolist() == [7, 8]


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_a_counter_that_pandas_wrote_is_left_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{name},a,b\n0,1,2\n1,3,4\n2,5,6\n")
    with pytest.warns(FmtoolWarning, match="leaves out the column"):
        assert read_matrix(f"{tmp_path}/x.csv")[0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_column_that_names_the_rows_is_refused(tmp_path: Path) -> None:
    """As pandas writes the index of sorted or chosen rows: left out, they would be paired with others' by their place."""
    (tmp_path / "x.csv").write_text(",a,b\n2,1,2\n0,3,4\n1,5,6\n")
    with pytest.raises(
        ArtifactError, match=r"the column without a name names the rows \(2, 0, 1, ...\), but rows are paired"
    ):
        read_matrix(f"{tmp_path}/x.csv")


def test_a_column_of_row_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",a,b\nr1,1,2\nr2,3,4\n")
    with pytest.raises(
        ArtifactError, match=r"the column without a name names the rows \(r1, ...\), but rows are paired"
    ):
        read_matrix(f"{tmp_path}/x.csv")


@pytest.mark.parametrize("text", ["", "a,b\n", ",a,b\n"])
def test_a_csv_without_rows_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ArtifactError, match=r"x.csv: holds no rows of numbers$"):
        read_matrix(f"{tmp_path}/x.csv")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_tensors_are_read_and_numbers_too_wide_for_torch_are_refused(tmp_path: Path) -> None:
    torch.save(torch.eye(3).to_sparse(), tmp_path / "x.pt")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert read_matrix(f"{tmp_path}/x.pt")[0].tolist() == torch.eye(3).tolist()
    assert [str(one.message) for one in told] == []
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.longdouble))
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(ArtifactError, match=r"holds float\d+, expected numbers of at most 64 bits$"):
            read_matrix(f"{tmp_path}/x.npy")


def test_a_sparse_tensor_with_indices_outside_it_is_refused(tmp_path: Path) -> None:
    """to_dense() would write past its memory."""
    torch.save(torch.sparse_coo_tensor([[7]], [1.0], (3,), check_invariants=False), tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=r"x\.pt: can't be read as \.pt: size is inconsistent with indices"):
        read_matrix(f"{tmp_path}/x.pt")


@pytest.mark.parametrize("text", ["0,5\n1,7\n2,6\n", "id,a\n1,5\n2,7\n3,6\n"])
def test_another_counter_is_used_and_told(text: str, tmp_path: Path) -> None:
    """Two files that have one are alike, whatever else they hold."""
    (tmp_path / "x.csv").write_text(text)
    with pytest.warns(FmtoolWarning, match=r"its first column counts the rows, from [01] to [23], and is used as data"):
        assert read_matrix(f"{tmp_path}/x.csv")[0].shape == (3, 2)


@pytest.mark.parametrize("header", ["0,1,2", "0\t1\t2", '"0","1","2"'])
def test_column_numbers_are_a_header(header: str, tmp_path: Path) -> None:
    """As pandas writes for columns without names."""
    delimiter = "\t" if "\t" in header else ","
    (tmp_path / "x.csv").write_text("\n".join([header, delimiter.join("567"), delimiter.join("012")]))
    with pytest.warns(
        FmtoolWarning, match=r"treats its first line \(0 to 2\) as a header; if it is data, add a line of names"
    ):
        assert read_matrix(f"{tmp_path}/x.csv")[0].tolist() == [[5, 6, 7], [0, 1, 2]]


@pytest.mark.parametrize("text", ["1,2\n{}\n3,4\n", "a,b\n{}\n3,4\n"])
@pytest.mark.parametrize("line", ["", "  ", "# 5,6"])
def test_lines_that_would_move_the_rows_below_are_refused(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text.format(line))
    with pytest.raises(
        ArtifactError, match=r"x.csv: line 2 is blank or a comment, but rows are paired by their place: remove"
    ):
        read_matrix(f"{tmp_path}/x.csv")


def test_labels_in_a_list_are_taken_and_other_entries_named(tmp_path: Path) -> None:
    torch.save({"m": torch.from_numpy(ROWS), "labels": [3, 1, 2, 0, 1, 1], "epoch": 7, "args": {}}, tmp_path / "x.pt")
    with pytest.warns(FmtoolWarning, match="x.pt: leaves out entries that aren't tensors: args, epoch"):
        rows, labels = read_matrix(f"{tmp_path}/x.pt")
    assert np.array_equal(rows.numpy(), ROWS) and labels is not None and labels.tolist() == [3, 1, 2, 0, 1, 1]
    torch.save({"m": torch.from_numpy(ROWS), "labels": ["cat"] * 6}, tmp_path / "x.pt")
    with pytest.warns(FmtoolWarning, match="x.pt: leaves out entries that aren't tensors: labels"):
        assert read_matrix(f"{tmp_path}/x.pt")[1] is None


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch $HERE",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path / "ran"))
    torch.save(_Runs(), tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([_Runs()], dtype=object), allow_pickle=True)
    for suffix in (".pt", ".npy"):
        with pytest.raises(ArtifactError, match=f"can't be read as {suffix}"):
            read_matrix(f"{tmp_path}/x{suffix}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a,b\n1,2\n3,x\n", "can't be read as .csv"), ("x.csv", b"1,2\n3\n", "can't be read as .csv"),
        ("x.csv", b"a,label\n1,2.5\n", "labels in column label are not integers"), ("x.npy", b"none", "can't be read as .npy"),
        ("x.npz", b"", "can't be read as .npz"), ("x.pt", b"PK\x03\x04", "can't be read as .pt"),
        ("x.safetensors", b"none of it", "not a complete safetensors file"), ("gone.npy", None, "can't be read: No such file"),
    ],
)  # fmt: skip
def test_damaged_files_are_one_line(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_matrix(str(tmp_path / name))


def test_numbers_that_are_not_real_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", ROWS + 1j)
    with pytest.raises(ArtifactError, match="expected real numbers, got complex128"):
        read_matrix(f"{tmp_path}/c.npy")
    np.save(tmp_path / "t.npy", np.array([["a", "b"]]))
    with pytest.raises(ArtifactError, match="holds <U1, expected numbers"):
        read_matrix(f"{tmp_path}/t.npy")


@pytest.mark.parametrize("first", ["NA,0.5,2", "0.5,null,1", "label,0.5,N/A"])
def test_a_first_line_of_data_with_a_word_in_it_is_no_header(first: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{first}\n1,0.25,3\n2,0.5,4\n")
    with pytest.raises(
        ArtifactError, match=r"its first line holds (NA|null|N/A) beside 0.5: fill in missing numbers, or"
    ):
        read_matrix(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("first", ["label,0.5,1.5", "a,1,2"])
def test_numbers_may_name_columns(first: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{first}\n1,0.25,3\n2,0.5,5\n7,0.5,5\n")
    assert len(read_matrix(str(tmp_path / "x.csv"))[0]) == 3


@pytest.mark.parametrize("label", ["inf", "2e30", "nan"])
def test_labels_that_int64_does_not_hold_are_refused(label: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"label,a\n1,0.5\n{label},0.25\n")
    with pytest.raises(ArtifactError, match=r"labels in column label are not integers, or beyond 2\^53"):
        read_matrix(str(tmp_path / "x.csv"))


def test_arrays_of_objects_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", acts=ROWS, names=np.array(["a", None], dtype=object))
    for source in ("x.npz", "x.npz:acts"):
        with pytest.warns(FmtoolWarning, match="leaves out arrays of Python objects: names"):
            assert np.array_equal(read_matrix(str(tmp_path / source))[0].numpy(), ROWS)


def test_what_is_no_plain_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"m": torch.empty(3, 2, device="meta")}, tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=r"x\.pt: holds no plain tensor: "):
        read_matrix(str(tmp_path / "x.pt"))


def test_a_file_of_another_suffix_says_which_are_read(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.txt", ROWS)
    with pytest.raises(
        ArtifactError, match=r"a matrix is expected in a file named \.safetensors, \.npy, \.npz, \.pt, "
    ):
        read_matrix(str(tmp_path / "x.txt"))


def test_a_missing_number_beside_whole_ones_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("NA,3,4\n1,0.25,3\n2,0.5,4\n")
    with pytest.raises(ArtifactError, match=r"its first line holds NA beside 3: fill in missing numbers"):
        read_matrix(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(("text", "told"), [("0\n0.5\n0.25\n", "0"), ("2019,2020\n0.5,1\n2,3.5\n", "2019, 2020")])
def test_a_first_line_that_may_name_columns_by_numbers_is_told(text: str, told: str, tmp_path: Path) -> None:
    """pandas writes a Series' name, 0, as a header."""
    (tmp_path / "x.csv").write_text(text)
    with pytest.warns(
        FmtoolWarning, match=rf"x\.csv: its first line \({told}\) is used as data; if it names the columns"
    ):
        read_matrix(str(tmp_path / "x.csv"))
