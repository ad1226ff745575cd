"""The views of an image: what the model sees in training and in the test.

Training: RandomResizedCrop and horizontal flip (from scratch: a padded, shifted image in place of the crop). Test: resize,
centre crop. Five-crop ensembling: resize to a little more than the crop, take the corners and the centre, and average the five
crops' logits (finding 10).
Sets that fit in memory are cropped and flipped in one batched call where they live; ``photos`` does it file by file.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config


def draw_boxes(n: int, height: int, width: int, scale: tuple[float, float], g: torch.Generator) -> Tensor:
    """Crop boxes float (n, 4) as (top, left, height, width) in pixels, distributed as torchvision's RandomResizedCrop.

    Area uniform in ``scale`` times the image, log-uniform aspect ratio in 3/4..4/3; ten tries, then the centre.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * torch.rand(n, 10, generator=g))
    ratio = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * torch.rand(n, 10, generator=g))
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    side = float(min(height, width))
    any_fits = fits.any(1)
    w, h = torch.where(any_fits, w, side), torch.where(any_fits, h, side)
    where = torch.rand(n, 2, generator=g)
    top = torch.where(any_fits, (where[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(any_fits, (where[:, 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], 1)


def crop_and_resize(images: Tensor, boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Cut ``boxes`` (B, 4) out of ``images`` (B, 3, H, W), resize to ``size`` and mirror the rows of bool ``flip`` (B,).

    Bilinear with the crop's edge repeated and zero outside the image; no antialiasing, so it is for enlarging (or halving,
    which averages 2 x 2 pixels). Returns float (B, 3, size, size) in the range of ``images``.
    """
    height, width = images.shape[-2:]
    top, left, h, w = (part.view(-1, 1) for part in boxes.to(images.device).T)
    steps = (torch.arange(size, device=images.device) + 0.5) / size
    x_steps = torch.where(flip.to(images.device).view(-1, 1), 1 - steps, steps)
    y = (top + steps * h).clamp(min=top + 0.5, max=top + h - 0.5)
    x = (left + x_steps * w).clamp(min=left + 0.5, max=left + w - 0.5)
    grid = torch.stack([
        (2 * x / width - 1).unsqueeze(1).expand(-1, size, -1),
        (2 * y / height - 1).unsqueeze(2).expand(-1, -1, size),
    ], -1)
    return F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)


def draw_shifts(n: int, height: int, width: int, g: torch.Generator) -> Tensor:
    """Boxes of the whole image, shifted by up to an eighth of it in whole pixels: (n, 4) as ``draw_boxes``.

    What lies outside is black: the usual four-pixel padding and random crop of CIFAR's 32 px.
    """
    top, left = ((torch.rand(n, generator=g) * (2 * (side // 8) + 1)).floor() - side // 8 for side in (height, width))
    return torch.stack([top, left, torch.full((n,), float(height)), torch.full((n,), float(width))], 1)


def draw_train_views(n: int, height: int, width: int, config: Config, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The random choices for n images: boxes (n, 4) and flips bool (n,). ``g`` decides everything."""
    if config.train_view == "padded":
        boxes = draw_shifts(n, height, width, g)
    else:
        boxes = draw_boxes(n, height, width, config.crop_scale, g)
    return boxes, (torch.rand(n, generator=g) < 0.5) & torch.tensor(config.flip)


def centre_view(images: Tensor, size: int, config: Config) -> Tensor:
    """Resize the shorter side to ``config.test_resize`` and cut the centre: float (B, 3, size, size) in 0..1."""
    from torchvision.transforms import v2

    return v2.functional.center_crop(_resize(images, config.test_resize), [size, size])


def five_crops(images: Tensor, size: int, config: Config) -> tuple[Tensor, ...]:
    """Corners and centre of the image resized to ``size + config.ensemble_margin``; five of (B, 3, size, size)."""
    from torchvision.transforms import v2

    return v2.functional.five_crop(_resize(images, size + config.ensemble_margin), [size, size])


def evaluation_views(images: Tensor, size: int, config: Config, ensembling: bool) -> tuple[Tensor, ...]:
    """The centre view alone, or the five crops."""
    return five_crops(images, size, config) if ensembling else (centre_view(images, size, config),)


def _resize(images: Tensor, side: int) -> Tensor:
    pixels = images.float() / 255
    if min(images.shape[-2:]) == side:
        return pixels
    from torchvision.transforms import v2

    return v2.functional.resize(pixels, [side], antialias=True).clamp(0, 1)
