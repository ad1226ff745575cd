"""Stages of training: what is trained, on which batches, by which optimizer and rate; and the settings that methods share.

    cosine        lr_0 / 2 (1 + cos(pi t / epochs)),  t = epochs done; ``cosine_by_step``: their fraction too
    Milestones    lr_0 (t + 1) / warmup_epochs, then lr_0, then times ``decay`` after each share ``at`` of the epochs
    WarmCosine    lr_0 (t + 1) / warmup_epochs, then half a cosine
    LowStart      a low rate in epoch 0, then half a cosine
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..data.batches import Feed
from ..data.prompts import SINGLE, TEMPLATES, fill
from ..data.views import RECIPES
from ..networks.backbone import Backbone
from ..networks.frozen import text_rows
from ..settings import Part

ViewName = Literal["crop", "shift", "strong", "sim", "sim_blur", "jitter", "rand", "half", "half_jitter", "bicubic", "minimal"]
SamplerName = Literal["every_image", "class_aware", "class_balanced", "square_root", "effective_number", "cben",
                      "progressive", "reverse"]
Keep = Literal["last", "best"]
Rate = Callable[[int, float, int], float]
"""(epoch from 0, share 0..1 of its steps that is done, epochs) -> the multiple of lr."""


def cosine(epoch: int, share: float, epochs: int) -> float:
    """Half a cosine, a step an epoch (LIFT)."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def cosine_by_step(epoch: int, share: float, epochs: int) -> float:
    """Half a cosine, a step a batch."""
    return (1 + math.cos(math.pi * (epoch + share) / epochs)) / 2


@dataclass(frozen=True)
class Milestones:
    """A warm-up, then falls by ``decay`` at shares of the epochs. ``warmup_start`` is the multiple before the first epoch: 0 in
    LDAM's code (epoch 0 of 5 has 1/5), 1/3 in BBN's (0.467)."""

    decay: float = 0.01
    at: tuple[float, ...] = (0.8, 0.9)
    warmup_epochs: int = 5
    warmup_start: float = 0.0

    def __call__(self, epoch: int, share: float, epochs: int) -> float:
        """The multiple in ``epoch`` of ``epochs``."""
        warm = min(1.0, (epoch + 1) / max(1, self.warmup_epochs))
        late = sum(epoch >= round(part * epochs) for part in self.at)
        return (self.warmup_start + (1 - self.warmup_start) * warm) * self.decay**late


@dataclass(frozen=True)
class WarmCosine:
    """A linear warm-up like that of ``Milestones``, then half a cosine over the epochs that are left, a step an epoch."""

    warmup_epochs: int = 0

    def __call__(self, epoch: int, share: float, epochs: int) -> float:
        """The multiple in ``epoch`` of ``epochs``."""
        late = epoch - self.warmup_epochs
        return (epoch + 1) / self.warmup_epochs if late < 0 else cosine(late, share, max(1, epochs - self.warmup_epochs))


@dataclass(frozen=True)
class LowStart:
    """The multiple ``low`` in the whole first epoch, then half a cosine over all epochs, a step an epoch (CoOp)."""

    low: float

    def __call__(self, epoch: int, share: float, epochs: int) -> float:
        """The multiple in ``epoch`` of ``epochs``."""
        return cosine(epoch, share, epochs) if epoch else self.low


