"""Safetensors files of images and labels, with and without class names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import pixel_key
from safetensors.torch import save_file

from fmtool.datasets.data import load
from fmtool.datasets.readers.safetensors_files import holds_images, recognises
from fmtool.errors import ArtifactError, DataError


def _file(path: Path, images: torch.Tensor, labels: torch.Tensor, meta: dict[str, str] | None = None) -> str:
    save_file({"images": images, "labels": labels}, path, meta)
    return str(path)


def test_safetensors_with_and_without_class_names(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1, 2])
    named = load(_file(tmp_path / "a.safetensors", images, labels, {"class_names": '["x", "ü", "z"]', "other": "1"}))
    bare = load(_file(tmp_path / "b.safetensors", images, labels))
    assert named.class_names == ("x", "ü", "z") and bare.class_names == ()
    for data in (named, bare):
        assert torch.equal(data.images, images) and torch.equal(data.labels, labels) and data.split == "whole"
        assert data.key.tolist() == [pixel_key(image) for image in images.numpy()]
        assert torch.equal(data.pixels(), images.float() / 255)
    assert named.digest == bare.digest and named.name == "a.safetensors"


@pytest.mark.parametrize("names", ['"xyz"', "{}", '{"x": 1}', "3", "[]", "[1, 2, 3]", "x,y,z", "["])
def test_class_names_are_a_json_list(names: str, tmp_path: Path) -> None:
    source = _file(tmp_path / "a.safetensors", torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), {"class_names": names})
    with pytest.raises(DataError, match="class_names in its header is not a JSON list of names"):
        load(source)


def test_a_header_tells_images_from_other_tensors(tmp_path: Path) -> None:
    """Of the files that take any name, those of images are data; fmtool's own, weights and damaged ones are not."""
    images, labels = torch.zeros(2, 1, 2, 2), torch.zeros(2).long()
    assert recognises(tmp_path / "anything")
    assert holds_images(Path(_file(tmp_path / "a", images, labels)))
    save_file({"test_images": images, "test_labels": labels}, tmp_path / "b")
    assert holds_images(tmp_path / "b")
    save_file({"images": images}, tmp_path / "c", {"fmtool": "{}"})
    save_file({"weight": images}, tmp_path / "d")
    (tmp_path / "e").write_bytes(b"text")
    (tmp_path / "f").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    (tmp_path / "g").write_bytes((2).to_bytes(8, "little") + b"[]")
    assert not any(holds_images(tmp_path / name) for name in "cdefgh")


def test_what_is_no_safetensors_file_is_told_by_its_suffix(tmp_path: Path) -> None:
    """One that claims to be one is damaged; another may be of any other format."""
    for name in ("data.safetensors", "data.xyz"):
        (tmp_path / name).write_text("no header")
    with pytest.raises(ArtifactError, match=r"(?i)not a complete safetensors file [(]header ?too ?large[)]$"):
        load(str(tmp_path / "data.safetensors"))
    with pytest.raises(
        DataError, match=r"not a complete safetensors file .*; formats that can be read: safetensors, .npz"
    ):
        load(str(tmp_path / "data.xyz"))
