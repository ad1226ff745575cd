"""LIFT-plus (Shi et al. 2025): LIFT in half the epochs, on plain crops that widen until they are the whole square.

    view in epoch e of E   a square of the image, no flip, no change of aspect; its share of the area uniform in [a, 1],
                           a = .08 + .92 s,  s = 1 - sqrt(1 - t^2),  t = e / (E - 1);  bicubic, in training and test
    start                  w_i as the class's text, or (start=class_mean) as the unit mean of at most 100 images' features
    network, loss          LIFT's;  W_down starts Kaiming uniform

It believes, beside what LIFT does, that a long tail needs neither many epochs nor strong augmentation once the classifier has a
good start: views that lose nothing in the end are those of the test.

Where paper and code differ, and what we do: all of this is the authors' code; its numbers were in nothing that we could read.
Half precision in the test, which is theirs, is not done here. Neither end of the area's share is above the largest square's.
The .08 and the 1 are ``crop_scale``, which the mini world has at .6, for all methods alike. With one epoch their t divides by
zero; ours is then 1, the whole square. Class means are of features as for LIFT. Modules other than AdaptFormer keep LIFT's form
and size here (theirs: other prompts, and r = 2^floor(log2(C / 4L)) for LoRA).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from ..data.views import minimal
from ..networks.adapters import Down
from . import Published, Task
from ._stages import Stage
from .lift import Lift

MINI: dict[str, Any] = {"bottleneck": 8, "batch_size": 64}

PUBLISHED = {
    **{name: Published() for name in ("cifar100-lt-100", "cifar100-lt-50", "cifar100-lt-10", "places-lt", "imagenet-lt")},
    "inat2018": Published(settings={"epochs": 15}),
}
"""The authors' settings, elsewhere the defaults; nobody's numbers were found."""


class LiftPlus(Lift):
    """LIFT with bicubic, widening views."""

    class Settings(Lift.Settings):
        epochs: int = Field(5, ge=0, description="authors' code; iNaturalist 2018: 15")
        lr: float = Field(0.02, gt=0, description="authors' code")
        down_init: Down = Field("uniform", description="Kaiming's law for W_down (authors' code)")
        shots: int | None = Field(100, ge=1, description="of each class at most so many images for class_mean and linear_probe "
                                                         "(authors' code); empty: all")

        def stage(self, **more: Any) -> Stage:
            """The stage of these settings, with ``more`` of its fields."""
            return super().stage(**{"views": (replace(minimal, epochs=self.epochs),), **more})

    paper = "Shi et al., LIFT+: Lightweight Fine-Tuning for Long-Tail Learning, 2025"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.interpolation = "bicubic"
