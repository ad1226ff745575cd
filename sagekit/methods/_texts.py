"""What methods share that learn the classes' texts, and compare images with them in CLIP's shared space.

    z_j = k cos(f P, t_j)        t_j (e): the text of class j as the text tower says it now

While t is learned, every step encodes all classes again. In a test, and in a stage that leaves t alone, it is constant, and
``rows`` holds it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..errors import UserError
from ..losses import Name
from ..networks.backbone import Backbone
from ..networks.heads import Features, Logits, cosine
from ..networks.text import TextTower
from ..networks.tuned import Tuned
from . import Method, Task
from ._loss import OfLogits, WithLoss
from ._stages import CoOpTraining, Stage


class OnTexts(Method):
    """``net`` sees images, ``tower`` reads the classes' prompts. ``learning``: whether this stage changes the texts."""

    needs = "clip"
    net: Tuned
    tower: TextTower
    rows: Tensor
    learning = True

    def texts(self) -> Tensor:
        """t (C, e), not normalised, in the caller's precision."""
        raise NotImplementedError

    @torch.no_grad()
    def keep_texts(self) -> None:
        """Let ``rows`` be the texts as they are now."""
        self.rows.copy_(F.normalize(self.texts(), dim=-1))

    def train(self, mode: bool = True) -> Any:
        """Whoever turns to a test finds the texts encoded, once for all its batches."""
        super().train(mode)
        if not mode and self.learning:
            self.keep_texts()
        return self

    def beforehand(self, memory: int) -> list[str]:
        return self.tower.beforehand(memory)

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        found = self.net(images, frozen=frozen)
        return Features(self.net.tuned.shared(found.own), found.frozen)

    def logits(self, images: Tensor, frozen: Tensor | None = None) -> Logits:
        """As every method's; a step's texts too are encoded in the caller's precision."""
        if not (self.training and self.learning):
            return super().logits(images, frozen)
        own, texts = self.features(images, frozen).own, self.texts()
        with torch.autocast(own.device.type, enabled=False):
            return self.compare(own.to(self.rows), texts.to(self.rows))

    def classify(self, features: Features) -> Logits:
        return self.compare(features.own, self.texts() if self.training and self.learning else self.rows)

    def compare(self, f: Tensor, texts: Tensor) -> Logits:
        """k cos of features f P (B, e) and ``texts`` (C, e)."""
        return Logits.plain(cosine(f, texts, self.settings.logit_scale))


class PromptTuning(WithLoss, CoOpTraining):
    """Settings of methods that learn prompts."""

    loss: Name = Field("la", description="Eq 1 (la), or another of losses.compared; the authors': ce")
    logit_scale: float = Field(100.0, gt=0, description="k; OpenAI's CLIPs have 100")


class OnPrompts(OnTexts, OfLogits):
    """Both towers are frozen; what is learned stands in the prompts."""

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        if task.sentences is not None:
            raise UserError("own texts (class_texts, templates_file) have no place in a method that learns the words around a "
                            "class's name; leave them out.")
        assert task.backbone is not None
        space = task.backbone.visual.proj.shape[1]
        self.register_buffer("rows", torch.zeros(len(task.class_names), space), persistent=False)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage()]


def word_vectors(backbone: Backbone, words: str) -> Tensor:
    """The embeddings of ``words`` in the text tower, a token each: (m, w)."""
    tower = TextTower(backbone, [words])
    return tower.clip[0].token_embedding(tower.tokens[0, 1:-1]).detach().clone()
