"""The files of the fixture `files` as artifacts, and what is cheap to fit to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

import fmtool
from fmtool.artifacts.format import Artifact

FEW = {"lambda_": 0.1, "min_steps": 5, "max_steps": 8}


def load(files: Path, name: str) -> Artifact:
    """One of the shared files."""
    return fmtool.read(str(files / f"{name}.safetensors"))


def changed(artifact: Artifact, **tensors: torch.Tensor) -> Artifact:
    """The same artifact with other tensors."""
    return dataclasses.replace(artifact, tensors={**artifact.tensors, **tensors})
