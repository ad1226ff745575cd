"""ResNet-32 from scratch with any of the compared losses (Table 7): no foundation model, no text.

    z = W f + b   (linear head),      z_i = k w_i . f   (cosine head; losses with margins are defined on cosines)
    loss: one of ``losses.compared`` or Eq 1, with the compensation factor where gamma > 0

A loss believes that the counts can be answered in the logits or the weights of the images, whatever the features are.

Where we differ from the authors of a loss: docs/studies.md and ``losses.compared``. Pixels are normalised by 0.5 / 0.25 and not
by CIFAR's own mean and deviation (BatchNorm follows).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ..data.batches import Batch
from ..losses import Name, named
from ..losses.compared import COSINE
from ..losses.difficulty import ClassAccuracy
from ..networks.heads import Features, Logits, accuracy, head
from ..networks.resnet import ResNet32
from . import Method, Now, Published, Task
from ._stages import FromScratch, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Two cores have little time; the rate was searched on CE on another draw of the data (benchmarks/search_scratch.py)."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 42.4, "head": 69.2, "medium": 42.2, "tail": 11.5}, "Table 7, row CE"),
    "cifar100-lt-50": Published({"all": 45.3, "head": 70.7, "medium": 46.2, "tail": 14.6}, "Table 7, row CE"),
    "cifar100-lt-10": Published({"all": 57.9, "head": 65.8, "medium": 39.5, "tail": 0.0}, "Table 7, row CE"),
}


class Scratch(Method):
    """ResNet-32 and a head."""

    class Settings(FromScratch):
        head: Literal["linear", "cosine"] = Field("linear", description="the classifier; margin losses need cosine")
        logit_scale: float = Field(25.0, gt=0, description="k of the cosine head")
        loss: Name = Field("ce", description="one of losses.compared, or la (Eq 1)")
        tau: float = Field(1.0, ge=0, description="of the losses la and vs")
        gamma: float = Field(0.0, ge=0, le=1, description="the paper's compensation factor, Eq 21; 0: none")

        @model_validator(mode="after")
        def _fits(self) -> Any:
            if self.loss in COSINE and self.head != "cosine":
                raise ValueError(f"loss {self.loss} needs head=cosine")
            if self.loss == "la" and self.gamma and self.tau != 1:
                raise ValueError("Eq 22 has tau = 1; set gamma=0 to move tau (tau = 1 + gamma is the same loss)")
            return self

    needs = "scratch"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; each loss's own in losses.compared"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.net = ResNet32()
        self.head = head(settings.head, self.net.width, len(task.class_names), settings.logit_scale)
        self.difficulty = ClassAccuracy(len(task.class_names)) if settings.loss == "cdb" else None

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        plain = settings.loss == "ce" and settings.head == "linear" and not settings.gamma
        return [settings.stage(shared="ce" if plain else "")]

    def start_epoch(self, now: Now) -> None:
        if self.difficulty is not None:
            self.difficulty.start_epoch()

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        z = self.logits(batch.views[0]).z
        known = None if self.difficulty is None else self.difficulty(z, batch.labels)
        loss = named(s.loss, self.counts, tau=s.tau, gamma=s.gamma, scale=s.logit_scale, done=now.epoch / s.epochs,
                     class_accuracy=known, random=now.random)
        return {"loss": loss(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return Features(self.net(images))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
