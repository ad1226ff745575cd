"""OLTR (Liu et al. 2019): a feature borrows from a memory of class centres, the more surely the nearer it lies to one, and a
cosine classifier that heeds lengths predicts.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    stage 2   v = r (f + e * h M),  h = softmax(W f + b),  e = tanh(S f + s),   all weights and M, class-aware batches
              r = 10 / min_k |f - M_k|                                          M (C, d): class means after stage 1
              z_j = k |v| / (1 + |v|) cos(v, w_j),  k = 16                      no gradient from z to M
              CE(z, y) + 0.01 (A + 0.01 R)
              A = mean_b |f_b - M_(y_b)|^2 / 2
              R = max(0, 10 - mean_(b,k) |f_b - M_k|^2 [k != y_b])

It believes that a rare class can be told by what it shares with frequent ones, and that the distance to the nearest centre says
how familiar an image is.

Where paper and code differ, and what we do: all of the above is the authors' code. There A's gradient of M_j is sum (M_j - f_b)
/ (1 + n_j) / B over the n_j images of class j in the batch: not the 0.01 and one image too many; so here. R is 0 nearly always,
its 10 being small. Their modulated attention, for maps of 7 x 7, is left out: this is for a ResNet-32 without them. So is the
layer (d to 512, ReLU) that stage 2 puts behind their network and that starts at random. The paper has no CIFAR: rates, stage
2's epochs and falls are those for ImageNet-LT, where stage 2 is twice as long as stage 1; weight decay (theirs: 5e-4) and stage
1 are the common protocol's. They keep the best epoch on validation images, we the last. The published number is of a pretrained
ResNet-152 of which stage 2 trains little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.samplers import class_aware
from ..networks.heads import Features, Logits, accuracy
from . import Now, Published, Seen, Task
from ._decoupled import Decoupled, Decoupling
from ._stages import Milestones, Sgd, Stage

REACH = 10.0
"""r times the distance to the nearest centre."""
MARGIN, REPULSION = 10.0, 0.01
"""Of R, and its weight."""

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_epochs": 6,
                        "classifier_lr": 0.05, "feature_lr": 0.005, "memory_lr": 0.005}

PUBLISHED = {
    "places-lt": Published({"all": 35.9, "head": 44.7, "medium": 37.0, "tail": 25.3}, "Table 2, row OLTR"),
}


class OLTR(Decoupled):
    """A network, a linear classifier that then asks the memory, the memory, and the rows that predict."""

    class Settings(Decoupling):
        base: Literal["scratch"] = Field("scratch", description="its memory is of a ResNet's features")
        logit_scale: float = Field(16.0, gt=0, description="k (authors' code)")
        classifier_epochs: int = Field(60, ge=1, description="of stage 2 (authors' code for ImageNet-LT)")
        classifier_lr: float = Field(0.1, gt=0, description="of stage 2, times 0.1 after each third of it (authors' code)")
        feature_lr: float = Field(0.01, gt=0, description="of the network in stage 2, likewise (authors' code)")
        memory_lr: float = Field(0.01, gt=0, description="of M, likewise (authors' code)")
        feature_weight: float = Field(0.01, ge=0, description="of A + 0.01 R (authors' code)")

    paper = "Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019"

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        classes, width = len(task.class_names), self.width
        self.selector = nn.Linear(width, width)
        self.rows = nn.Parameter(torch.empty(classes, width).uniform_(-(width**-0.5), width**-0.5))
        self.memory = nn.Parameter(torch.zeros(classes, width))
        self.remembers = False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        rates = {"net": s.feature_lr, "memory": s.memory_lr}
        sgd = Sgd(s.classifier_lr, s.momentum, s.weight_decay, s.nesterov, decay_alike=False,
                  multiple=lambda name, p: rates.get(name.partition(".")[0], s.classifier_lr) / s.classifier_lr)
        second = s.stage(epochs=s.classifier_epochs, samplers=(class_aware,), optimizer=sgd, looks=("train",),
                         rate=Milestones(0.1, at=(1 / 3, 2 / 3), warmup_epochs=0))
        return [s.first(), second]

    def start_stage(self, stage: int) -> None:
        self.remembers = stage == 1

    @torch.no_grad()
    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        features, labels = seen["train"]
        sums = torch.zeros(self.memory.shape).index_add_(0, labels, features)
        self.memory.copy_(sums / torch.bincount(labels, minlength=len(sums)).clamp(min=1)[:, None])

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        if not self.remembers:
            return super().forward(batches, now)
        (batch,), labels = batches, batches[0].labels
        f = self.features(batch.views[0]).own.to(self.memory)
        z = self.head_of(Features(f)).z
        terms = {"z": F.cross_entropy(z, labels), "feature": feature_loss(f, labels, self.memory)}
        moves = memory_step(f, labels, self.memory)
        loss = terms["z"] + self.settings.feature_weight * terms["feature"] + (moves - moves.detach())
        return {"loss": loss, **terms, "train_accuracy": accuracy(z, labels)}

    def classify(self, features: Features) -> Logits:
        if not self.remembers:
            return super().classify(features)
        f, memory = features.own, self.memory.detach()
        nearest = torch.sqrt(_squares(f, memory).min(1, keepdim=True).values.clamp(min=1e-12))  # a feature may be a centre
        borrowed = torch.tanh(self.selector(f)) * (self.head(f).softmax(1) @ memory)
        v = REACH / nearest * (f + borrowed)
        squashed = v / (1 + v.norm(dim=1, keepdim=True))
        return Logits.plain(self.settings.logit_scale * squashed @ F.normalize(self.rows, dim=1).T)


def _squares(f: Tensor, memory: Tensor) -> Tensor:
    """|f_b - M_k|^2 of features (B, d) and M (C, d): (B, C)."""
    return torch.cdist(f, memory, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def feature_loss(f: Tensor, labels: Tensor, memory: Tensor) -> Tensor:
    """A + 0.01 R of features (B, d); A without a gradient of M (C, d)."""
    attraction = ((f - memory.detach()[labels]) ** 2).sum(1).mean() / 2
    others = _squares(f, memory).scatter(1, labels[:, None], 0.0)
    return attraction + REPULSION * (MARGIN - others.mean()).clamp(min=0)


def memory_step(f: Tensor, labels: Tensor, memory: Tensor) -> Tensor:
    """A scalar whose gradient of M (C, d) is the authors': sum (M_j - f_b) / (1 + n_j) / B."""
    shares = 1 + torch.bincount(labels, minlength=len(memory))[labels]
    return (((memory[labels] - f.detach()) ** 2).sum(1) / shares).sum() / (2 * len(f))
