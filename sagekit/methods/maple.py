"""MaPLe (Khattak et al. 2023): the first words of the prompt are learned, in the text tower and, through linear maps, in the
image tower.

    block l = 1..J of both towers, J = 9    its input has the vectors P_l (2, w), and in the image tower P_l A_l + b_l (2, d),
                                            in the place of what came out of them before
    t_j = T(P_1 "of a [name of j]."),   z_j = k cos(f P, t_j),   k = 100            P, A and b are trained, the towers are not
    Eq 1  l(x, y=i) = -log( e^{z_i} n_i^tau / sum_k e^{z_k} n_k^tau )               (theirs: CE, i.e. tau = 0)

It believes that both towers have to move, and together: so the image's prompts are made of the text's. Of long tails it says
nothing; all classes share the prompts.

Where paper and code differ, and what we do: P_1 starts as the words "a photo" and the prompt goes on with "of a", as in the
code; the other P_l start from noise. As in CoOp here, the loss is logit adjustment, ``loss=ce`` is theirs, and momentum and
weight decay are from memory. Prompts stand behind CLS and not behind the patches, which is the same but for rounding. J is at
most the blocks of either tower (2 in the mini CLIP). Batches of 4 images and 5 epochs are for 16 images a class; they train in
fp16. Nobody prints a number for our data sets.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..networks.backbone import Backbone
from ..networks.modules import behind_cls
from ..networks.text import TextTower
from ..networks.tuned import Tuned
from . import Published, Task
from ._texts import OnPrompts, PromptTuning, word_vectors

MINI: dict[str, Any] = {"epochs": 5, "batch_size": 64, "lr": 0.02, "logit_scale": 43.7}
"""43.7 is the scale that the mini CLIP was trained with. Rate: on validation images (0.0035: 50.9 %, 0.02: 62.9 %, 0.1: 61.5 %;
one seed)."""

PUBLISHED: dict[str, Published] = {}

LEARNED, FIXED = "a photo", "of a"
STD = 0.02
"""Of the vectors that start from noise (authors' code)."""


class Coupled(nn.Module):
    """The vectors P (J, m, w), of which the first ``start`` (m, w), and what they are in the image tower of ``backbone``."""

    def __init__(self, backbone: Backbone, start: Tensor, depth: int) -> None:
        super().__init__()
        noise = STD * torch.randn(depth - 1, *start.shape)
        self.vectors = nn.Parameter(torch.cat([start[None], noise.to(start)]))
        self.maps = nn.ModuleList(nn.Linear(start.shape[1], backbone.width) for _ in range(depth))
        self.norm = [backbone.visual.ln_pre]  # in a list: its parameters are the backbone's

    def forward(self, index: int, tokens: Tensor) -> Tensor:
        """The image ``tokens`` before block ``index``: (B, N, d) -> (B, m + N, d) for the first, then (B, m + N, d) always."""
        if index >= len(self.vectors):
            return tokens
        own = self.maps[index](self.vectors[index])
        if index == 0:  # like the embedded patches that they stand beside
            own = self.norm[0](own)
        return behind_cls(tokens, own, len(own) if index else 0)


class MaPLe(OnPrompts):
    """A frozen CLIP with coupled prompts in both towers."""

    class Settings(PromptTuning):
        depth: int = Field(9, ge=1, description="J, blocks with prompts (authors' code)")
        epochs: int = Field(5, ge=0, description="authors' code")
        batch_size: int = Field(4, ge=1, description="images a step, over all devices and accumulated parts (authors' code)")
        lr: float = Field(0.0035, gt=0, description="authors' code")

    paper = "Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        start = word_vectors(task.backbone, LEARNED)
        prompts = [f"{FIXED} {name}." for name in task.class_names]
        self.tower = TextTower(task.backbone, prompts, len(start), task.checkpointing)
        coupled = Coupled(task.backbone, start, min(settings.depth, self.tower.layers, task.backbone.layers))
        self.net = Tuned(task.backbone, prompts=coupled, checkpointing=task.checkpointing)

    def texts(self) -> Tensor:
        assert isinstance(self.net.prompts, Coupled)
        first, *deep = self.net.prompts.vectors
        return self.tower(first, deep)
