"""A checkpoint of a network whose logits are multiplied by a number: the same predictions, another scale of the loss.

python scaled.py resnet20-cifar10.safetensors 0.5 halved.safetensors
"""

from __future__ import annotations

import sys

from safetensors.torch import load_file, save_file

LAST = ("linear.weight", "linear.bias")


def main(source: str, factor: str, target: str) -> None:
    """Write the weights of `source`, a state dict of ResNet-20, those of the last layer times the factor."""
    if not source.endswith(".safetensors"):
        sys.exit(f"scaled.py: {source}: expected a .safetensors file of weights")
    weights = load_file(source)
    scaled = {name for name in weights if name.removeprefix("module.") in LAST}
    if len(scaled) < len(LAST):
        sys.exit(f"scaled.py: {source}: expected the weights of a last layer, {' and '.join(LAST)}")
    save_file({name: values * float(factor) if name in scaled else values for name, values in weights.items()}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
