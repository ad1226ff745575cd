"""Decoupling: everything is trained first, and then the classifier alone, on another view of the same images.

    stage 1   CE(z, y), every image once an epoch                      the network and its linear classifier
    stage 2   what a method's file says                                its classifier, the network frozen

BatchNorm of the frozen network decides what "frozen" means: ``norms`` says which statistics it uses and moves.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import SAMPLERS, class_aware
from ..networks.heads import accuracy
from . import Method, Now
from ._mixing import blend, of_pair
from ._network import Networked, OnNetwork
from ._stages import SamplerName, Sgd, Stage, cosine

KANG: dict[str, Any] = {"batch_size": 512, "lr": 0.2}
KANG_PLACES: dict[str, Any] = {"batch_size": 256, "lr": 0.1}
"""Kang et al.'s settings of both stages on ImageNet-LT and iNaturalist, and on Places-LT, beside ``config.LARGE_SETS``."""


class Decoupling(OnNetwork):
    """Of both stages."""

    sampler: SamplerName = Field("every_image", description="of stage 1, see data.samplers")

    def first(self, **more: Any) -> Stage:
        """Stage 1, which methods share."""
        return self.stage(**{"samplers": (SAMPLERS[self.sampler],), "trains": self.network, "shared": "ce", **more})


class Retraining(Decoupling):
    """Of a stage 2 that trains something."""

    classifier_epochs: int = Field(10, ge=1, description="of stage 2 (Kang et al.)")
    classifier_lr: float = Field(0.1, gt=0, description="of stage 2, a cosine; Kang et al.: as in stage 1")
    norms: Literal["train", "eval"] = Field("train", description="BatchNorm of the frozen part (authors' code)")

    def second(self, trains: str | tuple[str, ...], **more: Any) -> Stage:
        """Stage 2 on class-aware batches, with ``more`` of its fields."""
        sgd = Sgd(self.classifier_lr, self.momentum, self.weight_decay, self.nesterov)
        return self.stage(**{"epochs": self.classifier_epochs, "trains": trains, "samplers": (class_aware,), "rate": cosine,
                             "norms": self.norms, "optimizer": sgd, **more})


def mixed_step(model: Method, batch: Batch, now: Now) -> dict[str, Tensor]:
    """A step of stage 1 with mixup, in the methods that have it; ``mix_alpha`` is a setting of theirs."""
    images, others, share = blend(batch.views[0], batch.labels, model.settings.mix_alpha, now.random)
    z = model.logits(images).z
    return {"loss": of_pair(F.cross_entropy, z, batch.labels, others, share), "train_accuracy": accuracy(z, batch.labels)}


class Decoupled(Networked):
    """Cross entropy of ``classify`` in every stage; methods change what they do otherwise."""

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        z = self.logits(batch.views[0]).z
        return {"loss": F.cross_entropy(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}
