"""What methods share whose step is one loss of the logits, any of ``losses.compared`` or Eq 1."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from ..data.batches import Batch
from ..losses import Loss, Name, named
from ..losses.compared import COSINE
from ..losses.difficulty import ClassAccuracy
from ..networks.heads import accuracy
from ..settings import Part
from . import Method, Now, Task


class WithLoss(Part):
    """Which loss, and the paper's factor in it."""

    loss: Name = Field("ce", description="one of losses.compared, or la (Eq 1; at tau = 1 Balanced Softmax)")
    tau: float = Field(1.0, ge=0, description="of the losses la and vs")
    gamma: float = Field(0.0, ge=0, le=1, description="the paper's compensation factor, Eq 21-22; 0: none")

    @model_validator(mode="after")
    def _fits(self) -> Any:
        if self.loss in COSINE and getattr(self, "head", "cosine") != "cosine":  # without a setting: LIFT's head is cosine
            raise ValueError(f"loss {self.loss} needs head=cosine")
        if self.loss == "la" and self.gamma and self.tau != 1:
            raise ValueError("Eq 22 has tau = 1; set gamma=0 to move tau (tau = 1 + gamma is the same loss)")
        return self


class OfLogits(Method):
    """A method whose ``settings`` are ``WithLoss`` and have ``logit_scale`` and ``epochs``: one sampler, one view, one loss."""

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.difficulty = ClassAccuracy(len(task.class_names)) if settings.loss == "cdb" else None

    def start_epoch(self, now: Now) -> None:
        if self.difficulty is not None:
            self.difficulty.start_epoch()

    def loss(self, z: Tensor, labels: Tensor, now: Now) -> Loss:
        """The loss of this step, for logits ``z`` (B, C) of images with ``labels`` (B,), which CDB counts."""
        s = self.settings
        known = None if self.difficulty is None else self.difficulty(z, labels)
        return named(s.loss, self.counts, tau=s.tau, gamma=s.gamma, scale=s.logit_scale, done=now.epoch / s.epochs,
                     class_accuracy=known, random=now.random)

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        z = self.logits(batch.views[0]).z
        return {"loss": self.loss(z, batch.labels, now)(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}
