"""mixup (Zhang et al. 2018): train on blends of two images, each with its share of both labels.

    x      = l x_i + (1 - l) x_j,   j a permutation of the batch,  l ~ Beta(a, a), one a batch, a = 1
    loss   = l L(z, y_i) + (1 - l) L(z, y_j)

It believes that a classifier should move evenly between images; on long tails its gain is calibration, and features that a
second stage can use (``mislas``). It does nothing about the counts unless L does.

Where paper and code differ, and what we do: the paper has no long tails; L is CE unless ``loss`` says another. The numbers for
CIFAR-100-LT are a third party's, with 400 epochs.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..networks.heads import accuracy
from . import Now, Published
from ._loss import OfLogits, WithLoss
from ._mixing import blend, of_pair
from ._network import Networked, OnNetwork
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
ON_LIFT: dict[str, Any] = {}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 40.8}, "BagofTricks-LT (Zhang et al. 2021), 400 epochs"),
    "cifar100-lt-50": Published({"all": 45.9}, "BagofTricks-LT (Zhang et al. 2021), 400 epochs"),
}


class Mixup(Networked, OfLogits):
    """A network on blended images, with any of its losses."""

    class Settings(WithLoss, OnNetwork):
        head: Literal["linear", "cosine"] = Field("linear", description="the classifier; margin losses need cosine")
        mix_alpha: float = Field(1.0, gt=0, description="a of Beta(a, a)")

    paper = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018"

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage()]

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        images, others, share = blend(batch.views[0], batch.labels, self.settings.mix_alpha, now.random)
        z = self.logits(images).z
        return {"loss": of_pair(self.loss(now), z, batch.labels, others, share), "train_accuracy": accuracy(z, batch.labels)}
