"""cRT (Kang et al. 2020): train everything on the images as they come, then the classifier anew on balanced batches.

    stage 1   CE(W f + b, y), every image once an epoch                         all weights
    stage 2   W, b drawn anew; CE, class-aware batches: classes in turn,        W and b alone
              four images of one class in a row, as many steps as in stage 1

It believes that long-tailed images give good features and a bad classifier: only the classifier has to see the classes alike.

Where paper and code differ, and what we do: "frozen" in the authors' code leaves BatchNorm in training mode in stage 2, so its
running statistics move to the balanced sampling and the classifier sees batch statistics; we follow (``norms``). Their stage 2
calls the scheduler before the epoch, so the last epoch's rate is 0; ours is that of a cosine over epochs 0..E-1. The paper has
no CIFAR: the numbers there are a third party's, whose stage 2 is 30 epochs of another sampler, weight decay and schedule. On a
CLIP (base=lift), which the paper does not have, the new W starts from the classes' texts again.
"""

from __future__ import annotations

from typing import Any

from . import Published
from ._decoupled import KANG, KANG_PLACES, Decoupled, Retraining
from ._stages import Stage

MINI: dict[str, Any] = {"epochs": 15, "batch_size": 64, "warmup_epochs": 1, "lr": 0.05, "classifier_epochs": 5,
                        "classifier_lr": 0.05}
ON_LIFT: dict[str, Any] = {"classifier_epochs": 3, "classifier_lr": 0.01}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 40.3}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "cifar100-lt-50": Published({"all": 45.4}, "BagofTricks-LT (Zhang et al. 2021), not the authors"),
    "places-lt": Published({"all": 36.7, "head": 42.0, "medium": 37.6, "tail": 31.0}, "Table 2, row cRT",
                           KANG_PLACES),
    "imagenet-lt": Published({"all": 47.3, "head": 58.8, "medium": 44.0, "tail": 26.1}, "Table 3, row cRT",
                             KANG | {"classifier_lr": 0.2}),
    "inat2018": Published({"all": 65.2, "head": 69.0, "medium": 66.0, "tail": 63.2}, "Table 4, row cRT",
                          KANG | {"classifier_lr": 0.2, "classifier_epochs": 30}),
}


class CRT(Decoupled):
    """A network and a linear classifier that is drawn anew."""

    class Settings(Retraining):
        pass

    paper = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return [settings.first(), settings.second("head.")]

    def start_stage(self, stage: int) -> None:
        if stage == 1:
            self.head = self.new_head()
