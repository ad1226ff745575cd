"""Linear-probe (Radford et al. 2021): a frozen CLIP and a logistic regression on its features, by scikit-learn.

    z = W f^zs + b,    min_(W, b)  |W|^2 / 2 + C sum_x w_y CE(z(x), y),    w_j = N / (K n_j)  for K classes, N images

It believes that a foundation model's features part the classes already, the rare ones too, and that a convex problem with
weights against the counts finds where.

Where paper and code differ, and what we do: CLIP's paper takes the features before the projection into the space shared with
texts, its code's example those after it; here those before, in R^d, of the training images in the test's view, by L-BFGS of
1,000 iterations at most (CLIP). Balanced weights are LIFT's, whose probe starts a classifier; CLIP has none. CLIP sweeps C over
96 values on validation images; here powers of ten from 1e-4 to 10, the largest mean over classes of their accuracy, the smaller
C of equals. Without such a choice C is 0.316, its code's for one data set. What is said of CLIP here is from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..devices import memory as free
from ..errors import UserError
from ..networks.heads import Features, Logits, right_by_class
from ..networks.starts import logistic
from ..settings import Part
from . import Now, Published, Seen, Task
from ._frozen import Frozen
from ._stages import Stage

CHOICES = [10.0**k for k in range(-4, 2)]
ITERATIONS = 1000
KEPT = 2
"""Float64 that scikit-learn holds at once of an image and class, and of an image and feature, about (counted in the tests)."""
MINI: dict[str, Any] = {"probe_c": None}
PUBLISHED = {"places-lt": Published(settings={"probe_c": None}), "imagenet-lt": Published(settings={"probe_c": None})}
"""They have validation images. Nobody prints its accuracy on long tails."""


class LinearProbe(Frozen):
    """A frozen CLIP and a linear classifier."""

    class Settings(Part):
        probe_c: float | None = Field(0.316, gt=0, description="C; empty: chosen on validation images (CLIP's code: 0.316)")
        balanced: bool = Field(True, description="w_j = N / (K n_j) (LIFT's probe); no: 1 (CLIP)")

    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
    chosen: Tensor

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.head = nn.Linear(self.net.backbone.width, len(task.class_names))
        self.register_buffer("chosen", torch.tensor(settings.probe_c or float("nan")))

    @classmethod
    def reads_names(cls, settings: Any) -> bool:
        return False

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [Stage(epochs=0, looks=("train",) if settings.probe_c is not None else ("train", "val"))]

    def beforehand(self, memory: int) -> list[str]:
        images, classes = int(self.counts.sum()), len(self.counts)
        needed = 8 * KEPT * images * (classes + self.net.backbone.width)
        here = free(torch.device("cpu"))  # where scikit-learn computes
        if needed > here:
            raise UserError(f"a logistic regression on {images:,} images of {classes:,} classes holds about {needed / 1e9:.1f} "
                            f"GB, and {here / 1e9:.1f} GB are free; use a machine with more, or method classifier, which goes "
                            "batch by batch.")
        tries = f" for each of {len(CHOICES)} values of C" if self.settings.probe_c is None else ""
        said = [f"scikit-learn fits on the CPU: up to {ITERATIONS:,} passes over {images:,} images of {classes:,} "
                f"classes{tries}."]
        if self.settings.probe_c is None:
            return said
        return [*said, f"C is {self.settings.probe_c:g}, which was not chosen on these images; --set probe_c=null chooses it "
                       "on validation images, where there are some (--set val_share=0.1 keeps some of the training images)."]

    @torch.no_grad()
    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        if "val" not in seen:
            self._take(*self._fit(seen["train"], self.settings.probe_c))
            return
        best = -1.0
        for c in CHOICES:
            found = weight, bias = self._fit(seen["train"], c)
            z = seen["val"].features @ weight.T + bias
            right = right_by_class(z, seen["val"].labels).nanmean().item()
            if right > best:
                best = right
                self.chosen.fill_(c)
                self._take(*found)

    def _fit(self, train: Seen, c: float) -> tuple[Tensor, Tensor]:
        """W (K, d) and b (K,) at the minimum, or after ``ITERATIONS``."""
        _, weight, bias = logistic(train.features, train.labels, c, ITERATIONS, self.settings.balanced)
        return weight, bias

    def _take(self, weight: Tensor, bias: Tensor) -> None:
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def scalars(self) -> dict[str, float]:
        return {} if self.chosen.isnan() else {"probe_c": self.chosen.item()}

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
