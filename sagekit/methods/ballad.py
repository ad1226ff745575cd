"""BALLAD (Ma et al. 2021): all of CLIP is trained on the images as they come, then a linear adapter on class-balanced ones.

    t_j = T("a photo of a [name of j]."),   z_j = k cos(f P, t_j),   k = 100                       (e = f P's width)
    stage 1   CE(z, y), every image once an epoch                              both towers and projections; all t_j in each step
    stage 2   CE(z', y), class-aware batches                                   A (e, e) alone
              z'_j = k cos(0.2 A f P + 0.8 f P, t_j)

It believes that a CLIP first has to learn the new images, rare or frequent, with the classes' words as its teacher, and that
balance can come afterwards and needs a single matrix.

Where paper and code differ, and what we do: A starts at random (the layer's default), as in the code, not as the identity. k is
the code's fixed 100; CLIP's own learned scale is not used and not trained. The authors go back to stage 1's best epoch on
validation images; here that is ``keep=best``, which needs some, and the default is the last. They end stage 2 with its last
epoch; so do we. Their rate steps before the epoch, so it is 0 in the last one; ours is a step behind. Their code leaves the
weights in fp16 and runs for a ResNet-50 on ImageNet-LT alone; the printed numbers' settings for a ViT-B/16 and for other data
are not public, so these are those ones. They test on an image of which all is seen (``test_resize``).
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.prompts import SINGLE, fill
from ..data.samplers import class_aware
from ..data.views import half_jitter
from ..errors import UserError
from ..networks.backbone import Backbone
from ..networks.frozen import text_rows
from ..networks.heads import Logits, accuracy
from ..networks.text import TextTower
from ..networks.tuned import Tuned
from . import Now, Published, Task
from ._stages import FineTuning, Sgd, Stage
from ._texts import OnTexts

MINI: dict[str, Any] = {"epochs": 3, "batch_size": 64, "lr": 0.003, "adapter_epochs": 2, "logit_scale": 43.7}
"""43.7 is the scale that the mini CLIP was trained with. Rate: on validation images (0.001: 84.6 %, 0.003:
85.7 %; one seed)."""

OWN_VIEW = {"test_resize": 224}

PUBLISHED = {
    "cifar100-lt-100": Published({"all": 77.8}, "Table 1, row BALLAD", OWN_VIEW),
    "places-lt": Published({"all": 49.5, "head": 49.3, "medium": 50.2, "tail": 48.4}, "Table 2, row BALLAD", OWN_VIEW),
    "imagenet-lt": Published({"all": 75.7, "head": 79.1, "medium": 74.5, "tail": 69.8}, "Table 3, row BALLAD", OWN_VIEW),
}


class Ballad(OnTexts):
    """A CLIP that is trained as a whole, and the adapter behind its image tower."""

    class Settings(FineTuning):
        epochs: int = Field(50, ge=0, description="of stage 1 (Table 1)")
        batch_size: int = Field(512, ge=1, description="images a step, over all devices and accumulated parts (authors' code)")
        lr: float = Field(1e-5, gt=0, description="of stage 1 (authors' code)")
        momentum: float = Field(0.9, ge=0, lt=1, description="authors' code")
        weight_decay: float = Field(5e-4, ge=0, description="authors' code")
        adapter_epochs: int = Field(10, ge=0, description="of stage 2 (Table 1)")
        adapter_lr: float = Field(0.2, gt=0, description="of stage 2 (authors' code)")
        adapter_weight: float = Field(0.2, ge=0, le=1, description="of A f P beside f P (authors' code)")
        logit_scale: float = Field(100.0, gt=0, description="k (authors' code)")

    paper = "Ma et al., A Simple Long-Tailed Recognition Baseline via Vision-Language Model, 2021"

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        texts = [fill((SINGLE,), name) for name in task.class_names] if task.sentences is None else task.sentences
        several = next((j for j, own in enumerate(texts) if len(own) > 1), None)
        if several is not None:
            raise UserError(f"ballad reads one text of each class in every step, and '{task.class_names[several]}' has "
                            f"{len(texts[several])} (class_texts, templates_file); leave one, or name neither.")
        own = whole_twin(task.backbone)
        self.net = Tuned(task.backbone, tuned=own, checkpointing=task.checkpointing)
        self.tower = TextTower(own, [text for (text,) in texts], checkpointing=task.checkpointing)
        rows = text_rows(task.backbone, texts, True, shared=True)
        self.adapter = nn.Linear(rows.shape[1], rows.shape[1], bias=False)
        self.register_buffer("rows", rows)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        s = settings
        second = s.stage(epochs=s.adapter_epochs, trains="adapter.", samplers=(class_aware,), views=(half_jitter,), keep="last",
                         optimizer=Sgd(s.adapter_lr, s.momentum, s.weight_decay))
        return [s.stage(trains="net.", views=(half_jitter,)), second]

    def start_stage(self, stage: int) -> None:
        self.learning = stage == 0

    def start_epoch(self, now: Now) -> None:
        if now.stage == 1 and now.epoch == 0:  # later ones, and whoever loads the run, have them
            self.keep_texts()

    def texts(self) -> Tensor:
        return self.tower()

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        (batch,) = batches
        z = self.logits(batch.views[0]).z
        return {"loss": F.cross_entropy(z, batch.labels), "train_accuracy": accuracy(z, batch.labels)}

    def compare(self, f: Tensor, texts: Tensor) -> Logits:
        a = self.settings.adapter_weight
        return super().compare(f if self.learning else a * self.adapter(f) + (1 - a) * f, texts)


UNUSED = ("logit_scale", "logit_bias")
"""Of a CLIP, here: k stands for them."""


def whole_twin(backbone: Backbone) -> Backbone:
    """A copy of all of ``backbone``, to be trained; what is ``UNUSED`` stays the frozen one's."""
    kept = {id(p): p for name, p in backbone.clip.named_parameters() if name in UNUSED}
    twin = copy.deepcopy(backbone, {**kept, id(backbone.tokenizer): backbone.tokenizer})
    for p in twin.parameters():
        p.requires_grad_(id(p) not in kept)
    return twin
