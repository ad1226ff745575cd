"""The ResNets of the large sets, as timm has them: ResNet-10, -50 and -152, and ResNeXt-50 of 32 groups of 4.

    f = the mean over places of the last map: 512 channels (ResNet-10) or 2048, of a 32nd of the image's side

Pixels are normalised by ImageNet's mean and deviation. ``early`` is all but the last block of the last stage, ``last`` is that
block: what Places-LT's protocol trains of a network that has seen ImageNet.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from . import weights as files
from .resnet import ResNet

LAYERS = {"resnet10": (1, 1, 1, 1), "resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3), "resnext50": (3, 4, 6, 3)}
"""Blocks of the four stages."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LargeResNet(ResNet):
    """One of ``LAYERS``, freshly initialised or with the trunk of the file ``weights`` (torchvision's and timm's names).

    Raises ``UserError`` when the file does not fit."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: Path | None = None) -> None:
        from timm.models import resnet as timm  # slow to import

        super().__init__()
        groups = {"cardinality": 32, "base_width": 4} if name == "resnext50" else {}
        block = timm.BasicBlock if name == "resnet10" else timm.Bottleneck
        net = timm.ResNet(block, LAYERS[name], num_classes=0, zero_init_last=False, **groups)
        if weights is not None:
            _fill(net, weights, name)
        self.width = int(net.num_features)
        stem = [(part, getattr(net, part)) for part in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")]
        self.early = nn.Sequential(OrderedDict([*stem, ("layer4", net.layer4[:-1])]))
        self.last = net.layer4[-1]
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> Tensor:
        """(B, width, H / 32, W / 32)."""
        pixels = images / 255 if images.dtype == torch.uint8 else images
        x = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.last(self.early(x))


def _fill(net: nn.Module, path: Path, name: str) -> None:
    """The trunk's weights out of ``path``; a classifier in it is left out."""
    state = {key: value for key, value in files.read(path).state.items() if not key.startswith("fc.")}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{path} does not fit {name}: {lines[min(1, len(lines) - 1)][:160]}") from None
