"""Files together: what each is, whether it is whole, and what led to it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from forged import TINY
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts import history
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.matrices import MATRIX, digest_of, read_matrix
from fmtool.stages.inputs import data_input
from fmtool.stages.verify import Examined, examine, table


def written(artifact: Artifact, path: Path) -> Artifact:
    fmtool.write(artifact, str(path))
    return fmtool.read(str(path))


@pytest.fixture
def chain(tmp_path: Path) -> list[Artifact]:
    """Three files, each made from the one before."""
    first = written(dataclasses.replace(TINY, history=history.stage("one", {}, None, [])), tmp_path / "a")
    second = written(dataclasses.replace(TINY, history=history.stage("two", {}, None, [first])), tmp_path / "b")
    third = written(dataclasses.replace(TINY, history=history.stage("three", {}, None, [second])), tmp_path / "c")
    return [first, second, third]


def test_files_that_led_to_others_are_named_or_missing(chain: list[Artifact], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    examined = examine([str(tmp_path / name) for name in "cac"], lambda *said: told.append(said))
    assert [(one.name, one.kind, one.state) for one in examined] == [
        (str(tmp_path / name), "defense", "ok") for name in "ca"
    ]
    assert [one.digests for one in examined] == [[chain[2].digest], [chain[0].digest]]
    shown = table(examined)
    assert [row[4] for row in shown.rows] == [str(tmp_path / "a"), None]  # b is not there, but a is behind it
    (missing,) = shown.notes
    assert (
        missing.startswith(f"missing: defense {chain[1].digest[:12]}, which led to ") and str(tmp_path / "c") in missing
    )
    assert table(examine([str(tmp_path / name) for name in "abc"])).notes == []
    assert [one[0] for one in told] == ["reading", "reading"]  # a file that is given twice is read once


def test_damaged_missing_and_strange_files_are_told_apart(chain: list[Artifact], tmp_path: Path) -> None:
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "changed").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "cut.safetensors").write_bytes(content[:-1])
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "notes.txt").write_text("notes")
    names = ("changed", "cut.safetensors", "foreign.safetensors", "notes.txt", "nothing")
    found = {Path(one.name).name: one for one in examine([str(tmp_path / name) for name in names])}
    assert {name: one.state for name, one in found.items()} == {
        "changed": "damaged", "cut.safetensors": "damaged", "foreign.safetensors": "unknown", "notes.txt": "unknown",
        "nothing": "missing",
    }  # fmt: skip
    assert "does not match its digest" in found["changed"].damage and "No such file" in found["nothing"].damage
    assert found["notes.txt"].digests == [hashlib.sha256(b"notes").hexdigest()]


def test_data_are_recognised_as_the_history_recorded_them(tmp_path: Path) -> None:
    """By the split, the limit and the rows that it names."""
    digits = fmtool.load_data("digits:test", limit=9)
    save_file({"images": digits.images, "labels": digits.labels}, tmp_path / "data.safetensors")
    source = str(tmp_path / "data.safetensors")
    used = fmtool.load_data(source, limit=4)
    entry = data_input(used)
    made = dataclasses.replace(TINY, history=history.stage("attack", {}, None, [entry]))
    written(made, tmp_path / "made")
    examined = examine([source, str(tmp_path / "made")])
    assert (examined[0].kind, examined[0].state) == ("data", "ok")
    wrong = dataclasses.replace(made, history=history.stage("attack", {}, None, [{**entry, "digest": "0" * 64}]))
    written(wrong, tmp_path / "made")
    assert [one.state for one in examine([source, str(tmp_path / "made")])] == ["unknown", "ok"]


def test_a_split_may_be_named(tmp_path: Path) -> None:
    made = [fmtool.load_data(f"digits:{split}", limit=9) for split in ("test", "train")]
    stages = history.stage("attack", {}, None, [data_input(one) for one in made])
    written(dataclasses.replace(TINY, history=stages), tmp_path / "made")
    found = examine(["digits:test", "digits:val", "nothing:test", "nothing:else", str(tmp_path / "made")])
    assert [one.state for one in found] == ["ok", "unknown", "missing", "missing", "ok"]
    assert found[0].digests == [made[0].digest]


def test_a_split_of_a_file_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    draw, labels = np.random.default_rng(0), np.arange(6)
    np.savez(path, x_train=draw.random((6, 8, 8)), y_train=labels, x_test=draw.random((6, 8, 8)), y_test=labels)
    data = fmtool.load_data(f"{path}:test")
    written(dataclasses.replace(TINY, history=history.stage("attack", {}, None, [data_input(data)])), tmp_path / "made")
    found = examine([f"{path}:test", str(tmp_path / "made")])
    assert [(one.kind, one.state) for one in found] == [("data", "ok"), ("defense", "ok")]
    assert found[0].digests == [data.digest]


def test_what_was_read_as_a_checkpoint_or_a_matrix_is_recognised(chain: list[Artifact], tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("1.5,2\n3,4\n5,6\n")
    entries = [
        {"kind": "data", "name": "c", "split": "", "digest": hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()},
        {"kind": "data", "name": MATRIX, "split": "", "digest": digest_of(read_matrix(str(tmp_path / "m.csv"))[0])},
    ]
    written(dataclasses.replace(TINY, history=history.stage("import-model", {}, None, entries)), tmp_path / "made")
    found = examine([str(tmp_path / name) for name in ("c", "m.csv", "made")])
    assert [(one.kind, one.state) for one in found] == [("defense", "ok"), (MATRIX, "ok"), ("defense", "ok")]
    assert not any("data" in note for note in table(found).notes)


@pytest.mark.filterwarnings("error")
def test_matrices_of_a_file_are_recognised_alone_and_together(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, x=np.eye(3), y=np.ones((3, 2, 1)), labels=np.arange(3), names=np.array(["a", "b", "c"]))
    digests = {"x": digest_of(read_matrix(f"{path}:x")[0]), "y": digest_of(torch.ones(3, 2, dtype=torch.float64))}
    entries = [{"kind": "data", "name": MATRIX, "split": "", "digest": digest} for digest in digests.values()]
    written(dataclasses.replace(TINY, history=history.stage("correlate", {}, None, entries)), tmp_path / "made")
    for given, number in (([f"{path}:x", f"{path}:y"], 1), ([str(path)], 2)):
        found = examine([*given, str(tmp_path / "made")])
        assert all(
            (one.kind, one.state) == (MATRIX, "ok") and len(set(one.digests) & {*digests.values()}) == number
            for one in found[:-1]
        )
        assert not table(found).notes
    one, absent, other = examine([f"{path}:z", f"{tmp_path}/no.npz:x", str(tmp_path / "made")])
    assert one.state == "damaged" and one.damage == f"{path}:z: holds no matrix 'z'"
    assert absent.state == "missing" and other.state == "ok"


@pytest.mark.parametrize("content", [b"", bytes(200)])
def test_shards_without_content_are_damaged(content: bytes, tmp_path: Path) -> None:
    """A crash of the machine may leave files empty, or of zeros."""
    (tmp_path / "essential.safetensors.1-of-8").write_bytes(content)
    (found,) = examine([str(tmp_path / "essential.safetensors.1-of-8")])
    assert found.state == "damaged" and found.damage
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (found,) = examine([str(tmp_path / "model.safetensors.index.json")])
    assert found.state == "unknown"


def test_a_damaged_name_of_the_header_is_damage(chain: list[Artifact], tmp_path: Path) -> None:
    content = (tmp_path / "a").read_bytes()
    assert content.count(b'"fmtool":') == 1
    (tmp_path / "a.safetensors").write_bytes(content.replace(b'"fmtool":', b'"gmtool":'))
    (found,) = examine([str(tmp_path / "a.safetensors")])
    assert found.state == "damaged" and "has the fields of fmtool's header, but not its name" in found.damage


def test_a_data_set_needs_no_file() -> None:
    assert examine(["digits"]) == [Examined("digits", state="unknown")]
