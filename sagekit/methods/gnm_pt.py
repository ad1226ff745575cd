"""GNM-PT (Li et al. 2024): deep prompts whose gradient is taken at a random point near by.

    w'      = w + rho s e,   e normal with deviation 1/3, of each weight and step, clamped to -1..1, rho = 0.05, s = 0.1
    step    w <- w - lr (grad L(w') + decay w)                        w: p deep prompts and the rows w_j
    L       mean of v_y CE( 25 (c_j - |e_j| d_j - 0.1 1[j=y]) ),  c_j = cos(f, w_j);  e_j, d_j: gcl's
    f       = (LN(CLS) + the mean of the last block's outputs of its prompts) / 2
    late    in the last seventh of the epochs v_j ~ (1 - b) / (1 - b^n_j), b = 0.9998, divided by the batch's sum of v_y,
            and s is halved; before, v = 1
    test    c_j at w

It believes that a minimum that is flat around w serves rare classes better, and that a random direction, unlike the steepest
one (SAM), is not the frequent classes' and costs no second pass.

Where paper and code differ, and what we do: the authors' code names a class that does not exist and lacks its samplers, so it
does not run; this is what it says. There s follows from a division that rounds down: twice s in epoch 0, then s, and from
epoch 60 of 70 half of it; we leave out the first. Its test mode, once on, stays on, so its dropout of the feature is of epoch 0
alone; we have none. Its cosine lags an epoch; ours does not. It keeps the best epoch on the test images, we the last
(``keep=best``: on validation images). The prompts' outputs are taken without LN, as there. Prompts and rows start at random: no
text is read. Its numbers are of an ImageNet-21k ViT, so the presets name it. For CIFAR it alters images at 32 pixels and then
enlarges them, we the other way round; of other data sets nothing is public, and the settings are CIFAR's but for the view.
Blocks are not computed again in the backward pass (``checkpointing``): that would be at w.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from ..data.batches import Batch
from ..data.views import RECIPES
from ..losses.compared import clouded, cross_entropy, effective_number_weights
from ..networks.heads import Cosine, Features, Logits, accuracy
from ..networks.prompted import START, Prompted
from . import Method, Now, Published, Task
from ._stages import FineTuning, Stage, ViewName
from .lpt import IN21K

NEAR = 0.1
"""s, before it is halved."""

MINI: dict[str, Any] = {"epochs": 7, "batch_size": 16, "lr": 0.003}
"""The last epoch is late. Rows of a random start need many steps."""

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 90.3}, "its authors' abstract, an ImageNet-21k ViT-B/16", {**IN21K, "view": "strong"}),
    "cifar100-lt-50": Published(settings={**IN21K, "view": "strong"}),
    "cifar100-lt-10": Published(settings={**IN21K, "view": "strong"}),
    "places-lt": Published({"all": 50.1}, "its authors' abstract, an ImageNet-21k ViT-B/16", IN21K),
    "inat2018": Published({"all": 76.5}, "its authors' abstract, an ImageNet-21k ViT-B/16", IN21K),
}


class GNMPT(Method):
    """A frozen ViT with deep prompts, and a cosine classifier."""

    class Settings(FineTuning):
        epochs: int = Field(70, ge=0, description="authors' code")
        batch_size: int = Field(128, ge=1, description="images a step (authors' code)")
        lr: float = Field(0.005, gt=0, description="authors' code, at 128 images a step")
        schedule: Literal["epoch"] = Field("epoch", description="cosine stepped per epoch (authors' code)")
        momentum: float = Field(0.9, ge=0, lt=1, description="authors' code")
        weight_decay: float = Field(1e-3, ge=0, description="authors' code")
        prompts: int = Field(10, ge=1, description="p, tokens a block (authors' code)")
        view: ViewName = Field("crop", description="training view, see data.views (authors' code for CIFAR: strong)")
        rho: float = Field(0.05, ge=0, description="how far w' is from w; 0: no noise (authors' code)")
        logit_scale: float = Field(25.0, gt=0, description="of the loss, and k of the cosine classifier (authors' code)")
        noise: float = Field(1.0, ge=0, description="of the cosines (authors' code)")
        margin: float = Field(0.1, ge=0, description="of the target's cosine (authors' code)")
        late_from: float = Field(6 / 7, ge=0, le=1, description="share of the epochs after which classes are weighted and the "
                                                                "noise of w is halved; 1: never (authors' code: 60 of 70)")
        weight_beta: float = Field(0.9998, gt=0, lt=1, description="b of the weights (authors' code)")

    needs = "clip"
    paper = ("Li et al., Improving Visual Prompt Tuning by Gaussian Neighborhood Minimization for Long-Tailed Visual "
             "Recognition, NeurIPS 2024")

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        self.net, self.asked_again = Prompted(task.backbone, settings.prompts), task.checkpointing
        rows = torch.empty(len(task.class_names), task.backbone.width)
        self.head = Cosine(nn.init.trunc_normal_(rows, std=START), settings.logit_scale)

    @classmethod
    def reads_names(cls, settings: Any) -> bool:
        return False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.stage(views=(RECIPES[settings.view],))]

    def beforehand(self, memory: int) -> list[str]:
        said = "checkpointing is left out: blocks that are computed again would be computed at w, and the step is at w'."
        return [said] if self.asked_again else []

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,), s = batches, self.settings
        late = now.epoch >= round(s.late_from * s.epochs)
        near = neighbour(self, s.rho * NEAR * (0.5 if late else 1.0), now.random)
        z = functional_call(_Logits(self), {f"model.{name}": w for name, w in near.items()}, batch.views[0])
        cosines = clouded(z / s.logit_scale, batch.labels, self.counts, s.noise, s.margin, now.random)
        weights = effective_number_weights(self.counts, s.weight_beta) if late else None
        loss = cross_entropy(s.logit_scale * cosines, batch.labels, self.counts, weights=weights, normalise=True)
        return {"loss": loss, "train_accuracy": accuracy(z, batch.labels)}

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return Features(self.net.mean_feature(images))

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))


class _Logits(nn.Module):
    """Images in, the model's logits out: a call in which its weights can be others."""

    def __init__(self, model: Method) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.logits(images).z


def neighbour(model: nn.Module, reach: float, g: torch.Generator) -> dict[str, Tensor]:
    """w' = w + ``reach`` e of the weights that are trained, by name. The gradient of w is that of w'; w stays as it is."""
    return {name: w + reach * (torch.randn(w.shape, generator=g) / 3).clamp(-1, 1).to(w)
            for name, w in model.named_parameters() if w.requires_grad}
