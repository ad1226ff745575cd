"""OTmix (Gao et al. 2023): CMO whose background for each patch is chosen by optimal transport, among the images of the batch.

    an epoch e is CMO's, or with probability (e / T)^u, u = 1, one of transport; both mix a batch with probability 1/2, in
    epochs 3 < e < T - 3 (e = 0..T-1), with CMO's box and one l ~ Beta(4, 4) of a batch
    patches i are class-balanced, backgrounds j as they come:
    M_ij   = w (1 - cos(F_i, F_j)) + (1 - w) (1 - C[y_i, y_j]),  w = 0.05,  F the last map, flattened
    P      = argmin_P <P, M> + r sum_ij P_ij log P_ij,  r = 0.01,  rows and columns of P with equal sums (Sinkhorn)
    x_i    = image argmax_j P_ij with a box of patch i;   loss = l L(z, y_j) + (1 - l) L(z, y_i)
    C      share of class y_i's images that the network takes for y_j, measured before every epoch; C[y, y] = 0

It believes that a patch belongs on a background that looks like its own, of a class with which its own is confused: the mixed
images then lie where the border has to be learned.

Where paper and code differ, and what we do: the authors measure C on the TEST images, after every epoch, and train with it. We
do not: ours is of validation images (``confusion=val``; val_share keeps some where a set has none) or of the training images,
where a network that has learned them by heart leaves C = 0, and M is of features alone. A class without images there has C = 0,
nan in theirs. As theirs: an epoch of transport trains on as many mixed images as there are patches, and a background may serve
several (argmax_j); the maps come from two more forwards in training mode, backgrounds first, so BatchNorm's statistics move
three times in such a step; the rate falls to 0.1, 0.01 and, the last time, 0.0001, without a warm-up. Their maps are taken
without the ReLU after the first convolution, a slip; ours have it. Sinkhorn stops as theirs, but cannot underflow. Each
process, or accumulated part, transports within its own part of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_balanced, every_image
from ..networks.heads import Features, accuracy
from ..networks.resnet import ResNet
from . import Now, Published, Seen, Task
from ._loss import OfLogits, WithLoss
from ._mixing import beta, of_pair, paste
from ._network import Networked, OnNetwork
from ._stages import Milestones, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Scratch's; not searched for OTmix."""

PUBLISHED: dict[str, Published] = {}
"""We know no number of it on CIFAR; the row RIDE+OTmix of Table 4 is another method's."""

FALLS = (100 / 240, 160 / 240, 200 / 240, 200 / 240)
"""Shares of the epochs after which the rate falls; the last time twice."""


