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

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_balanced, every_image
from ..networks.heads import accuracy
from . import Now, Published
from ._loss import OfLogits, WithLoss
from ._mixing import of_pair, paste
from ._network import Networked, OnNetwork
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Scratch's; not searched for CMO."""
ON_LIFT: dict[str, Any] = {}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 47.2}, "the authors' best row, by a collection of results (SCoRe)"),
    "cifar100-lt-50": Published({"all": 51.7}, "the authors' best row, by a collection of results (SCoRe)"),
    "cifar100-lt-10": Published({"all": 58.4}, "the authors' best row, by a collection of results (SCoRe)"),
}


class CMO(Networked, OfLogits):
    """A network on pasted images, with any of its losses."""

    class Settings(WithLoss, OnNetwork):
        head: Literal["linear", "cosine"] = Field("linear", description="the classifier; margin losses need cosine")
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
        loss = of_pair(self.loss(now), z, back.labels, front.labels, kept)
        return {"loss": loss, "train_accuracy": accuracy(z, back.labels)}
