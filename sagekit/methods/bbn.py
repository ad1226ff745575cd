"""BBN (Zhou et al. 2020): two branches on one trunk, one for the images as they come, one for batches that turn the tail
around.

    P_j     = (1 / n_j) / sum_k (1 / n_k)                          class of an image in the second, reversed batch
    a       = 1 - (t / T)^2,   t = 0..T-1                          the epoch
    z       = W [2 a f_a ; 2 (1 - a) f_b] + bias                   f_a, f_b in R^64: one branch's feature of one image each
    loss    = a CE(z, y_a) + (1 - a) CE(z, y_b)
    test      z = W [f_a ; f_b] + bias                             both branches on the same image

It believes that features want the natural distribution and the classifier the reversed one, so training moves from one to the
other.

Where paper and code differ, and what we do: the factor 2 is in the authors' code and not in the paper's formula; it makes the
test's plain sum consistent with a = 1/2, and we have it. The trunk sees both batches in two forwards, so its BatchNorm
statistics move twice a step; so do ours. The rate warms up from a third and falls at 60 and 80 % of the epochs, and SGD is
Nesterov's, as theirs; they step the scheduler before an epoch, so their falls come an epoch earlier.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import every_image, reverse
from ..errors import UserError
from ..networks.heads import Features, Logits, accuracy, head
from ..networks.resnet import NAME, WIDTH, Block, ResNet32
from . import Method, Now, Published, Task
from ._stages import FromScratch, Milestones, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Scratch's; not searched for BBN."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 42.6}, "Table 1, row BBN"),
    "cifar100-lt-50": Published({"all": 47.0}, "Table 1, row BBN"),
    "cifar100-lt-10": Published({"all": 59.1}, "Table 1, row BBN"),
}


class BBN(Method):
    """A ResNet-32 whose last block exists twice."""

    class Settings(FromScratch):
        decay: float = Field(0.01, gt=0, le=1, description="the rate's factor after 60 % and again after 80 % (authors' code)")
        warmup_epochs: int = Field(5, ge=0, description="epochs of linear warm-up, from a third of lr (authors' code)")
        nesterov: bool = Field(True, description="authors' code")
        drop_last: bool = Field(True, description="leave out an epoch's last, incomplete batch (authors' code)")

    needs = "scratch"
    paper = "Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning, CVPR 2020"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        if task.network != NAME:
            raise UserError(f"bbn has two last blocks of {NAME}, not of {task.network}; leave out backbone.")
        self.trunk = ResNet32(blocks=14)
        self.branch_a, self.branch_b = (Block(WIDTH, WIDTH, 1) for _ in range(2))
        self.head = head("linear", 2 * WIDTH, len(task.class_names), 1.0)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        steps = {"rate": Milestones(settings.decay, (0.6, 0.8), settings.warmup_epochs, warmup_start=1 / 3)}
        return [settings.stage(samplers=(every_image, reverse), **(steps if settings.schedule == "steps" else {}))]

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        natural, reversed_ = batches
        a = 1 - (now.epoch / self.settings.epochs) ** 2
        f_a = self.branch_a(self.trunk.maps(natural.views[0])).mean((2, 3))
        f_b = self.branch_b(self.trunk.maps(reversed_.views[0])).mean((2, 3))
        z = self.head_of(Features(torch.cat([2 * a * f_a, 2 * (1 - a) * f_b], 1))).z
        terms = {"natural": F.cross_entropy(z, natural.labels), "reversed": F.cross_entropy(z, reversed_.labels)}
        right = a * accuracy(z, natural.labels) + (1 - a) * accuracy(z, reversed_.labels)
        return {"loss": a * terms["natural"] + (1 - a) * terms["reversed"], **terms, "train_accuracy": right}

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        maps = self.trunk.maps(images)
        return Features(torch.cat([branch(maps).mean((2, 3)) for branch in (self.branch_a, self.branch_b)], 1))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