class OTMix(Networked, OfLogits):
    """A network on pasted images, with any of its losses."""

    class Settings(WithLoss, OnNetwork):
        base: Literal["scratch"] = Field("scratch", description="it compares a ResNet's maps")
        head: Literal["linear", "cosine"] = Field("linear", description="the classifier; margin losses need cosine")
        epochs: int = Field(240, ge=0, description="authors' code")
        decay: float = Field(0.1, gt=0, le=1, description="the rate's factor after 100, 160 and twice after 200 of 240 epochs "
                             "(authors' code)")
        warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up (authors' code)")
        mix_probability: float = Field(0.5, ge=0, le=1, description="of a batch to be mixed (authors' code)")
        mix_alpha: float = Field(4.0, gt=0, description="a of Beta(a, a) (authors' code)")
        plain_epochs: int = Field(3, ge=0, description="q; mixes in epochs q < e < epochs - q (authors' code)")
        transport_power: float = Field(1.0, ge=0, description="u; 0: every epoch is one of transport (authors' code)")
        feature_weight: float = Field(0.05, ge=0, le=1, description="w (authors' code)")
        regularisation: float = Field(0.01, gt=0, description="r of Sinkhorn (authors' code)")
        confusion: Literal["val", "train"] = Field("val", description="images that C is measured on (authors' code: test)")

    paper = ("Gao et al., Enhancing Minority Classes by Mixing: An Adaptative Optimal Transport Approach for Long-tailed "
             "Classification, NeurIPS 2023")
    confused: Tensor
    draw: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.register_buffer("confused", torch.zeros(len(task.class_names), len(task.class_names)))  # C
        self.register_buffer("draw", torch.zeros(()))  # of the epoch, in 0..1: whether it is one of transport

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        stage = settings.stage(samplers=(every_image, class_balanced), look_again=True)
        if settings.schedule == "steps":
            stage = replace(stage, rate=Milestones(settings.decay, at=FALLS, warmup_epochs=settings.warmup_epochs))
        return [replace(stage, looks=tuple(sorted({*stage.looks, settings.confusion})))]  # CDB looks too

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        if self.settings.loss == "cdb":
            super().look(seen, now)
        features, labels = seen[self.settings.confusion]
        z = self.head_of(Features(features.to(self.counts.device))).prediction.cpu()
        self.confused.copy_(confusion(z, labels))

    def start_epoch(self, now: Now) -> None:
        self.draw.copy_(torch.rand((), generator=now.random))

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (back, front), s = batches, self.settings
        coin, *centre = torch.rand(3, generator=now.random).tolist()
        share = beta(s.mix_alpha, now.random)
        images, labels, kept = back.views[0], back.labels, 1.0
        if s.plain_epochs < now.epoch < s.epochs - s.plain_epochs and coin < s.mix_probability:
            if self.transports(now.epoch):
                chosen = self.backgrounds(back, front)
                images, labels = images[chosen], labels[chosen]
            images, kept = paste(images, front.views[0], share, *centre)
        z = self.logits(images).z
        loss = of_pair(self.loss(now), z, labels, front.labels, kept)
        return {"loss": loss, "train_accuracy": accuracy(z, labels)}

    def transports(self, epoch: int) -> bool:
        """Whether ``epoch`` is one of transport."""
        return bool(self.draw < (epoch / self.settings.epochs) ** self.settings.transport_power)

    @torch.no_grad()
    def backgrounds(self, back: Batch, front: Batch) -> Tensor:
        """For each of the B patches ``front`` the place of its image in ``back``, int64 (B,)."""
        net, w = cast(ResNet, self.net), self.settings.feature_weight
        b, f = (F.normalize(net.maps(batch.views[0]).flatten(1).to(self.confused), dim=1) for batch in (back, front))
        with torch.autocast(f.device.type, enabled=False):
            cost = w * (1 - f @ b.T) + (1 - w) * (1 - self.confused[front.labels][:, back.labels])
        return transport(cost, self.settings.regularisation).argmax(1).to(f.device)


def confusion(z: Tensor, labels: Tensor) -> Tensor:
    """C (C, C) of logits (N, C): the share of class i's images whose largest logit is j's, i != j; 0 for the class itself, and
    for one without images."""
    count = torch.zeros(z.shape[1], z.shape[1]).index_put_((labels, z.argmax(1)), torch.ones(len(z)), accumulate=True)
    return (count / count.sum(1, keepdim=True).clamp(min=1)).fill_diagonal_(0)


def transport(cost: Tensor, regularisation: float, rounds: int = 1000, tolerance: float = 1e-9) -> Tensor:
    """Sinkhorn's plan float64 (A, B), on the CPU, for ``cost`` (A, B): rows sum to 1 / A, columns within ``tolerance`` to
    1 / B, or what ``rounds`` give.

    Its first round is in logarithms, where nothing underflows; from then on no row or column sum is far from what it shall be,
    and ten rounds at a time scale a kernel whose logarithm keeps what they found.
    """
    logs = -cost.detach().cpu().double() / regularisation
    a, b = (1 / n for n in logs.shape)
    logs = logs - logs.logsumexp(0) + math.log(b)
    logs = logs - logs.logsumexp(1, keepdim=True) + math.log(a)
    for _ in range(rounds // 10):
        kernel = logs.exp()
        if (kernel.sum(0) - b).norm() < tolerance:
            break
        u = torch.ones(len(kernel), dtype=kernel.dtype)
        for _ in range(10):
            v = b / (u @ kernel)
            u = a / (kernel @ v)
        logs = logs + u.log()[:, None] + v.log()
    return logs.exp()
