"""cRT (Kang et al. 2020): train everything on the images as they come, then the classifier anew on balanced batches.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    stage 2   W, b drawn anew; CE, class-aware batches: classes in turn,        W and b alone
              four images of one class in a row, as many steps as in stage 1

It believes that long-tailed images give good features and a bad classifier: only the classifier has to see the classes alike.

Where paper and code differ, and what we do: "frozen" in the authors' code leaves BatchNorm in training mode in stage 2, so its
running statistics move to the balanced sampling and the classifier sees batch statistics; we follow (``norms``). Their stage 2
calls the scheduler before the epoch, so the last epoch's rate is 0; ours is that of a cosine over epochs 0..E-1. The paper has
no CIFAR: the numbers there are a third party's, whose stage 2 is 30 epochs of another sampler, weight decay and schedule.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_aware
from ..networks.heads import Features, Logits, accuracy, head
from ..networks.resnet import ResNet32
from . import Method, Now, Published, Task
from ._stages import FromScratch, Sgd, Stage, cosine

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_epochs": 5,
                        "classifier_lr": 0.05}
"""Stage 1 is scratch's; stage 2 has the same rate and was not searched."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 40.3}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "cifar100-lt-50": Published({"all": 45.4}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "places-lt": Published({"all": 36.7, "head": 42.0, "medium": 37.6, "tail": 31.0}, "Table 2, row cRT"),
    "imagenet-lt": Published({"all": 47.3, "head": 58.8, "medium": 44.0, "tail": 26.1}, "Table 3, row cRT"),
    "inat2018": Published({"all": 65.2, "head": 69.0, "medium": 66.0, "tail": 63.2}, "Table 4, row cRT"),
}


class CRT(Method):
    """ResNet-32 and a linear head that is drawn anew."""

    class Settings(FromScratch):
        classifier_epochs: int = Field(10, ge=1, description="of stage 2 (Kang et al.)")
        classifier_lr: float = Field(0.1, gt=0, description="of stage 2, a cosine; Kang et al.: as in stage 1")
        norms: Literal["train", "eval"] = Field("train", description="BatchNorm of the frozen part (authors' code)")

    needs = "scratch"
    paper = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.net = ResNet32()
        self.head = head("linear", self.net.width, len(task.class_names), 1.0)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        sgd = Sgd(settings.classifier_lr, settings.momentum, settings.weight_decay, settings.nesterov)
        second = settings.stage(epochs=settings.classifier_epochs, trains="head.", samplers=(class_aware,), rate=cosine,
                                norms=settings.norms, optimizer=sgd)
        return [settings.stage(shared="ce"), second]

    def start_stage(self, stage: int) -> None:
        if stage == 1:
            self.head = head("linear", self.net.width, len(self.counts), 1.0)

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        z = self.logits(batch.views[0]).z
        return {"loss": F.cross_entropy(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return Features(self.net(images))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
