"""Adversarial images of other libraries as attack files: judged anew, and taken by all later stages."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.torch import save_file
from torch import Tensor

import fmtool
from fmtool.errors import ArtifactError, AttackError, FmtoolError, FmtoolWarning
from fmtool.stages import import_attack

LINE = ["--data", "digits:test", "--limit", 40]


@pytest.fixture
def moved(files: Path) -> tuple[fmtool.Artifact, fmtool.Data, Tensor]:
    """The model, 40 images, and what PGD makes of them within 0.3."""
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=40)
    return model, data, fmtool.attack(model, data, attack="pgd", epsilon=0.3)["adversarial"]


def write(path: Path, images: Tensor, index: Tensor | None = None) -> str:
    """The images in the format of the suffix, under a name that is usual there."""
    if path.suffix == ".npy":
        np.save(path, images.numpy())
    elif path.suffix == ".npz":
        np.savez(path, x_adv=images.numpy(), **({} if index is None else {"index": index.numpy()}))
    elif path.suffix == ".safetensors":
        save_file({"adversarial": images.contiguous(), **({} if index is None else {"index": index})}, path)
    else:
        torch.save({"adv_complete": images, **({} if index is None else {"index": index})}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_images_of_any_format_are_judged_anew(suffix: str, moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    path = write(tmp_path / f"adv{suffix}", images)
    found = fmtool.import_attack(model, data, adversarial=path, name="autoattack")
    own = fmtool.attack(model, data, attack="pgd", epsilon=0.3)
    for name, tensor in own.tensors.items():
        assert torch.equal(found[name], tensor), name
    assert found.header["attack"] == "autoattack" and found.header["class_names"] == own.header["class_names"]
    entry = next(entry for entry in found.history[-1]["inputs"] if entry.get("option") == "--adversarial")
    assert entry["name"] == f"adv{suffix}" and entry["digest"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_rows_are_matched_by_their_index(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    expected = fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", images))
    path = write(tmp_path / "b.npz", images[order], data.index[order])
    assert torch.equal(fmtool.import_attack(model, data, adversarial=path)["adversarial"], expected["adversarial"])
    with pytest.warns(FmtoolWarning, match="nearer to another image than to their own: is the order the same"):
        fmtool.import_attack(model, data, adversarial=write(tmp_path / "c.npy", images[order]))


def test_attacked_images_that_were_wrong_before_are_left_clean(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    labels = data.labels.clone()
    labels[:3] = (labels[:3] + 1) % 10
    import dataclasses

    with pytest.warns(FmtoolWarning, match="3 images that the model gets wrong without an attack were attacked too"):
        found = fmtool.import_attack(
            model, dataclasses.replace(data, labels=labels), adversarial=write(tmp_path / "a.npy", images)
        )
    assert (found["status"][:3] == 1).all() and torch.equal(found["adversarial"][:3], found["images"][:3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_images_that_were_only_rounded_were_not_attacked(dtype: torch.dtype, moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    labels = data.labels.clone()
    labels[:3] = (labels[:3] + 1) % 10
    mixed = torch.cat([data.pixels()[:3], images[3:]])
    mixed[0, 0, 4, 4] += 0.01 if mixed[0, 0, 4, 4] < 0.5 else -0.01
    stored = (mixed * 255).round().to(dtype) if dtype == torch.uint8 else mixed.to(dtype)
    stored = stored + 6e-8 * (stored < 0.5) if dtype == torch.float32 else stored  # as undoing a normalisation leaves
    with pytest.warns(FmtoolWarning) as told:
        found = fmtool.import_attack(
            model, dataclasses.replace(data, labels=labels), adversarial=write(tmp_path / "a.npy", stored)
        )
    assert any(str(one.message).startswith("1 images that the model gets wrong without an attack") for one in told)
    assert torch.equal(found["adversarial"][:3], found["images"][:3])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda x: x[:39],
            r"images are \[39, 1, 8, 8\], expected those of digits, \[40, 1, 8, 8\] \(for the first N images pass --rows 0:N",
        ),
        (lambda x: x.permute(0, 2, 3, 1), r"images are \[40, 8, 8, 1\]"),
        (lambda x: x * 255, r"range from 0 to 2\d\d.*, expected \[0, 1\]: divide them by 255"),
        (lambda x: x - 0.5, "undo the normalisation"),
        (lambda x: x / 0, r"expected \[0, 1\]"),
        (lambda x: (x * 255).int(), r"images are torch.int32, expected float32"),
        (lambda x: x[0], r"expected images \(n, c, h, w\)"),
    ],
)
def test_other_shapes_and_ranges_are_told(change: Any, told: str, moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    with pytest.raises(FmtoolError, match=told):
        fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", change(images)))


@pytest.mark.slow
def test_files_that_are_none_are_told(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    (tmp_path / "page.npy").write_text("<html>")
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    for name, told in (
        ("page.npy", "a web page"),
        ("objects.npy", "can't be read as NumPy's"),
        ("none.npy", "can't be read"),
    ):
        with pytest.raises(FmtoolError, match=told):
            fmtool.import_attack(model, data, adversarial=str(tmp_path / name))
    with pytest.raises(AttackError, match="--name"):
        fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", images), name="")
    for index in (data.index[:39], data.index.float(), data.index * 0, data.index + 1):
        with pytest.raises(FmtoolError, match=r"index|no image for"):
            fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npz", images, index))


def test_damaged_archives_are_told_in_a_line(moved: Any, tmp_path: Path) -> None:
    """Truncated in an entry, encrypted, of an unknown compression, and with a damaged directory of entries."""
    model, data, images = moved
    path = write(tmp_path / "a.npz", images)
    whole = Path(path).read_bytes()
    directory = whole.rindex(b"PK\x01\x02")
    end = whole.rindex(b"PK\x05\x06")
    start = (directory - 1000).to_bytes(4, "little")
    flagged = whole[:6] + b"\x01" + whole[7 : directory + 8] + b"\x01" + whole[directory + 9 :]
    method = whole[:8] + b"\x63" + whole[9 : directory + 10] + b"\x63" + whole[directory + 11 :]
    for content, told in (
        (
            whole[: directory - 1000] + whole[directory : end + 16] + start + whole[end + 20 :],
            r"NumPy's arrays \(EOFError\)",
        ),
        (flagged, r"NumPy's arrays \(.*encrypted"),
        (method, r"NumPy's arrays \(.*compression"),
        (whole[:directory] + b"PK??" + whole[directory + 4 :], "truncated or damaged"),
    ):
        Path(path).write_bytes(content)
        with pytest.raises(FmtoolError, match=told):
            fmtool.import_attack(model, data, adversarial=path)


def test_standard_input_is_read_once_when_the_batch_is_halved(
    moved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, images = moved
    content = Path(write(tmp_path / "adv.npy", images)).read_bytes()
    stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    predict, execution = import_attack.predict, fmtool.Execution(batch_size=16)

    def small(classifier: Any, images: Any, size: int, *more: Any, **named: Any) -> Tensor:
        if size > 8:
            raise MemoryError
        return predict(classifier, images, size, *more, **named)

    monkeypatch.setattr(import_attack, "predict", small)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.warns(FmtoolWarning, match="out of memory with 16 images per batch: starting over with 8"):
        found = fmtool.import_attack(model, data, adversarial="-", execution=execution)
    assert found.history[-1]["options"]["--batch-size"] == 8
    assert hashlib.sha256(content).hexdigest() in [entry["digest"] for entry in found.history[-1]["inputs"]]


def test_bytes_of_another_white_are_told(files: Path, tmp_path: Path) -> None:
    """0 and 1 would be almost black after division by 255."""
    model, data = fmtool.read(str(files / "model.safetensors")), fmtool.load_data("digits:test", limit=40)
    path = write(tmp_path / "a.npy", data.pixels().round().byte())
    told = r"a\.npy: images are uint8 from 0 to 1, expected 0 to 255, or float32 in \[0, 1\]: divide them by the value of white"
    with pytest.raises(ArtifactError, match=told):
        fmtool.import_attack(model, data, adversarial=path)


def test_eight_bits_are_told(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    with pytest.warns(FmtoolWarning, match="8 bits a pixel"):
        found = fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", (images * 255).round().byte()))
    assert float((found["adversarial"] - images)[found["status"] != 1].abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_an_attack_of_torchattacks_goes_through_all_stages(run: Run, files: Path, tmp_path: Path) -> None:
    """Made on the network as the file gives it, outside of fmtool."""
    torchattacks = pytest.importorskip("torchattacks")
    from fmtool.models.model_files import from_artifact

    model, data = files / "model.safetensors", fmtool.load_data("digits:test", limit=40)
    network, _ = from_artifact(fmtool.read(str(model)))
    attack = torchattacks.PGDL2(network, eps=1.5, alpha=0.2, steps=10, random_start=False)
    path = write(tmp_path / "adv.pt", attack(data.pixels(), data.labels).detach())
    line = [
        "import-attack",
        model,
        *LINE,
        "--adversarial",
        path,
        "--name",
        "PGDL2",
        "-o",
        tmp_path / "attack",
        "--format",
        "json",
    ]
    outcome = run(*line)
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["rows"]
    assert row["attack"] == "PGDL2" and row["n"] == 40 and row["success %"] > 50
    assert 0.5 < row["median l2"] <= 1.5 + 1e-4
    few = ["--min-steps", 5, "--max-steps", 8]
    assert (
        run("fit-masks", model, tmp_path / "attack", "--for", "adversarial", *few, "-o", tmp_path / "masks").code == 0
    )
    assert run("class-masks", model, tmp_path / "attack", "--robust", *few, "-o", tmp_path / "robust").code == 0
    assert run("defend", model, tmp_path / "attack", tmp_path / "robust", "-o", tmp_path / "defense").code == 0
    assert (
        run("inspect", tmp_path / "masks").code == 0
        and run("merge", tmp_path / "attack", "-o", tmp_path / "all").code == 0
    )
    assert fmtool.read(str(tmp_path / "masks")).header["attack"] == "PGDL2"


def test_an_index_of_several_splits_is_refused(moved: Any, tmp_path: Path) -> None:
    """It begins anew in each, and would give the images of one to the other."""
    model, _, images = moved
    both = fmtool.load_data("digits:all", limit=40)
    path = write(tmp_path / "a.npz", images, torch.arange(40))
    with pytest.raises(ArtifactError, match=r"index counts the images of one split, and digits is of test\+train"):
        fmtool.import_attack(model, both, adversarial=path)


def test_only_the_arrays_that_are_needed_must_be_numbers(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    path, swapped = tmp_path / "a.npz", tmp_path / "b.npy"
    np.savez(path, x_adv=images.numpy(), class_names=np.array(["one", "two"]))
    np.save(swapped, images.numpy().astype(">f4"))
    for file in (path, swapped):
        found = fmtool.import_attack(model, data, adversarial=str(file))
        assert int((found["status"] == 0).sum()) > 20


def test_clean_images_beside_the_adversarial_ones_are_not_taken_for_them(moved: Any, tmp_path: Path) -> None:
    """Generic names may be those of the clean images."""
    model, data, images = moved
    clean, path = data.pixels(), tmp_path / "a.pt"
    for generic, name in (("x", "x_adversarial"), ("images", "perturbed"), ("x", "X_adv"), ("images", "adv_images")):
        torch.save({generic: clean, name: images}, path)
        found = fmtool.import_attack(model, data, adversarial=str(path))
        assert torch.equal(found["adversarial"], images), name
    for names in (("x", "moved"), ("images", "x"), ("adv", "x_adv")):
        torch.save(dict(zip(names, (clean, images), strict=True)), path)
        holds = ", ".join(rf"{name} \[40, 1, 8, 8\]" for name in names)
        with pytest.raises(ArtifactError, match=f"one named adversarial if there are several; it holds {holds}"):
            fmtool.import_attack(model, data, adversarial=str(path))
    torch.save({"images": images, "labels": data.labels}, path)
    assert torch.equal(fmtool.import_attack(model, data, adversarial=str(path))["adversarial"], images)


def test_images_that_are_all_clean_are_told(moved: Any, tmp_path: Path) -> None:
    model, data, _ = moved
    with pytest.warns(FmtoolWarning, match="no image differs from its clean one: are these the adversarial images"):
        fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", data.pixels()))


def test_labels_that_are_others_and_what_is_left_out_are_told(moved: Any, tmp_path: Path) -> None:
    """Attacked images of a shuffled loader are matched by nothing else."""
    model, data, images = moved
    path = tmp_path / "adv.pt"
    saved = {"adv_inputs": images, "labels": data.labels, "preds": data.labels}  # as torchattacks saves them
    torch.save(saved, path)
    with pytest.warns(FmtoolWarning) as told:
        fmtool.import_attack(model, data, adversarial=str(path))
    assert [str(one.message) for one in told] == [f"{path}: leaves out preds"]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    others = int((data.labels[order] != data.labels).sum())
    for content in ({**saved, "labels": data.labels[order]}, (images, data.labels[order])):
        torch.save(content, path)
        with pytest.warns(FmtoolWarning, match=rf"{others} of 40 labels are not those of digits: is the order"):
            fmtool.import_attack(model, data, adversarial=str(path))
    torch.save({"x_adv": images[order], "y": data.labels[order], "index": data.index[order]}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fmtool.import_attack(model, data, adversarial=str(path))


def test_an_index_that_is_a_list_counts(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    expected = fmtool.import_attack(model, data, adversarial=write(tmp_path / "a.npy", images))
    torch.save({"adv": images[order], "Index": data.index[order].tolist()}, tmp_path / "b.pt")
    found = fmtool.import_attack(model, data, adversarial=str(tmp_path / "b.pt"))
    assert torch.equal(found["adversarial"], expected["adversarial"])
    torch.save({"adv": images[order], "index": ["a"] * 40}, tmp_path / "b.pt")
    with pytest.raises(ArtifactError, match="expected one tensor named index, of whole numbers, or none"):
        fmtool.import_attack(model, data, adversarial=str(tmp_path / "b.pt"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64"])
def test_labels_may_be_any_whole_numbers_in_the_order_of_data_or_model(dtype: str, moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    backwards = dataclasses.replace(data, labels=9 - data.labels, class_names=tuple("9876543210"))
    others = np.zeros(40, dtype=np.int64)
    for labels in (data.labels, backwards.labels):
        named = {"labels": labels.numpy().astype(dtype), "y": others}
        np.savez(tmp_path / "adv.npz", x_adv=images.numpy(), **named)
        with pytest.warns(FmtoolWarning) as told:
            fmtool.import_attack(model, backwards, adversarial=str(tmp_path / "adv.npz"))
        assert [str(one.message) for one in told] == [
            "digits: has its classes in a different order from the model: labels are matched by name"
        ]


def test_bfloat16_is_rounded_and_odd_tensors_are_refused(moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    path = tmp_path / "adv.pt"
    torch.save(images.bfloat16(), path)
    with pytest.warns(FmtoolWarning, match="images are torch.bfloat16: attacks that barely succeed"):
        fmtool.import_attack(model, data, adversarial=str(path))
    torch.save(images.to("meta"), path)
    with pytest.raises(FmtoolError, match="holds a nested, quantised or meta tensor, expected plain numbers"):
        fmtool.import_attack(model, data, adversarial=str(path))


@pytest.mark.parametrize("labels", [np.array(["one"] * 40), np.zeros(7, dtype=np.int64), np.zeros(40)])
def test_labels_that_are_no_whole_numbers_are_left_out(labels: Any, moved: Any, tmp_path: Path) -> None:
    model, data, images = moved
    np.savez(tmp_path / "adv.npz", x_adv=images.numpy(), labels=labels)
    with pytest.warns(FmtoolWarning, match="leaves out labels$"):
        fmtool.import_attack(model, data, adversarial=str(tmp_path / "adv.npz"))
