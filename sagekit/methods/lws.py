"""LWS (Kang et al. 2020): train everything, then one factor for each class's logit on balanced batches.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    stage 2   z_j = s_j (w_j f + b_j), s = 1 at the start; CE, class-aware      s alone
              batches

It believes that the directions of the classifier are right after stage 1 and only its rows' lengths, which follow the counts,
are wrong.

Where paper and code differ, and what we do: in the authors' code s multiplies the bias too, and weight decay pulls s to 0; so
here. Their stage 2 is 5 epochs where cRT's is 10. BatchNorm as in cRT (``norms``). The paper has no CIFAR: the numbers there
are a third party's, with 30 epochs of another sampler in stage 2.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from ..networks.heads import Features, Logits
from . import Published, Task
from ._decoupled import KANG, KANG_PLACES, Decoupled, Retraining
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_lr": 0.05}
ON_LIFT: dict[str, Any] = {"classifier_epochs": 3, "classifier_lr": 0.01}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 40.2}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "cifar100-lt-50": Published({"all": 45.2}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "places-lt": Published({"all": 37.6, "head": 40.6, "medium": 39.1, "tail": 28.6}, "Table 2, row LWS", KANG_PLACES),
    "imagenet-lt": Published({"all": 47.7, "head": 57.1, "medium": 45.2, "tail": 29.3}, "Table 3, row LWS",
                             KANG | {"classifier_lr": 0.2}),
    "inat2018": Published({"all": 65.9, "head": 65.0, "medium": 66.3, "tail": 65.5}, "Table 4, row LWS",
                          KANG | {"classifier_lr": 0.2}),
}


class LWS(Decoupled):
    """A network and a linear classifier whose logits get a learned scale each."""

    class Settings(Retraining):
        classifier_epochs: int = Field(5, ge=1, description="of stage 2 (authors' code)")

    paper = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.scale = nn.Parameter(torch.ones(len(task.class_names)))

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.first(), settings.second("scale")]

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.scale * self.head(features.own))
