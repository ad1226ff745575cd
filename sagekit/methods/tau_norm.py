"""tau-norm (Kang et al. 2020): train everything, then divide each row of the classifier by a power of its length.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    test      z_j = w_j f / |w_j|^tau                                           the bias is left out
              tau of 0, 0.1, ..., 2 with the largest mean over classes of the validation images' accuracy, the smaller of equals

It believes that the rows' lengths alone carry the counts, so that nothing has to be trained again.

Where paper and code differ, and what we do: the bias is dropped in the authors' code. They choose tau on validation images on
ImageNet-LT and Places-LT, and on the test images on iNaturalist; here always on validation images, or as ``norm_tau`` says. The
paper has no CIFAR: the numbers there are a third party's at tau = 1. tau = 0 is not stage 1's classifier, which has a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from ..networks.heads import Features, Logits, right_by_class
from . import Now, Published, Seen, Task
from ._decoupled import KANG, KANG_PLACES, Decoupled, Decoupling
from ._stages import Stage

TAUS = [k / 10 for k in range(21)]
MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
ON_LIFT: dict[str, Any] = {}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 41.0}, "BagofTricks-LT (Zhang et al. 2021), not the authors, tau = 1"),
    "cifar100-lt-50": Published({"all": 45.7}, "BagofTricks-LT (Zhang et al. 2021), not the authors, tau = 1"),
    "places-lt": Published(settings=KANG_PLACES),
    "imagenet-lt": Published({"all": 49.4}, "the authors' repository, ResNeXt-50", KANG | {"backbone": "resnext50"}),
    "inat2018": Published(settings=KANG),
}


class TauNorm(Decoupled):
    """A network and a linear classifier, normalised after training."""

    class Settings(Decoupling):
        norm_tau: float | None = Field(None, ge=0, description="the power tau; empty: chosen on validation images")

    paper = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"
    chosen: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.register_buffer("chosen", torch.tensor(float("nan") if settings.norm_tau is None else settings.norm_tau))
        self.normalised = False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.first(), Stage(epochs=0, looks=("val",) if settings.norm_tau is None else ())]

    def start_stage(self, stage: int) -> None:
        self.normalised = stage == 1

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        features, labels = seen["val"].features.to(self.chosen.device), seen["val"].labels
        found = [right_by_class(self.scores(features, tau).cpu(), labels).nanmean().item() for tau in TAUS]
        self.chosen.fill_(TAUS[max(range(len(TAUS)), key=found.__getitem__)])

    def scores(self, feature: Tensor, tau: Tensor | float) -> Tensor:
        """w_j f / |w_j|^tau of features (B, d), times k on a CLIP; (B, C)."""
        rows = cast(Tensor, self.head.weight)
        z = feature @ (rows / rows.norm(dim=1, keepdim=True) ** tau).T
        return z if self.texts is None else self.settings.logit_scale * z

    def scalars(self) -> dict[str, float]:
        return {} if self.chosen.isnan() else {"norm_tau": self.chosen.item()}

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.scores(features.own, self.chosen) if self.normalised else self.head(features.own))
