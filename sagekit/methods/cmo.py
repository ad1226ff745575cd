"""CMO (Park et al. 2022): CutMix whose background is any image and whose patch comes from a sampler that favours the tail.

    x      = background x_1 with a box of x_2 pasted in at the same place
    box      sides of sqrt(1 - l) of the image's, l ~ Beta(1, 1); its centre is uniform over the image, the border clips it;
             then l := the share of x_1 that is left
    loss   = l L(z, y_1) + (1 - l) L(z, y_2)
    with probability 1/2 a batch, in epochs 3 < e < T - 3 (e = 0..T-1); L(z, y_1) otherwise

It believes that head images are rich in context and tail images in what a class is: pasting the one into the other makes new
tail images.

Where paper and code differ, and what we do: the authors hand 1 / n_y for each image to a weighted sampler, so patches are
class-balanced and not inverse to the counts, as the paper's q(1, k) reads; we follow the code. There is one l and one box a
batch, and the box's sides are even numbers of pixels, as theirs. L is CE unless ``loss`` says another; the published row's
source does not say which it is.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_balanced, every_image
from ..networks.heads import accuracy
from . import Now, Published
from ._stages import Stage
from .scratch import Scratch

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Scratch's; not searched for CMO."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 47.2}, "the authors' best row, by a collection of results (SCoRe)"),
    "cifar100-lt-50": Published({"all": 51.7}, "the authors' best row, by a collection of results (SCoRe)"),
    "cifar100-lt-10": Published({"all": 58.4}, "the authors' best row, by a collection of results (SCoRe)"),
}


class CMO(Scratch):
    """ResNet-32 on pasted images, with any of its losses."""

    class Settings(Scratch.Settings):
        mix_probability: float = Field(0.5, ge=0, le=1, description="of a batch to be mixed (authors' code)")
        plain_epochs: int = Field(3, ge=0, description="q; mixes in epochs q < e < epochs - q (authors' code)")

    paper = "Park et al., The Majority Can Help the Minority: Context-rich Minority Oversampling, CVPR 2022"

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage(samplers=(every_image, class_balanced))]

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (back, front), s = batches, self.settings
        draws = torch.rand(4, generator=now.random).tolist()
        mixes = s.plain_epochs < now.epoch < s.epochs - s.plain_epochs and draws[0] < s.mix_probability
        images, kept = paste(back.views[0], front.views[0], *draws[1:]) if mixes else (back.views[0], 1.0)
        z = self.logits(images).z
        loss = self.loss(z, back.labels, now)
        total = loss(z, back.labels) if kept == 1 else kept * loss(z, back.labels) + (1 - kept) * loss(z, front.labels)
        return {"loss": total, "train_accuracy": accuracy(z, back.labels)}


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
