"""The network of methods that may stand on images alone or on a CLIP, and its classifier.

    base = scratch   f = ResNet(x)                          linear   z = W f + b            cosine   z_i = k w_i . f
    base = lift      f = CLIP's with LIFT's adapters        linear   z = k (W f + b)        cosine   z_i = k w_i . f

On a CLIP f is L2-normalised, the rows of W start as the classes' texts (of one template, as LIFT's), b at 0, and k is LIFT's
25. There the linear classifier is LIFT's cosine one at the start, but its rows may have lengths: what decoupling is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..networks import resnet
from ..networks.adapters import default_bottleneck
from ..networks.heads import Cosine, Features, Logits, TextLinear, head
from ..networks.resnet import ResNet
from ..networks.tuned import Tuned, tuned
from . import Method, Task
from ._stages import FineTuning, FromScratch, Texts


class OnNetwork(FromScratch):
    """On what a method stands, and how that is trained."""

    base: Literal["scratch", "lift"] = Field(
        "scratch", description="scratch: a ResNet from nothing; lift: CLIP with LIFT's adapters, its rows starting from text")
    bottleneck: int | None = Field(None, ge=1, description="r of base=lift's adapters; empty: as LIFT's")
    logit_scale: float = Field(25.0, gt=0, description="k of a cosine classifier, and of base=lift's")


def as_lift(lift: Mapping[str, Any]) -> dict[str, Any]:
    """What ``OnNetwork`` becomes with base=lift: LIFT's optimisation, with its settings ``lift`` for a data set."""
    usual = FineTuning().model_dump(include={"epochs", "batch_size", "lr", "momentum", "weight_decay"})
    own = {key: value for key, value in lift.items() if key in OnNetwork.model_fields}
    return usual | {"schedule": "cosine", "warmup_epochs": 0, "view": "crop"} | own


class Networked(Method):
    """A network by ``settings.base`` with the classifier that the method names, or lets its ``head`` setting name."""

    classifier: ClassVar[Literal["linear", "cosine"]] = "linear"
    needs = "scratch"

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.net: ResNet | Tuned
        self.texts: Tensor | None
        if task.backbone is None:
            self.net = resnet.build(task.network, task.weights)
            self.width = self.net.width
            self.register_buffer("texts", None)
        else:
            rank = settings.bottleneck or default_bottleneck(len(task.class_names), task.backbone.layers)
            self.net = tuned(task.backbone, "adaptformer", rank, checkpointing=task.checkpointing)
            self.width = task.backbone.width
            texts = Texts(templates=1).rows(task.backbone, task.class_names, task.sentences)
            self.register_buffer("texts", texts, persistent=False)
        self.head = self.new_head()

    def new_head(self) -> nn.Module:
        """The classifier as it starts."""
        k, kind = self.settings.logit_scale, getattr(self.settings, "head", self.classifier)
        if self.texts is None:
            return head(kind, self.width, len(self.counts), k)
        return Cosine(self.texts, k) if kind == "cosine" else TextLinear(self.texts, k)

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        if isinstance(self.net, ResNet):
            return Features(self.net(images))
        return Features(F.normalize(self.net(images).own, dim=-1))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
