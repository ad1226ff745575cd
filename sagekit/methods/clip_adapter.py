"""CLIP-Adapter (Gao et al. 2021): a frozen CLIP whose image feature is mixed with what two small layers make of it.

    f  = f^zs P,    f' = 0.2 ReLU(W_2 ReLU(W_1 f)) + 0.8 f,    W_1 (e/4, e), W_2 (e, e/4), no bias
    z_j = k cos(f', t_j),    t_j the class's text, k = 100 as CLIP's;    Eq 1 on z

It believes that little has to be learned of few images: the texts stay the classifier, most of the feature stays CLIP's, and
one map for all classes is what frequent classes teach the rare ones.

Where paper and code differ, and what we do: it is a few-shot method, with as many images in every class and cross entropy
(``loss=ce``). On a long tail that pulls f' to the frequent classes' texts, so the loss here is logit adjustment, which LIFT+
gives CoOp for the same reason. Trained by CoOp's line, as the authors do: one constant epoch at 1e-5, then half a cosine,
bicubic crops; momentum and decay are its framework's (from memory). One template, as LIFT's.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..losses import Name
from ..networks.heads import Features, Logits
from . import Published, Task
from ._frozen import Shared
from ._loss import OfLogits, WithLoss
from ._stages import CoOpTraining, Stage, Texts

SHARE = 0.2
"""Of the adapter in f'."""
MINI: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 0.2, "logit_scale": 43.7}
"""The rate of a few tried on validation images, one seed each; the mini CLIP's own scale."""
PUBLISHED: dict[str, Published] = {}


class ClipAdapter(Shared, OfLogits):
    """A frozen CLIP, its texts, and an adapter of e^2 / 2 weights on the feature."""

    class Settings(WithLoss, CoOpTraining, Texts):
        loss: Name = Field("la", description="Eq 1 (la), or another of losses.compared; the authors': ce")
        templates: Literal[1, 60] = Field(1, description="prompt templates of a class's text (60: Table 5's)")
        logit_scale: float = Field(100.0, gt=0, description="k, CLIP's own (the mini CLIP's: 43.7)")
        epochs: int = Field(50, ge=0, description="CoOp on ImageNet")
        lr: float = Field(0.002, gt=0, description="after the first epoch (CoOp)")

    paper = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, 2021 (IJCV 2024)"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        e = self.texts.shape[1]
        self.adapter = nn.Sequential(nn.Linear(e, e // 4, bias=False), nn.ReLU(), nn.Linear(e // 4, e, bias=False), nn.ReLU())

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage()]

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        f, known = super().features(images, frozen)
        return Features(SHARE * self.adapter(f) + (1 - SHARE) * f, known)

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.settings.logit_scale * nn.functional.normalize(features.own, dim=-1) @ self.texts.T)
