"""Damaged and forged files: the damaged ones break the format, the forged ones say impossible things under digests that hold."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.schema import TENSORS

# kind -> the smallest header that a reader takes
HEADERS: dict[str, dict[str, Any]] = {
    "model": {
        "architecture": "resnet8", "outputs": 2, "input_shape": [1, 2, 2], "class_names": ["a", "b"], "mean": None, "std": None,
        "keep_classes": None, "head": None, "accuracy": None,
    },
    "attack": {"attack": "fmn", "options": {}, "class_names": ["a", "b"], "data": []},
    "masks": {
        "for": "essential", "attack": None, "lambda": 0.1, "image_size": [2, 2], "basis": "fourier", "layer": "input",
        "class_names": ["a", "b"], "data": [],
    },
    "class-masks": {
        "robust": False, "attack": None, "lambda": 0.1, "image_size": [2, 2], "class_names": ["a", "b"], "images": [2],
        "data": [],
    },
    "correlation": {
        "statistics": [{"name": "svcca", "n": 1, "dropped": {}, "details": {}, "observed": 0.5, "null": {
            "mean": 0.5, "low": 0.5, "high": 0.5, "p": 0.5, "floor": 0.5, "adjusted": 0, "reason": "",
        }, "within_class": None}],
        "n": 1, "permutations": 1, "strict": False, "dropped": {},
        "sides": [{"for": None, "attack": None, "shape": [1, 1]}] * 2,
    },
    "heatmap": {"norm": 1.0, "image_size": [2, 2], "class_names": ["a", "b"], "data": [], "filters": None},
    "defense": {"matrix": [[None]], "rows": ["clean"], "columns": ["none"], "n": 1, "adaptive": False},
}  # fmt: skip

# a whole file of some hundred bytes
TINY = Artifact("defense", {**HEADERS["defense"], "rows": ["ä"]}, {
    name: torch.ones(1, dtype=torch.int64) for name in TENSORS["defense"]
})  # fmt: skip


def forge_all(files: Path, folder: Path) -> None:
    """Fill `folder` with bad files made from the good ones in `files`."""
    model = (files / "model.safetensors").read_bytes()
    for name, content in {
        "empty": b"", "text": b"images, labels and hope", "truncated": model[:-10],
        "changed": model[:-10] + bytes([model[-10] ^ 1]) + model[-9:],
        "schema": model.replace(b'\\"schema\\":2', b'\\"schema\\":3'),
    }.items():  # fmt: skip
        (folder / f"{name}.safetensors").write_bytes(content)
    (folder / "folder").mkdir()
    shutil.copy(files / "correlation.safetensors", folder)
    _forge_data(folder)
    _forge_artifacts(files, folder)
    torch.save({"state_dict": {"x": torch.zeros(99)}}, folder / "whole.pth")
    (folder / "truncated.pth").write_bytes((folder / "whole.pth").read_bytes()[:200])
    (folder / "text.pth").write_text("weights")
    (folder / "empty.pth").write_bytes(b"")


def _forge_data(folder: Path) -> None:
    digits = fmtool.load_data("digits:test", limit=20)
    images, labels = digits.images, digits.labels
    names = {"class_names": str([str(k) for k in range(10)]).replace("'", '"')}

    def data(name: str, images: torch.Tensor, labels: torch.Tensor, meta: dict[str, str] | None = names) -> None:
        save_file({"images": images.contiguous(), "labels": labels}, folder / f"{name}.safetensors", meta)

    data("fine-data", images, labels)
    data("label-high", images, labels + 1)
    data("label-low", images, labels - 1)
    data("label-nameless", images, labels + 1, None)
    data("label-many", images, torch.cat([labels, labels]))
    data("label-float", images, labels.float())
    data("bright", images * 1.01, labels)
    data("dark", images - 0.01, labels)
    data("nan", images * torch.nan, labels)
    data("int-images", (images * 255).long(), labels)
    data("flat", images.flatten(1), labels)
    data("names", images, labels, {"class_names": "{}"})
    data("none", images[:0], labels[:0])
    data("large", images.repeat(1, 1, 2, 2), labels)
    data("three", images, labels % 3, {"class_names": '["a", "b", "c"]'})
    save_file({"matrix": torch.rand(30, 4)}, folder / "matrix.safetensors")
    save_file({"matrix": torch.full((30, 4), torch.nan)}, folder / "matrix-nan.safetensors")
    save_file({"matrix": torch.rand(3, 2)}, folder / "few.safetensors")
    save_file({"matrix": torch.rand(1, 2)}, folder / "one.safetensors")
    save_file({"x": torch.rand(2, 3, 4)}, folder / "foreign.safetensors")


def _forge_artifacts(files: Path, folder: Path) -> None:
    model, fmn, essential, plain = (
        fmtool.read(str(files / f"{name}.safetensors")) for name in ("model", "fmn", "essential", "plain")
    )

    def forge(
        name: str, artifact: Artifact, header: dict[str, object] | None = None, **tensors: torch.Tensor
    ) -> Artifact:
        made = dataclasses.replace(
            artifact, header={**artifact.header, **(header or {})}, tensors={**artifact.tensors, **tensors}
        )
        fmtool.write(made, str(folder / f"{name}.safetensors"))
        return made

    def row(tensor: torch.Tensor, value: float) -> torch.Tensor:
        changed = tensor.clone()
        changed[0] = value
        return changed

    forge("model-header", model, {"input_shape": "1x8x8"})
    fmtool.write(dataclasses.replace(model, tensors={"x": torch.zeros(1)}), str(folder / "model-empty.safetensors"))
    other = forge("other-model", model, **{"linear.bias": model["linear.bias"] + 1e-6})
    history = [*plain.history[:-1], {**plain.history[-1], "inputs": [{"kind": "model", "digest": other.digest}]}]
    forge("class-masks-other", dataclasses.replace(plain, history=history))

    large = {name: fmn[name].repeat(1, 1, 2, 2) for name in ("images", "adversarial")}
    status, labels = fmn["status"], fmn["labels"]
    forge("attack-large", fmn, **large)
    forge("attack-label", fmn, labels=row(labels, 10))
    forge("attack-turned", fmn, adversarial_predictions=row(fmn["adversarial_predictions"], 10))
    forge("attack-status", fmn, status=row(status, 3))
    forge("attack-bright", fmn, adversarial=row(fmn["adversarial"], 1.01))
    forge("attack-nan", fmn, images=row(fmn["images"], torch.nan))
    forge("attack-twice", fmn, key=fmn["key"] * 0, index=fmn["index"] * 0)
    forge("attack-strange", fmn, key=fmn["key"] + 1)
    forge("attack-relabelled", fmn, labels=(labels + 1) % 10)
    forge("attack-short", fmn, key=fmn["key"][1:])
    forge("attack-wrong", fmn, status=torch.ones_like(status))
    forge("attack-failed", fmn, status=torch.full_like(status, 2))
    # shifted labels, so that the model is wrong on every image
    right = fmn["clean_predictions"]
    save_file({"images": fmn["images"], "labels": (right + 1) % 10}, folder / "all-wrong.safetensors")

    masks = essential["masks"]
    forge("masks-lost", essential, preserved=torch.zeros_like(essential["preserved"]))
    forge("masks-strange", essential, key=essential["key"] + 1)
    forge("masks-twice", essential, key=essential["key"] * 0, index=essential["index"] * 0)
    forge("masks-large", essential, {"image_size": [16, 16]}, masks=torch.rand(len(masks), 1, 16, 9))
    forge("masks-size", essential, {"image_size": [8, 10]})
    forge("masks-bright", essential, masks=masks + 1)
    forge("masks-relabelled", essential, labels=(essential["labels"] + 1) % 10)
    two = {name: tensor[:2] for name, tensor in essential.tensors.items()}
    forge("masks-two", essential, **{**two, "preserved": torch.ones(2, dtype=torch.bool)})
    forge("class-masks-large", plain, {"image_size": [16, 16]}, masks=torch.rand(len(plain["masks"]), 1, 16, 9))
    forge("class-masks-label", plain, classes=row(plain["classes"], 10))
    forge("class-masks-nan", plain, masks=row(plain["masks"], torch.nan))
