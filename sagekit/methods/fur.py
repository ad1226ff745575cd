"""FUR (Ma et al. 2024): features of rare classes are spread out as the frequent class spreads whose shape is most alike; after
the abstract, our reading.

    shape of a class          xi_1, xi_2, ...: eigenvectors of its features' covariance, their eigenvalues lambda falling
    likeness of two shapes    sum_i |<xi_i, xi'_i>|
    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    stage 2   CE(W f' + b, y), class-aware batches                              W, b alone
              f' = f + sum_i e_i sqrt(lambda_i) xi_i of the head class most alike, e_i ~ N(0, 1), of each image anew, if y is
              a tail class; f' = f if it is a head class
    stage 3   CE(W f + b, y), class-aware batches                               all weights but W, b

It believes that a few images show where a class lies but not how far it reaches, and that classes of like shape reach alike.

Where paper and code differ, and what we do: no training code is public. Of the paper we know the abstract, what a shape and a
likeness are, that stages 1 and 2 are decoupled training and stage 3 fits the network to the new boundaries, and (from the
paper that we study) their epochs; f', and that W and b rest in stage 3, from memory alone. All else is our reading:
sqrt(lambda) and not lambda, since f' - f then has the head class's covariance, in the features' own unit. A head class has more
than 100 training images, all others are tail; where that parts nothing, the larger half are head. n images have n - 1
directions at most: likeness sums over those that both have, and a class of one image takes the largest head class. The shapes
are of the training images in the test's view, after stage 1, and stay. Stage 2 goes on from stage 1's W, with BatchNorm in test
mode so that its features are those of the shapes. Class-aware batches: stage 3 on images as they come undid the balance on the
mini world (64 for 74 % of its validation images, one seed). Rates and one f' an image are ours too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..data.batches import Batch
from ..data.samplers import class_aware
from ..networks.heads import Features, accuracy
from . import Now, Published, Seen, Task
from ._decoupled import Decoupled, Retraining
from ._stages import Sgd, Stage, cosine

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_epochs": 5,
                        "classifier_lr": 0.05, "extractor_epochs": 5, "extractor_lr": 0.005}
ON_LIFT: dict[str, Any] = {"classifier_epochs": 3, "classifier_lr": 0.01, "extractor_epochs": 3, "extractor_lr": 0.001}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 50.9}, "Table 1, row FUR"),
    "cifar100-lt-50": Published({"all": 54.1}, "Table 1, row FUR"),
    "cifar100-lt-10": Published({"all": 61.8}, "Table 1, row FUR"),
    "imagenet-lt": Published({"all": 55.5, "head": 65.4, "medium": 52.2, "tail": 37.8}, "Table 3, row FUR"),
    "inat2018": Published({"all": 72.6, "head": 73.6, "medium": 72.9, "tail": 73.1}, "Table 4, row FUR"),
}


class FUR(Decoupled):
    """A network, a linear classifier, and in stage 2 the head classes' shapes."""

    class Settings(Retraining):
        epochs: int = Field(100, ge=0, description="of stage 1 (Table 1)")
        classifier_epochs: int = Field(50, ge=1, description="of stage 2 (Table 1)")
        norms: Literal["train", "eval"] = Field("eval", description="BatchNorm in stage 2 (our reading)")
        extractor_epochs: int = Field(50, ge=1, description="of stage 3 (Table 1)")
        extractor_lr: float = Field(0.01, gt=0, description="of stage 3, a cosine (our reading)")
        head_images: int = Field(100, ge=1, description="a class with more training images is a head class (our reading)")

    paper = "Ma et al., Geometric Prior Guided Feature Representation Learning for Long-Tailed Classification, IJCV 2024"
    shapes: Tensor | None
    """Of the head classes in ``heads``' order, each as ``shape`` gives it, then rows of 0: (H, d, d). Stage 2 alone has it."""
    partner: Tensor | None
    """Each class's place in ``shapes``, -1 for a head class: int64 (C,)."""

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        self.register_buffer("shapes", None)
        self.register_buffer("partner", None)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        third = s.stage(epochs=s.extractor_epochs, trains="net.", samplers=(class_aware,), rate=cosine,
                        optimizer=Sgd(s.extractor_lr, s.momentum, s.weight_decay, s.nesterov))
        return [s.first(), s.second("head.", looks=("train",)), third]

    def start_stage(self, stage: int) -> None:
        self.shapes = self.partner = None
        if stage == 1:  # balls, until the look
            head = heads(self.counts, self.settings.head_images)
            self.shapes = torch.eye(self.width, device=head.device).repeat(len(head), 1, 1)
            self.partner = torch.zeros_like(self.counts).index_fill(0, head, -1)

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        assert self.shapes is not None
        assert self.partner is not None
        features, labels = seen["train"]
        of_class = features[labels.argsort(stable=True)].split(torch.bincount(labels, minlength=len(self.counts)).tolist())
        for place, j in enumerate(heads(self.counts, self.settings.head_images).tolist()):
            rows = shape(of_class[j])
            self.shapes[place] = F.pad(rows, (0, 0, 0, self.width - len(rows)))
        known = self.shapes.cpu()
        for j in (self.partner >= 0).nonzero()[:, 0].tolist():
            self.partner[j] = likeness(shape(of_class[j]).to(known), known).argmax()

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        if self.shapes is None:
            return super().forward(batches, now)
        (batch,), labels = batches, batches[0].labels
        f = self.features(batch.views[0]).own
        z = self.head_of(Features(self.spread(f, labels, now.random))).z
        return {"loss": F.cross_entropy(z, labels), "train_accuracy": accuracy(z, labels)}

    def spread(self, f: Tensor, labels: Tensor, g: torch.Generator) -> Tensor:
        """f' of features (B, d)."""
        assert self.shapes is not None
        assert self.partner is not None
        e, partner = torch.randn(f.shape, generator=g).to(self.shapes), self.partner[labels]
        far = torch.einsum("bi,bij->bj", e, self.shapes[partner.clamp(min=0)])
        return torch.where(partner[:, None] >= 0, f + far, f.to(far))


def heads(counts: Tensor, above: int) -> Tensor:
    """The head classes of ``counts`` (C,), the largest first: int64 (H,)."""
    passing = int((counts > above).sum())
    number = passing if 0 < passing < len(counts) else (len(counts) + 1) // 2
    return counts.argsort(descending=True, stable=True)[:number]


def shape(features: Tensor) -> Tensor:
    """sqrt(lambda_i) xi_i of one class's ``features`` (n, d), lambda falling, as rows: float64 (rank, d)."""
    x = features.double()
    _, length, xi = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    real = length > 1e-12 * x.norm()  # the others are rounding
    return length[real, None] * xi[real] / len(x) ** 0.5


def likeness(one: Tensor, others: Tensor) -> Tensor:
    """sum_i |<xi_i, xi'_i>| of ``one`` shape (r, d) with each of ``others`` (H, d, d), their rows beyond the rank 0: (H,)."""
    return (F.normalize(one, dim=-1) * F.normalize(others[:, : len(one)], dim=-1)).sum(-1).abs().sum(-1)
