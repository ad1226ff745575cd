"""Decoder (Wang et al. 2024): three new transformer blocks on a frozen CLIP's tokens, and a linear classifier.

    H = tokens (N, d) of the last frozen block, without LN_post,    z = W B_3(B_2(B_1(H)))[CLS] + b
    B(u) = v + MLP(LN(v)),    v = u + MSA(LN(u)),    no norm at the end
    rate: lr times 16 t for the first sixteenth t of the steps, then lr cos(7 pi s / 16), s in 0..1 over those that are left

It believes that CLIP's image tokens hold more than its feature does, and that what a decoder learns of them can be balanced by
any long-tail loss.

Where paper and code differ, and what we do: 21.26M parameters are three blocks of the backbone's width and heads with an MLP
of four times the width, as here; the configuration that is public has 4 heads and an MLP of half the width (15.76M, on
ViT-L/14). The authors count steps, 8,192 of 256 images; we count epochs, rounded: 18 on ImageNet-LT, 34 on Places-LT, 5 on
iNaturalist, and as many steps on the CIFAR sets, which they do not have. They keep the best epoch on validation images
(``keep=best``), we the last, as LIFT. Which of their losses the printed numbers are with we do not know; the default is
Balanced Softmax (la), one of them. The activation (GELU), the start (open_clip's) and the crops (LIFT's) are ours; that s
starts after the warm-up is from memory. The normalisation of pixels is CLIP's, theirs ImageNet's.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..networks.heads import Features, Logits
from ..networks.tuned import Tuned
from . import Published, Task
from ._loss import OfLogits, WithLoss
from ._stages import FineTuning, Sgd, Stage

WARM = 1 / 16
MINI: dict[str, Any] = {"epochs": 5, "batch_size": 64}

PUBLISHED = {
    "cifar100-lt-100": Published(settings={"epochs": 193}),
    "cifar100-lt-50": Published(settings={"epochs": 166}),
    "cifar100-lt-10": Published(settings={"epochs": 107}),
    "places-lt": Published({"all": 46.8}, "Table 2, row Decoder", {"epochs": 34}),
    "imagenet-lt": Published({"all": 73.2}, "Table 3, row Decoder", {"epochs": 18}),
    "inat2018": Published({"all": 59.2}, "Table 4, row Decoder", {"epochs": 5}),
}


def rate(epoch: int, share: float, epochs: int) -> float:
    """The multiple in ``epoch`` of ``epochs``."""
    t = (epoch + share) / epochs
    return t / WARM if t < WARM else math.cos(7 * math.pi / 16 * (t - WARM) / (1 - WARM))


class Blocks(nn.Module):
    """``layers`` new blocks of open_clip's: 12 d^2 + 13 d parameters each."""

    def __init__(self, width: int, heads: int, layers: int = 3) -> None:
        from open_clip.transformer import ResidualAttentionBlock  # slow to import

        super().__init__()
        self.blocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, d) -> CLS (B, d): of the last block nothing else is needed."""
        last: Any = self.blocks[-1]
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        seen = last.ln_1(tokens)
        mid = tokens[:, 0] + last.attn(seen[:, :1], seen, seen, need_weights=False)[0][:, 0]
        return mid + last.mlp(last.ln_2(mid))


class Decoder(OfLogits):
    """A frozen CLIP, new blocks on its tokens, and a linear classifier."""

    class Settings(WithLoss, FineTuning):
        logit_scale: ClassVar[float] = 1.0
        loss: Literal["ce", "focal", "class-balanced", "cdb", "la", "lade", "vs", "ddc"] = Field(
            "la", description="of losses.compared, one that a linear classifier can have, or la (Balanced Softmax)")
        epochs: int = Field(18, ge=0, description="8,192 steps on ImageNet-LT (authors' code)")
        batch_size: int = Field(256, ge=1, description="images a step, over all devices and accumulated parts (authors' code)")
        lr: float = Field(0.03, gt=0, description="SGD with Nesterov's momentum (authors' code)")
        momentum: float = Field(0.9, gt=0, lt=1, description="authors' code")
        weight_decay: float = Field(5e-4, ge=0, description="not of biases and norms (authors' code)")
        schedule: Literal["step"] = Field("step", description="the rate above, stepped per step (authors' code)")

    needs = "clip"
    paper = "Wang et al., Exploring Vision-Language Models for Imbalanced Learning, IJCV 2024"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        self.net = Tuned(task.backbone)
        self.decoder = Blocks(task.backbone.width, task.backbone.heads)
        self.head = nn.Linear(task.backbone.width, len(task.class_names))

    @classmethod
    def reads_names(cls, settings: Any) -> bool:
        return False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        return [s.stage(rate=rate, optimizer=Sgd(s.lr, s.momentum, s.weight_decay, nesterov=True, decay_vectors=False))]

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        with torch.no_grad():
            *_, last = self.net.stream(images, frozen=True)
        return Features(self.decoder(last.output))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
