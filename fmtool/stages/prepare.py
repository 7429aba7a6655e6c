"""A classifier ready to run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from fmtool.artifacts.format import Artifact
from fmtool.models.checkpoints import Specification, from_artifact
from fmtool.models.classifier import Classifier, batch_size, pick_device, prepare
from fmtool.runtime import threads


@dataclass(frozen=True)
class Ready:
    """A classifier on its device, folded and frozen, with its specification and the batch that every stage runs it at."""

    classifier: Classifier
    spec: Specification
    device: torch.device
    batch: int

    def recorded(self) -> dict[str, Any]:
        """What every history records of how the network was run, under the command line's names."""
        return {"--batch-size": self.batch, "--device": self.device.type, "--factory": factory_of(self.spec)}


def factory_of(spec: Specification) -> str | None:
    """What --factory must repeat for the network to be built, where third-party code builds it."""
    return spec.architecture if ":" in spec.architecture else None


def ready(model: Artifact, device: str, batch: int | None, factory: str | None) -> Ready:
    """Load a `model` artifact for attacking and mask fitting."""
    where = pick_device(device)
    classifier, spec = from_artifact(model, factory=factory)
    return Ready(
        prepare(classifier, where, spec.input_shape), spec, where, batch or batch_size(spec.input_shape, where)
    )


def code_of(classifier: Classifier, spec: Specification) -> dict[str, str]:
    """What tells whether somebody's factory still builds the same network: a digest of its logits on two images."""
    if factory_of(spec) is None:
        return {}
    where = next((tensor.device for tensor in [*classifier.parameters(), *classifier.buffers()]), torch.device("cpu"))
    images = torch.rand(2, *spec.input_shape, generator=torch.Generator().manual_seed(0)).to(where)

    @torch.no_grad()
    def digest() -> str:
        return hashlib.sha256(classifier(images).float().cpu().contiguous().numpy().data).hexdigest()

    with threads.pool(where, 1) as pool, torch.random.fork_rng([where] if where.type == "cuda" else []):
        found, again = pool.submit(digest).result(), pool.submit(digest).result()
    return {"network": found} if found == again else {}  # one that draws random numbers can't be told from another
