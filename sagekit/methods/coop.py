"""CoOp (Zhou et al. 2022): the words before a class's name are learned, everything else is frozen.

    t_j = T([v_1] ... [v_M] [name of j].),   z_j = k cos(f P, t_j),   k = 100                      v (M, w) alone is trained
    Eq 1  l(x, y=i) = -log( e^{z_i} n_i^tau / sum_k e^{z_k} n_k^tau )                              (theirs: CE, i.e. tau = 0)

It believes that CLIP knows the classes and only wants to be asked well. Of long tails it says nothing: the few vectors are the
same for all classes, so a rare class gets what the frequent ones have taught, while with CE the texts lean towards those.

Where paper and code differ, and what we do: they are about a few images of every class; here the loss is logit adjustment, as
in LIFT+'s comparison on long tails, and ``loss=ce`` is theirs. Epochs: 50, theirs for ImageNet (200 for 16 images a class).
Vectors of each class's own and names in the middle are left out. They train in fp16. Momentum and weight decay are from memory
(their toolbox's defaults). Nobody prints a number for our data sets.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..networks.backbone import Backbone
from ..networks.text import TextTower
from ..networks.tuned import Tuned
from . import Published, Task
from ._texts import OnPrompts, PromptTuning, word_vectors

MINI: dict[str, Any] = {"vectors": 8, "epochs": 5, "batch_size": 64, "logit_scale": 43.7}
"""The mini CLIP reads 20 tokens, and 43.7 is the scale that it was trained with. The rate is the authors': ten times as much
for twice the epochs was no better on validation images (54.8 for 54.5 %, one seed), and at 0.1 all texts fell together."""

PUBLISHED: dict[str, Published] = {}

STD = 0.02
"""Of vectors that start from noise (authors' code)."""


class CoOp(OnPrompts):
    """A frozen CLIP and the vectors that its text tower reads before each name."""

    class Settings(PromptTuning):
        vectors: int = Field(16, ge=1, description="M, of noise (authors' code)")
        words: str = Field("", description="what the vectors start as instead, one a token, such as 'a photo of a'")
        epochs: int = Field(50, ge=0, description="authors' code for ImageNet")
        lr: float = Field(0.002, gt=0, description="authors' code")

    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        start = word_vectors(task.backbone, settings.words) if settings.words else None
        number = settings.vectors if start is None else len(start)
        names = [f"{name}." for name in task.class_names]
        self.net = Tuned(task.backbone)
        self.tower = TextTower(task.backbone, names, number, task.checkpointing)
        self.vectors = nn.Parameter(STD * torch.randn(number, self.tower.width) if start is None else start)

    def frozen_backbone(self) -> Backbone | None:
        return self.net.backbone

    def texts(self) -> Tensor:
        return self.tower(self.vectors)
