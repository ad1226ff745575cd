"""GCL (Li et al. 2022): noise that lowers every cosine, the rarer the class the more, then a classifier on balanced batches.

    z_j     = s (c_j - k |e_j| d_j - m 1[j=y]),   c_j = cos(f, w_j),  d_j = (log n_1 - log n_j) / (log n_1 - log n_K)
              e_j normal with deviation 1/3, of each image and class, clamped to -1..1
    stage 1   mixup of CE(z), s = 30, k = 0.5, m = 0, every image once an epoch           all weights
    stage 2   mixup of (1 - p_y) CE(z), no gradient through 1 - p_y, s = 20, m = 0.1,     W alone, as stage 1 left it
              class-balanced batches
    test      c_j

It believes that rare classes saturate the softmax too early: a logit that is lowered at random keeps their gradients alive.

Where paper and code differ, and what we do: the paper's sampler of stage 2 shows rare classes less often than a balanced one
(``classifier_sampler=cben``); the authors' default is the balanced one, and ours. The frozen part's BatchNorm is in test
mode in their stage 2, which mixes too. Noise is drawn anew for each of a pair's two labels, as theirs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import SAMPLERS
from ..losses.compared import clouded
from ..networks.heads import accuracy
from . import Now, Published
from ._decoupled import Decoupled, Retraining
from ._mixing import blend, of_pair
from ._stages import SamplerName, Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_epochs": 5}
ON_LIFT: dict[str, Any] = {"classifier_epochs": 3, "classifier_lr": 0.01}

PUBLISHED: dict[str, Published] = {}
"""The paper that we study has no row of it; what its authors print we know from memory alone."""


class GCL(Decoupled):
    """A network and a cosine classifier."""

    class Settings(Retraining):
        batch_size: int = Field(64, ge=1, description="images a step (authors' code)")
        decay: float = Field(0.1, gt=0, le=1, description="the rate's factor after 80 % and again after 90 % (authors' code)")
        classifier_epochs: int = Field(30, ge=1, description="of stage 2 (authors' code)")
        classifier_lr: float = Field(0.002, gt=0, description="of stage 2, a cosine (authors' code)")
        classifier_sampler: SamplerName = Field("class_balanced", description="of stage 2; the paper's: cben")
        norms: Literal["train", "eval"] = Field("eval", description="BatchNorm of the frozen part (authors' code)")
        logit_scale: float = Field(30.0, gt=0, description="s of stage 1, and k of the cosine classifier")
        second_scale: float = Field(20.0, gt=0, description="s of stage 2")
        noise: float = Field(0.5, ge=0, description="k")
        margin: float = Field(0.1, ge=0, description="m of stage 2")
        mix_alpha: float = Field(1.0, gt=0, description="a of Beta(a, a), in both stages")

    classifier: ClassVar[Literal["linear", "cosine"]] = "cosine"
    paper = "Li et al., Long-Tailed Visual Recognition via Gaussian Clouded Logit Adjustment, CVPR 2022"

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        second = settings.second("head.", samplers=(SAMPLERS[settings.classifier_sampler],))
        return [settings.first(shared=""), second]

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        images, others, share = blend(batch.views[0], batch.labels, s.mix_alpha, now.random)
        z = self.logits(images).z
        scale, margin, focus = (s.logit_scale, 0.0, False) if now.stage == 0 else (s.second_scale, s.margin, True)

        def loss(cosines: Tensor, target: Tensor) -> Tensor:
            lowered = clouded(cosines, target, self.counts, s.noise, margin, now.random)
            losses = F.cross_entropy(scale * lowered, target, reduction="none")
            return ((1 - torch.exp(-losses.detach())) * losses if focus else losses).mean()

        total = of_pair(loss, z / s.logit_scale, batch.labels, others, share)
        return {"loss": total, "train_accuracy": accuracy(z, batch.labels)}
