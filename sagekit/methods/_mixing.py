"""Mixing two images of a batch into one: mixup's blend, CutMix's box, and the pair of labels that goes with them.

    blend    x = l x_i + (1 - l) x_j,   j a permutation of the batch,  l ~ Beta(a, a), one of a batch      (Zhang et al. 2018)
    paste    x = x_i with a box of x_j at the same place, l := the share of x_i that is left               (Yun et al. 2019)
    loss     l L(z, y_i) + (1 - l) L(z, y_j)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..losses import Loss


def beta(a: float, g: torch.Generator) -> float:
    """A draw of Beta(a, a), in 0..1, that ``g`` decides."""
    return float(np.random.default_rng(int(torch.randint(2**63 - 1, (1,), generator=g))).beta(a, a))


def blend(images: Tensor, labels: Tensor, a: float, g: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mixup of ``images`` (B, 3, H, W): the mixed ones, the other labels int64 (B,), and the first ones' share l."""
    share = beta(a, g)
    other = torch.randperm(len(labels), generator=g).to(labels.device)
    return share * images + (1 - share) * images[other], labels[other], share


def paste(back: Tensor, front: Tensor, share: float, y: float, x: float) -> tuple[Tensor, float]:
    """``back`` (B, 3, H, W) with a box of ``front``, and the share of ``back`` that is left.

    ``share`` in 0..1 is l before clipping, (``y``, ``x``) in 0..1 the box's centre, its pixel rounded down. Beta(1, 1) is
    uniform.
    """
    height, width = back.shape[-2:]
    half_h, half_w = (int(side * (1 - share) ** 0.5) // 2 for side in (height, width))
    row, column = int(y * height), int(x * width)
    rows, columns = (slice(max(0, at - half), min(side, at + half)) for at, half, side in
                     ((row, half_h, height), (column, half_w, width)))
    mixed = back.clone()
    mixed[..., rows, columns] = front[..., rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - pasted / (height * width)


def of_pair(loss: Loss, z: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
    """``loss`` of mixed images' logits (B, C) for both labels."""
    return loss(z, labels) if share == 1 else share * loss(z, labels) + (1 - share) * loss(z, others)
