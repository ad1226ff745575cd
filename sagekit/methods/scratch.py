"""ResNet-32 from scratch with any of the compared losses (Table 7): no foundation model, no text.

    z = W f + b   (linear head),      z_i = k w_i . f   (cosine head; losses with margins are defined on cosines)
    loss: one of ``losses.compared`` or Eq 1, with the compensation factor where gamma > 0

A loss believes that the counts can be answered in the logits or the weights of the images, whatever the features are.

Where we differ from the authors of a loss: docs/studies.md and ``losses.compared``. Pixels are normalised by 0.5 / 0.25 and not
by CIFAR's own mean and deviation (BatchNorm follows).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from ..data.samplers import SAMPLERS
from ..networks import resnet
from ..networks.heads import Features, Logits, head
from . import Published, Task
from ._loss import OfLogits, WithLoss
from ._stages import FromScratch, SamplerName, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05}
"""Two cores have little time; the rate was searched on CE on another draw of the data (benchmarks/search_scratch.py)."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 42.4, "head": 69.2, "medium": 42.2, "tail": 11.5}, "Table 7, row CE"),
    "cifar100-lt-50": Published({"all": 45.3, "head": 70.7, "medium": 46.2, "tail": 14.6}, "Table 7, row CE"),
    "cifar100-lt-10": Published({"all": 57.9, "head": 65.8, "medium": 39.5, "tail": 0.0}, "Table 7, row CE"),
}


class Scratch(OfLogits):
    """A ResNet and a head."""

    class Settings(WithLoss, FromScratch):
        sampler: SamplerName = Field("every_image", description="which images an epoch shows, see data.samplers")
        head: Literal["linear", "cosine"] = Field("linear", description="the classifier; margin losses need cosine")
        logit_scale: float = Field(25.0, gt=0, description="k of the cosine head")

    needs = "scratch"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; each loss's own in losses.compared"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.net = resnet.build(task.network, task.weights)
        self.head = head(settings.head, self.net.width, len(task.class_names), settings.logit_scale)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        plain = s.head == "linear" and not s.gamma and (s.loss == "ce" or (s.loss == "la" and s.tau == 1))
        return [s.stage(samplers=(SAMPLERS[s.sampler],), shared=s.loss if plain else "")]

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return Features(self.net(images))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