@dataclass(frozen=True)
class Sgd:
    """SGD over named parameters. ``multiple`` gives a parameter's own multiple m of the rate: lr m, and with ``decay_alike``
    weight decay / m, so that a step's decay stays the same. Without ``decay_vectors`` biases, norms and scalars have none."""

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    multiple: Callable[[str, nn.Parameter], float] | None = None
    decay_alike: bool = True
    decay_vectors: bool = True

    def __call__(self, named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; every group has its multiple as ``rate``."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, p in named.items():
            decays = self.decay_vectors or p.ndim > 1
            groups.setdefault((1.0 if self.multiple is None else self.multiple(name, p), decays), []).append(p)
        own = [{"params": params, "rate": m, "weight_decay": decays * self.weight_decay / (m if self.decay_alike else 1)}
               for (m, decays), params in groups.items()]
        return torch.optim.SGD(own, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True)
class AdamW:
    """AdamW over named parameters."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __call__(self, named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; its group's ``rate`` is 1."""
        return torch.optim.AdamW([{"params": list(named.values()), "rate": 1.0}], lr=self.lr, betas=self.betas, eps=self.eps,
                                 weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Stage(Feed):
    """One stage; ``Feed`` says what a step is fed.

    ``trains``: what the trained parameters' names start with ("": all). ``norms``: whether BatchNorm of a part that is not
    trained sees batch statistics (train; most authors) or its own (eval). ``shared`` names what the stage computes: methods
    whose stages agree in it, in their settings, in data and seed train it once; "": it is not shared. ``keep`` says whether it
    ends with its last epoch or goes back to its best one on validation images. ``looks`` names whole
    sets of images whose features the method is shown (``Method.look``) before the stage, or with ``look_again`` before each
    of its epochs.
    """

    epochs: int = 1
    trains: str | tuple[str, ...] = ""
    optimizer: Sgd | AdamW = field(default_factory=lambda: Sgd(0.01))
    rate: Rate = cosine
    norms: Literal["train", "eval"] = "train"
    clip_norm: float | None = None
    keep: Keep = "last"
    shared: str = ""
    looks: tuple[Literal["train", "val"], ...] = ()
    look_again: bool = False


class Texts(Part):
    """The cosine classifier that starts from the classes' texts."""

    templates: Literal[1, 60] = Field(60, description="prompt templates that a row starts from ('Init' in Table 5: 60)")
    single_template: str = Field(SINGLE, pattern=r"\[cls\]", description="the prompt when templates is 1 (LIFT)")
    text_average: Literal["normalised", "plain"] = Field(
        "normalised", description="whether a prompt's feature is normalised before averaging (LIFT)")
    logit_scale: float = Field(25.0, gt=0, description="k of the cosine classifier (LIFT)")

    def rows(self, backbone: Backbone, class_names: Sequence[str], sentences: Sequence[Sequence[str]] | None = None,
             shared: bool = False) -> Tensor:
        """W^zs (C, d) by these settings, or from each class's own ``sentences``; in the ``shared`` space (C, e)."""
        templates = TEMPLATES if self.templates == len(TEMPLATES) else (self.single_template,)
        texts = [fill(templates, name) for name in class_names] if sentences is None else sentences
        return text_rows(backbone, texts, self.text_average == "normalised", shared)


class FineTuning(Part):
    """Optimisation of a CLIP (section 4.2; weight decay and schedule from LIFT)."""

    epochs: int = Field(10, ge=0, description="section 4.2; iNaturalist 2018: 20")
    batch_size: int = Field(128, ge=1, description="images a step, over all devices and accumulated parts (section 4.2)")
    drop_last: bool = Field(False, description="leave out an epoch's last, incomplete batch; LIFT keeps it")
    lr: float = Field(0.01, gt=0, description="section 4.2")
    schedule: Literal["epoch", "step"] = Field("epoch", description="cosine stepped per epoch (LIFT) or per step")
    momentum: float = Field(0.9, ge=0, lt=1, description="section 4.2")
    weight_decay: float = Field(5e-4, ge=0, description="LIFT")
    keep: Keep = Field("last", description="the last epoch (LIFT), or the stage's best on validation images")
    clip_norm: float | None = Field(None, gt=0, description="gradient clipping; off by default")

    def stage(self, **more: Any) -> Stage:
        """The one stage of these settings, with ``more`` of its fields."""
        rate = cosine if self.schedule == "epoch" else cosine_by_step
        multiple = more.pop("multiple", None)
        return Stage(**{"epochs": self.epochs, "batch_size": self.batch_size, "drop_last": self.drop_last, "rate": rate,
                        "optimizer": Sgd(self.lr, self.momentum, self.weight_decay, multiple=multiple),
                        "clip_norm": self.clip_norm, "keep": self.keep, **more})


class CoOpTraining(FineTuning):
    """CoOp's optimisation, which other few-shot methods took over: one epoch at a low rate, then half a cosine, bicubic
    crops."""

    batch_size: int = Field(32, ge=1, description="images a step, over all devices and accumulated parts (CoOp's code)")
    schedule: Literal["epoch"] = Field("epoch", description="cosine stepped per epoch (CoOp's code)")
    warmup_lr: float = Field(1e-5, ge=0, description="the rate of the whole first epoch (CoOp's code)")
    momentum: float = Field(0.9, ge=0, lt=1, description="the default of CoOp's toolbox (from memory)")
    weight_decay: float = Field(5e-4, ge=0, description="the default of CoOp's toolbox (from memory)")

    def stage(self, **more: Any) -> Stage:
        """The one stage of these settings, with ``more`` of its fields."""
        return super().stage(**{"views": (RECIPES["bicubic"],), "rate": LowStart(self.warmup_lr / self.lr), **more})


NETWORK = ("net.", "head.")
LAST_BLOCK = ("net.last.", "head.", "projection.")
"""What names start with in a network and its classifier; and in what is trained beside a frozen trunk (``networks.large``)."""


class FromScratch(Part):
    """Optimisation of a network from scratch: the common protocol of CIFAR-100-LT (LDAM's)."""

    epochs: int = Field(200, ge=0, description="the common protocol")
    batch_size: int = Field(128, ge=1, description="images a step, over all devices and accumulated parts")
    drop_last: bool = Field(False, description="leave out an epoch's last, incomplete batch; LDAM keeps it")
    lr: float = Field(0.1, gt=0, description="the common protocol")
    momentum: float = Field(0.9, ge=0, lt=1, description="the common protocol")
    nesterov: bool = Field(False, description="LDAM: no")
    weight_decay: float = Field(2e-4, ge=0, description="the common protocol")
    schedule: Literal["steps", "cosine"] = Field("steps", description="of the rate after the warm-up (LDAM: steps)")
    decay: float = Field(0.01, gt=0, le=1, description="the rate's factor after 80 % and again after 90 % of the epochs (LDAM)")
    warmup_epochs: int = Field(5, ge=0, description="epochs of linear warm-up (LDAM)")
    view: ViewName = Field("shift", description="training view, see data.views")
    blocks: Literal["all", "last"] = Field(
        "all", description="which of the network's are trained; last: of one that has seen ImageNet (Places-LT's protocol)")
    clip_norm: float | None = Field(None, gt=0, description="gradient clipping; off by default")

    @property
    def network(self) -> tuple[str, ...]:
        """What is trained of the network and its classifier: what the names start with."""
        return LAST_BLOCK if self.blocks == "last" else NETWORK

    def stage(self, **more: Any) -> Stage:
        """The first stage of these settings, with ``more`` of its fields."""
        steps = Milestones(self.decay, warmup_epochs=self.warmup_epochs)
        rate = WarmCosine(self.warmup_epochs) if self.schedule == "cosine" else steps
        trains = LAST_BLOCK if self.blocks == "last" else ""
        return Stage(**{"epochs": self.epochs, "batch_size": self.batch_size, "drop_last": self.drop_last, "trains": trains,
                        "views": (RECIPES[self.view],), "rate": rate,
                        "optimizer": Sgd(self.lr, self.momentum, self.weight_decay, self.nesterov),
                        "clip_norm": self.clip_norm, **more})
