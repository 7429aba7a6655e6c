"""What the tests of attacks share."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

import fmtool


@pytest.fixture(scope="module")
def trained(files: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The small model as every stage runs it, and 16 test images that it gets right."""
    from fmtool.stages.prepare import ready_model

    run = ready_model(fmtool.read(str(files / "model.safetensors")), fmtool.Execution(device="cpu"))
    data = fmtool.load_data("digits:test", limit=40)
    images = data.pixels()
    right = (run.classifier(images).argmax(1) == data.labels).nonzero().flatten()[:16]
    return run.classifier, images[right], data.labels[right]
