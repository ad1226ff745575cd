"""Tip-Adapter (Zhang et al. 2022): a frozen CLIP, its texts, and a cache of training features that an image is compared with.

    f   = f^zs P / |f^zs P|,    F_i the same of training image i, at most K of a class: the keys, K_j of class j
    z_j = k t_j . f + alpha (K / K_j) sum_(i of class j) exp(-beta (1 - F_i . f)),    t_j the class's text, k = 100 as CLIP's
    tuned (Tip-Adapter-F): the keys are trained, Eq 1 on z;    not tuned: nothing is

It believes that a class's training images, kept as they are, say what its text does not; with a few of each there is nothing to
forget, and a rare class has its say as soon as it has one image.

Where paper and code differ, and what we do: the paper has K images in every class. On a long tail head classes would sum more
terms than others, so K / K_j makes a class's sum what K such keys would give: our own design, and the paper's where each class
has K. Ours too: the loss is logit adjustment (theirs: ``loss=ce``), and the keys are trained on all training images, not on
their own alone. Their keys are means of ten augmented passes, ours the features of the test's view. Trained keys are not
normalised again (as theirs, from memory). They choose the epoch, and on ImageNet alpha and beta too, on test images; here the
last epoch counts, and ``search`` chooses alpha and beta on validation images, of a few values each: the largest mean over
classes of the accuracy, the first of equals. Without it they are those published for ImageNet. 60 templates, theirs for
ImageNet are 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..data.views import RECIPES
from ..networks.heads import Features, Logits, right_by_class
from . import Now, Published, Seen, Task
from ._frozen import Shared
from ._loss import OfLogits, WithLoss
from ._stages import AdamW, Stage, Texts, cosine_by_step

ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BETAS = (0.3, 1.0, 3.0, 10.0, 30.0)
PIECE = 1024
"""Images at a time in the search: each is compared with every key."""
MINI: dict[str, Any] = {"epochs": 8, "batch_size": 64, "lr": 0.01, "logit_scale": 43.7, "search": True}
"""The rate of a few tried on validation images, one seed each; the mini CLIP's own scale."""
PUBLISHED = {"places-lt": Published(settings={"search": True}), "imagenet-lt": Published(settings={"search": True})}
"""They have validation images. Nobody prints its accuracy on long tails."""


class TipAdapter(Shared, OfLogits):
    """A frozen CLIP, its texts, and the keys."""

    class Settings(WithLoss, Texts):
        tuned: bool = Field(True, description="train the keys (Tip-Adapter-F); no: nothing is trained")
        shots: int = Field(16, ge=1, description="K, keys of a class at most (the paper's largest)")
        key_weight: float = Field(1.17, ge=0, description="alpha (ImageNet, authors' code)")
        sharpness: float = Field(1.0, gt=0, description="beta (ImageNet, authors' code)")
        search: bool = Field(False, description="choose alpha and beta on validation images, after the keys' training")
        loss: Literal["ce", "la"] = Field("la", description="Eq 1 (la); the authors': ce")
        logit_scale: float = Field(100.0, gt=0, description="k, CLIP's own (the mini CLIP's: 43.7)")
        epochs: int = Field(20, ge=1, description="of the keys (authors' code)")
        batch_size: int = Field(256, ge=1, description="images a step, over all devices and accumulated parts (authors' code)")
        lr: float = Field(1e-3, gt=0, description="AdamW, half a cosine by step (authors' code)")

    paper = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022"
    of_class: Tensor
    """Whose key each is: int64 (sum K_j,)."""
    alpha: Tensor
    beta: Tensor

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        held = task.counts.clamp(max=settings.shots)
        self._make_room(torch.arange(len(held)).repeat_interleave(held))
        self.register_buffer("alpha", torch.tensor(settings.key_weight))
        self.register_buffer("beta", torch.tensor(settings.sharpness))

    def _make_room(self, of_class: Tensor) -> None:
        self.register_buffer("of_class", of_class.clone())
        self.keys = nn.Parameter(torch.zeros(len(of_class), self.texts.shape[1]))

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        if not s.tuned:
            return [Stage(epochs=0, looks=("train", "val") if s.search else ("train",))]
        first = Stage(epochs=s.epochs, batch_size=s.batch_size, optimizer=AdamW(s.lr, eps=1e-4), rate=cosine_by_step,
                      views=(RECIPES["half"],), looks=("train",))
        return [first, Stage(epochs=0, looks=("val",))] if s.search else [first]

    def beforehand(self, memory: int) -> list[str]:
        s, thin = self.settings, int((self.counts < self.settings.shots).sum())
        said = [f"{thin} of {len(self.counts)} classes have fewer than {s.shots} training images and give all they have as "
                f"keys; {len(self.keys):,} keys."] if thin else []
        if not s.search:
            said.append(f"alpha is {s.key_weight:g} and beta {s.sharpness:g}, which were not chosen on these images; --set "
                        "search=true chooses them on validation images, where there are some (--set val_share=0.1 keeps some "
                        "of the training images).")
        return said

    @torch.no_grad()
    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        if "train" in seen:
            features, labels = seen["train"]
            order = torch.randperm(len(labels), generator=now.random)
            by_class = order[labels[order].argsort(stable=True)].split(torch.bincount(labels).tolist())
            self.keys.copy_(F.normalize(features[torch.cat([own[: self.settings.shots] for own in by_class])], dim=1))
        if "val" in seen:
            self._search(seen["val"])

    def _search(self, val: Seen) -> None:
        features, best = F.normalize(val.features.to(self.keys), dim=1), -1.0
        of_texts = self.settings.logit_scale * features @ self.texts.T
        for beta in BETAS:
            of_keys = torch.cat([self.asked(piece, beta) for piece in features.split(PIECE)])
            for alpha in ALPHAS:
                right = right_by_class((of_texts + alpha * of_keys).cpu(), val.labels).nanmean().item()
                if right > best:
                    best = right
                    self.alpha.fill_(alpha)
                    self.beta.fill_(beta)

    def asked(self, f: Tensor, beta: Tensor | float) -> Tensor:
        """(K / K_j) sum_i exp(-beta (1 - F_i . f)) of normalised features (B, e): (B, C)."""
        near = torch.exp(-beta * (1 - f @ self.keys.T))
        sums = near.new_zeros(len(f), len(self.texts)).index_add(1, self.of_class, near)
        return sums * self.settings.shots / torch.bincount(self.of_class, minlength=len(self.texts))

    def classify(self, features: Features) -> Logits:
        f = F.normalize(features.own, dim=-1)
        return Logits.plain(self.settings.logit_scale * f @ self.texts.T + self.alpha * self.asked(f, self.beta))

    def scalars(self) -> dict[str, float]:
        return {"alpha": self.alpha.item(), "beta": self.beta.item()}

    def parameter_counts(self) -> dict[str, int]:
        return super().parameter_counts() if self.settings.tuned else {}

    def load_trained(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """There are as many keys as training images gave, which a model that is opened again does not know."""
        found = tensors.get("of_class")
        if found is not None and len(found) != len(self.of_class):
            self._make_room(found)
        super().load_trained(tensors, source)
