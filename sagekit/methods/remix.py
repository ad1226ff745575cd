"""Remix (Chou et al. 2020): mixup whose labels favour the rarer class of each pair.

    x_i    = l x_i + (1 - l) x_j,   j a permutation of the batch,  l ~ Beta(a, a), one a batch, a = 1
    loss   = mean_i  l_i CE(z_i, y_i) + (1 - l_i) CE(z_i, y_j)
    l_i    = 0 where n_i / n_j >= k and l < t,   1 where n_i / n_j <= 1 / k and 1 - l < t,   l otherwise;  k = 3, t = 1/2

It believes that a blend of a frequent and a rare class should count as the rare one, so that rare classes get more room between
the images.

Where paper and code differ, and what we do: no code of its authors was found. A much used third party's multiplies each pair's
l_i by a loss that is the batch's mean already, which makes it one l for the batch; ours is per pair, as the paper's text reads.
The numbers for CIFAR-100-LT are that third party's, with 400 epochs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..networks.heads import accuracy
from . import Now, Published
from ._mixing import blend
from ._network import Networked, OnNetwork
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
ON_LIFT: dict[str, Any] = {}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 41.4}, "BagofTricks-LT (Zhang et al. 2021), 400 epochs"),
    "cifar100-lt-50": Published({"all": 45.7}, "BagofTricks-LT (Zhang et al. 2021), 400 epochs"),
}


class Remix(Networked):
    """A network on blended images whose labels go to the rarer class."""

    class Settings(OnNetwork):
        mix_alpha: float = Field(1.0, gt=0, description="a of Beta(a, a)")
        ratio: float = Field(3.0, ge=1, description="k: from which ratio of counts a pair has one label")
        threshold: float = Field(0.5, ge=0, le=1, description="t: the share below which the frequent class gives way")

    paper = "Chou et al., Remix: Rebalanced Mixup, ECCV Workshops 2020"

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage()]

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        images, others, share = blend(batch.views[0], batch.labels, s.mix_alpha, now.random)
        z = self.logits(images).z
        own = shares(self.counts[batch.labels], self.counts[others], share, s.ratio, s.threshold).to(z)
        losses = own * F.cross_entropy(z, batch.labels, reduction="none")
        losses = losses + (1 - own) * F.cross_entropy(z, others, reduction="none")
        return {"loss": losses.mean(), "train_accuracy": accuracy(z, batch.labels)}


def shares(own: Tensor, other: Tensor, share: float, ratio: float, threshold: float) -> Tensor:
    """l_i of each pair, float64 (B,), for the counts (B,) of its two classes."""
    ratios = own / other
    found = torch.full(ratios.shape, share, dtype=torch.float64, device=ratios.device)
    found[(ratios >= ratio) & torch.tensor(share < threshold, device=ratios.device)] = 0
    found[(ratios <= 1 / ratio) & torch.tensor(1 - share < threshold, device=ratios.device)] = 1
    return found
