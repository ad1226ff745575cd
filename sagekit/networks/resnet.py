"""ResNet-32 from scratch (Table 7): no foundation model, no text; 463,504 weights.

He et al.'s network for small images: a 3 x 3 convolution, three stages of five blocks with 16, 32 and 64 channels, the mean
over places: a feature f in R^64. A block is ReLU(x + BN(conv(ReLU(BN(conv(x)))))); where the stage changes, x is taken at
every second place and its new channels are zero.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError

NAME = "resnet32"
NAMES = (NAME, "resnet10", "resnet50", "resnet152", "resnext50")
"""Networks from scratch; all but the first are in ``large``."""
WIDTH = 64
STAGES = ((16, 1), (32, 2), (WIDTH, 2))
MEAN, STD = 0.5, 0.25
"""Pixel normalisation, the same for all channels and data sets."""


class Block(nn.Module):
    """Two 3 x 3 convolutions around which ``x`` is passed by."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(before, after, stride)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = _convolution(after, after, 1)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.new = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        passed = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(passed, (0, 0, 0, 0, self.new // 2, self.new // 2)))


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return layer


class ResNet(nn.Module):
    """Images (B, 3, H, W), uint8 or float in 0..1, to features f (B, width), the mean over places of ``maps``."""

    width: int

    def maps(self, images: Tensor) -> Tensor:
        """The last block's map (B, width, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """f (B, width)."""
        return self.maps(images).mean((2, 3))


def build(name: str, weights: Path | None = None) -> ResNet:
    """The network called ``name`` (``NAMES``), from nothing or with the trunk of a file. Raises ``UserError`` where that does
    not fit, or for ResNet-32, which has no weights that people know."""
    if name == NAME:
        if weights is not None:
            raise UserError(f"{NAME} starts from nothing; leave out weights, or choose a backbone of {', '.join(NAMES[1:])}.")
        return ResNet32()
    from .large import LargeResNet  # loads timm

    return LargeResNet(name, weights)


class ResNet32(ResNet):
    """That of this file, (B, 3, H, W) to (B, 64) by maps of a quarter of the side. ``blocks`` < 15 leaves out the last ones."""

    width = WIDTH

    def __init__(self, blocks: int = 15) -> None:
        super().__init__()
        self.stem = _convolution(3, STAGES[0][0], 1)
        self.norm = nn.BatchNorm2d(STAGES[0][0])
        made, before = [], STAGES[0][0]
        for after, stride in STAGES:
            for place in range(5):
                made.append(Block(before, after, stride if place == 0 else 1))
                before = after
        self.blocks = nn.Sequential(*made[:blocks])
        self.to(memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> Tensor:
        """(B, 64, H / 4, W / 4)."""
        pixels = images / 255 if images.dtype == torch.uint8 else images
        x = ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        return self.blocks(F.relu(self.norm(self.stem(x))))
