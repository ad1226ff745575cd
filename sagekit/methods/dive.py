"""DiVE (He et al. 2021): distil a teacher that knows the counts, its predictions made flatter.

    stage 1   the teacher: Balanced Softmax, CE(z + log n, y)                   a network of the same kind, then frozen
    stage 2   (1 - a) CE(z + log n, y) + a T^2 KL(q || softmax(z / T))          the student, from nothing
              q_j ~ softmax(z_teacher / T)_j^p, renormalised;  a = 1/2, T = 2, p = 1/2
    test      z of the student

It believes that a teacher's soft labels are virtual examples of the rare classes for the frequent ones' images, the more so the
flatter they are.

Where paper and code differ, and what we do: no repository of its authors is public; this is the form of a repository of the
same institute. p acts after the temperature and before the sum is made 1 again. The teacher is its last epoch's weights, in
test mode, and sees the same view. The paper's T is 3 as we remember it. ``teacher`` takes a finished run of the same data in
stage 1's place, of any method whose images have the student's size. Table 4's row is of 90 epochs; their best is 71.7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..data.batches import Batch
from ..losses import logit_adjusted
from ..networks import resnet
from ..networks.heads import Features, Logits, accuracy
from . import Method, Now, Published, Task
from ._stages import FromScratch, Milestones, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 45.4}, "Table 1, row DiVE"),
    "cifar100-lt-50": Published({"all": 51.1}, "Table 1, row DiVE"),
    "cifar100-lt-10": Published({"all": 62.0}, "Table 1, row DiVE"),
    "inat2018": Published({"all": 69.1, "head": 70.6, "medium": 70.0, "tail": 67.6}, "Table 4, row DiVE"),
}


class DiVE(Method):
    """A student and its teacher."""

    class Settings(FromScratch):
        teacher: Path | None = Field(None, description="folder of a finished run in stage 1's place")
        distil: float = Field(0.5, ge=0, le=1, description="a, the teacher's share of the loss")
        temperature: float = Field(2.0, gt=0, description="T")
        flatten: float = Field(0.5, gt=0, description="p, the power of the teacher's probabilities")

    needs = "scratch"
    paper = "He et al., Distilling Virtual Examples for Long-tailed Recognition, ICCV 2021"

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.task = task
        self.net, self.head = self.fresh()
        self.teacher: nn.ModuleDict | None = None
        self.given: tuple[Method, ...] = ()

    def fresh(self) -> tuple[resnet.ResNet, nn.Linear]:
        """A network and a classifier, as they start."""
        net = resnet.build(self.task.network, self.task.weights)
        return net, nn.Linear(net.width, len(self.task.class_names))

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        more: dict[str, Any] = {"trains": settings.network}
        if settings.schedule == "steps":
            more["rate"] = Milestones(settings.decay, (0.6, 0.8), settings.warmup_epochs)
        student = settings.stage(**more)
        return [student] if settings.teacher else [settings.stage(**more, shared="la"), student]

    def start_stage(self, stage: int) -> None:
        if stage == 1:
            self.teacher = nn.ModuleDict({"net": self.net, "head": self.head}).requires_grad_(False)
            self.net, self.head = self.fresh()

    def taught_by(self, teacher: Method) -> None:
        self.given = (teacher,)  # in a tuple it is no part of this network

    def start_epoch(self, now: Now) -> None:
        for known in (self.teacher, *self.given):
            if known is not None:
                known.eval()  # the trainer has just put all into training mode

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        z = self.logits(batch.views[0]).z
        own = logit_adjusted(z, batch.labels, self.counts, 1.0)
        right = accuracy(z, batch.labels)
        if now.stage < len(self.stages(s)) - 1:
            return {"loss": own, "train_accuracy": right}
        flat = (self.taught(batch.views[0]) / s.temperature).softmax(1) ** s.flatten
        flat = flat / flat.sum(1, keepdim=True)
        distilled = s.temperature**2 * F.kl_div((z / s.temperature).log_softmax(1), flat, reduction="batchmean")
        loss = (1 - s.distil) * own + s.distil * distilled
        return {"loss": loss, "own": own, "distilled": distilled, "train_accuracy": right}

    @torch.no_grad()
    def taught(self, images: Tensor) -> Tensor:
        """The teacher's logits (B, C) of ``images``."""
        if self.teacher is None:
            return self.given[0].logits(images).prediction
        feature = self.teacher["net"](images)
        with torch.autocast(images.device.type, enabled=False):
            return cast(Tensor, self.teacher["head"](feature.to(self.head.weight)))

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return Features(self.net(images))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
