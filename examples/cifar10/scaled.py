"""A checkpoint of a network whose logits are multiplied by a number: the same predictions, another scale of the loss.

python scaled.py resnet20-cifar10.safetensors 0.5 halved.safetensors
"""

from __future__ import annotations

import sys

from safetensors.torch import load_file, save_file

LAST = ("linear.weight", "linear.bias")


def main(source: str, factor: str, target: str) -> None:
    """Write the weights of `source`, those of the last layer times the factor."""
    weights = load_file(source)
    save_file({name: values * float(factor) if name in LAST else values for name, values in weights.items()}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
