"""LPT (Dong et al. 2023): prompts for all images, then for each image the two groups of prompts out of a pool that are nearest
to it.

    stage 1   A(x, y; 0, 4),  every image once an epoch               p deep prompts, the rows w_j
    stage 2   A(x, y; 0, 4) - 0.5 h(x)                                the pool, its keys, the rows as stage 1 left them
                + 0.5 (E - e) / E (A(x', y'; 0.5, 8) - 0.5 h(x'))     e = 0..E-1 the epoch
              x from class-aware batches, x' every image once an epoch
              q = CLS feature of stage 1's network, no gradient;  h = sum of the 2 highest cos(q, key_i) of 20
              f = CLS feature with the mean of these 2 groups' prompts beside the others in the later half of the blocks
    A(x, y; a, b) = -sum_j t_j v_j log p_j,   p = softmax(20 (c_j - 0.5 |e_j| d_j - 0.1 1[j=y])),   c_j = cos(f, w_j)
              v_y = (1 - p_y)^a,  v_j = p_j^b,   t: 0.9 on y and 0.1 / C on each class;   e_j, d_j: gcl's
              a tenth of f is dropped in training
    test      c_j of stage 2's f

It believes that what all images need and what like images need are to be learned apart, and that images of rare classes share
prompts with their like among frequent ones.

Where paper and code differ, and what we do: stage 2 is the authors' code. Of stage 1 no code is public. The abstract calls it
conventional supervised prompt tuning, and the rows that stage 2's code takes over from it are those of a cosine classifier
without a scale, so its loss had one; that this is A too, its batches, its rate and its start are our reading. The tenth that
drops out is of the feature in their code, not of the prompts. Keys learn from h alone, and groups that no image takes from
weight decay alone. Rows start at random directions: no text is read. They keep the best epoch on the test images, we the last
(``keep=best``: on validation images); their test view squashes the image to a square, ours cuts one out. Their weights are an
ImageNet-21k ViT's, so the presets name it. Table 2's numbers are not those of their README (50.07: 49.27, 52.31, 46.88). The
1.01M parameters are prompts: 92,160 for all images and 921,600 in the pool; 15,360 of keys and the rows come on top.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_aware, every_image
from ..losses.compared import clouded
from ..networks.heads import Cosine, Features, Logits, accuracy
from ..networks.prompted import Pooled
from ..networks.starts import random_rows
from . import Method, Now, Published, Task
from ._stages import FineTuning, LowStart, Stage

Focus = tuple[float, float]
BALANCED: Focus = (0.0, 4.0)
PLAIN: Focus = (0.5, 8.0)
"""(a, b) of A, for each of the two batches."""
IN21K: dict[str, Any] = {"backbone": "vit_base_patch16_224.augreg_in21k", "pretrained": ""}
"""The authors' weights, in timm's name of today."""

MINI: dict[str, Any] = {"epochs": 3, "pool_epochs": 3, "batch_size": 32, "first_lr": 0.02}
"""A first epoch without a rate would be a third of a stage."""

PUBLISHED = {
    "places-lt": Published({"all": 51.9, "head": 53.2, "medium": 52.3, "tail": 46.9}, "Table 2, row LPT", IN21K),
    "inat2018": Published({"all": 76.1, "tail": 79.3}, "Table 4, row LPT", {**IN21K, "epochs": 80, "pool_epochs": 80}),
}


class LPT(Method):
    """A frozen ViT with deep prompts, a pool of more, and a cosine classifier."""

    class Settings(FineTuning):
        epochs: int = Field(40, ge=0, description="of stage 1 (Table 2)")
        pool_epochs: int = Field(40, ge=1, description="of stage 2 (Table 2; the default of the authors' script: 90)")
        batch_size: int = Field(256, ge=1, description="images a step from each sampler (authors' code)")
        drop_last: bool = Field(True, description="leave out an epoch's last, incomplete batch (authors' code)")
        lr: float = Field(0.02, gt=0, description="authors' code, at 256 images a step")
        first_lr: float = Field(1e-6, gt=0, description="the rate in the whole first epoch of each stage (authors' code)")
        schedule: Literal["epoch"] = Field("epoch", description="cosine stepped per epoch (authors' code)")
        momentum: float = Field(0.9, ge=0, lt=1, description="authors' code")
        weight_decay: float = Field(0.01, ge=0, description="authors' code")
        prompts: int = Field(10, ge=1, description="p, tokens a block, and of each group (authors' code)")
        groups: int = Field(20, ge=1, description="of prompts in the pool (authors' code)")
        chosen: int = Field(2, ge=1, description="groups that an image takes (authors' code)")
        dropout: float = Field(0.1, ge=0, lt=1, description="share of the feature that a training step drops (authors' code)")
        logit_scale: float = Field(20.0, gt=0, description="of A, and k of the cosine classifier (authors' code)")
        noise: float = Field(0.5, ge=0, description="of A (authors' code)")
        margin: float = Field(0.1, ge=0, description="of A (authors' code)")
        smoothing: float = Field(0.1, ge=0, le=1, description="of A's target t (authors' code)")
        key_weight: float = Field(0.5, ge=0, description="of h (authors' code)")
        plain_weight: float = Field(0.5, ge=0, description="of the batch x' in stage 2's first epoch (authors' code)")

        @model_validator(mode="after")
        def _enough(self) -> Any:
            if self.chosen > self.groups:
                raise ValueError(f"an image cannot take {self.chosen} of {self.groups} groups; lower chosen, or raise groups")
            return self

    needs = "clip"
    paper = "Dong et al., LPT: Long-tailed Prompt Tuning for Image Classification, ICLR 2023"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        self.net = Pooled(task.backbone, settings.prompts, settings.groups, settings.chosen, task.checkpointing)
        self.head = Cosine(random_rows(len(task.class_names), task.backbone.width), settings.logit_scale)

    @classmethod
    def reads_names(cls, settings: Any) -> bool:
        return False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s, rate = settings, LowStart(settings.first_lr / settings.lr)
        return [s.stage(rate=rate, trains=("net.prompts.", "head.")),
                s.stage(rate=rate, trains=("net.pool.", "head."), epochs=s.pool_epochs, samplers=(class_aware, every_image))]

    def beforehand(self, memory: int) -> list[str]:
        return ["an image goes through half of the network a second time, in stage 2 and in the test; stage 2's steps see two "
                "batches."]

    def start_stage(self, stage: int) -> None:
        self.net.second = stage == 1

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        s = self.settings
        terms = self.of_batch(batches[0], BALANCED, now)
        if len(batches) == 1:
            return terms
        plain = self.of_batch(batches[1], PLAIN, now)
        decaying = s.plain_weight * (s.pool_epochs - now.epoch) / s.pool_epochs
        return {**terms, "loss": terms["loss"] + decaying * plain["loss"], "balanced": terms["loss"], "plain": plain["loss"]}

    def of_batch(self, batch: Batch, focus: Focus, now: Now) -> dict[str, Tensor]:
        """``loss`` A of a batch, in stage 2 less the keys' part, and what goes with it."""
        s, labels, likeness = self.settings, batch.labels, None
        if self.net.second:
            f, likeness = self.net.asked(batch.views[0])
        else:
            f = self.features(batch.views[0]).own
        z = self.head_of(Features(dropped(f, s.dropout, now.random))).z
        cosines = clouded(z / s.logit_scale, labels, self.counts, s.noise, s.margin, now.random)
        loss = asymmetric(s.logit_scale * cosines, labels, focus, s.smoothing)
        terms = {"loss": loss, "train_accuracy": accuracy(z, labels)}
        return terms if likeness is None else {**terms, "loss": loss - s.key_weight * likeness.mean(), "keys": likeness.mean()}

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return self.net(images)

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))


def dropped(f: Tensor, share: float, g: torch.Generator) -> Tensor:
    """``f`` without a ``share`` of its numbers, the others raised to keep the mean; ``g`` decides which."""
    return f * (torch.rand(f.shape, generator=g) >= share).to(f) / (1 - share)


def asymmetric(z: Tensor, target: Tensor, focus: Focus, smoothing: float) -> Tensor:
    """-sum_j t_j v_j log p_j of logits (B, C), mean over the batch; the gradient goes through v too."""
    log_p, own = z.log_softmax(1), F.one_hot(target, z.shape[1]).bool()
    p = log_p.exp()
    sure = (1 - p).clamp(min=1e-12)  # a root's slope at 0 is infinite, and p of a sure image rounds to 1
    v = torch.where(own, sure ** focus[0], p ** focus[1])
    t = smoothing / z.shape[1] + (1 - smoothing) * own.to(z)
    return -(t * v * log_p).sum(1).mean()
