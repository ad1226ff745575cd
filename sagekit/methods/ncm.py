"""NCM (Kang et al. 2020): train everything, then ask for the nearest class mean.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    test      u(f) = (f - m) / |f - m|,  m the mean feature of all training images
              z_j = -|u(f) - mean_(x in class j) u(f_x)|^2                      the means are not normalised again

It believes that the features of a class lie around a centre whatever its count, so a classifier without weights is free of it.

Where paper and code differ, and what we do: this is the default of the authors' code (cl2n, squared distance), one of four
forms in it. We see the training images as in the test, without random crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.heads import Features, Logits
from . import Now, Published, Seen, Task
from ._decoupled import KANG, KANG_PLACES, Decoupled, Decoupling
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
ON_LIFT: dict[str, Any] = {}

PUBLISHED = {
    "places-lt": Published(settings=KANG_PLACES),
    "imagenet-lt": Published({"all": 47.3}, "the authors' repository, ResNeXt-50", KANG | {"backbone": "resnext50"}),
    "inat2018": Published(settings=KANG),
}


class NCM(Decoupled):
    """A network, its classifier of stage 1, and the class means that take its place."""

    class Settings(Decoupling):
        pass

    paper = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"
    centre: Tensor
    means: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("means", torch.zeros(len(task.class_names), self.width))
        self.nearest = False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.first(), Stage(epochs=0, looks=("train",))]

    def start_stage(self, stage: int) -> None:
        self.nearest = stage == 1

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        features, labels = seen["train"]
        self.centre.copy_(features.mean(0))
        unit = F.normalize(features - self.centre.cpu(), dim=1)
        sums = unit.new_zeros(self.means.shape).index_add_(0, labels, unit)
        self.means.copy_(sums / torch.bincount(labels, minlength=len(sums)).clamp(min=1)[:, None])

    def classify(self, features: Features) -> Logits:
        if not self.nearest:
            return super().classify(features)
        return Logits.plain(-torch.cdist(F.normalize(features.own - self.centre, dim=1), self.means) ** 2)
