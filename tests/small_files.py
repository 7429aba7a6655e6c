"""The files of the fixture `files` as artifacts, and what is cheap to fit to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

import fmtool
from fmtool.artifacts.format import Artifact

FEW = {"lambda_": 0.1, "min_steps": 5, "max_steps": 8}

PGD: dict[str, Any] = {"attack": "pgd", "epsilon": 0.3, "attack_options": {"steps": 3}}


def load(files: Path, name: str) -> Artifact:
    """One of the shared files."""
    return fmtool.read(str(files / f"{name}.safetensors"))


def changed(artifact: Artifact, **tensors: torch.Tensor) -> Artifact:
    """The same artifact with other tensors."""
    return dataclasses.replace(artifact, tensors={**artifact.tensors, **tensors})


def attacked_halves(model: Artifact) -> list[Artifact]:
    """The same attack, `PGD`, on 30 test images and on 25 training images."""
    return [
        fmtool.attack(model, fmtool.load_data(f"digits:{s}", limit=n), **PGD) for s, n in (("test", 30), ("train", 25))
    ]
