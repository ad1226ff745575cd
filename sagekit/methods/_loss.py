"""What methods share whose step is one loss of the logits, any of ``losses.compared`` or Eq 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.batches import Batch
from ..losses import Loss, Name, named
from ..losses.compared import COSINE
from ..networks.heads import Features, accuracy, right_by_class
from ..settings import Part
from . import Method, Now, Seen, Task
from ._stages import Stage


class WithLoss(Part):
    """Which loss, and the paper's factor in it. It stands before ``FromScratch`` or ``FineTuning``: CDB looks at validation
    images before each epoch of their ``stage``."""

    loss: Name = Field("ce", description="one of losses.compared, or la (Eq 1; at tau = 1 Balanced Softmax)")
    tau: float = Field(1.0, ge=0, description="of the losses la and vs")
    gamma: float = Field(0.0, ge=0, le=1, description="the paper's compensation factor, Eq 21-22; 0: none")

    def stage(self, **more: Any) -> Stage:
        """The stage of these settings, with ``more`` of its fields."""
        looks: dict[str, Any] = {"looks": ("val",), "look_again": True} if self.loss == "cdb" else {}
        return cast(Stage, super().stage(**{**looks, **more}))  # type: ignore[misc]

    @model_validator(mode="after")
    def _fits(self) -> Any:
        if self.loss in COSINE and getattr(self, "head", "cosine") != "cosine":  # without a setting it is a cosine one
            raise ValueError(f"loss {self.loss} needs head=cosine")
        if self.loss == "la" and self.gamma and self.tau != 1:
            raise ValueError("Eq 22 has tau = 1; set gamma=0 to move tau (tau = 1 + gamma is the same loss)")
        return self


class OfLogits(Method):
    """A method whose ``settings`` are ``WithLoss`` and have ``logit_scale`` and ``epochs``: one sampler, one view, one loss."""

    class_accuracy: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        if settings.loss == "cdb":
            self.register_buffer("class_accuracy", torch.full((len(task.class_names),), float("nan")))

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        """CDB's difficulty, from the second epoch on; a class without validation images is as hard as the mean."""
        features, labels = seen["val"]
        z = self.head_of(Features(features.to(self.counts.device))).prediction.cpu()
        if now.epoch:
            found = right_by_class(z, labels)
            self.class_accuracy.copy_(torch.where(found.isnan(), found.nanmean(), found))

    def loss(self, now: Now) -> Loss:
        """The loss of this step."""
        s, known = self.settings, self.class_accuracy if self.settings.loss == "cdb" else None
        if known is not None and known.isnan().any():
            known = None
        return named(s.loss, self.counts, tau=s.tau, gamma=s.gamma, scale=s.logit_scale, done=now.epoch / s.epochs,
                     class_accuracy=known, random=now.random)

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        z = self.logits(batch.views[0]).z
        return {"loss": self.loss(now)(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}
