"""The methods, a file each: the file's name is the method's on the command line, in tables and in the dashboard.

A file opens with its equations, then holds its ``Settings`` (each with its source), ``MINI`` (settings on the mini world),
``PUBLISHED`` (settings and printed numbers by preset) and one subclass of ``Method``. The trainer's loop is the same for all:

    for each stage:  start_stage, look;  for each epoch:  look, start_epoch;  for each step:  forward(batches, now)["loss"],
    backward, the optimizer's step, after_step
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..data.batches import Batch
from ..data.views import Interpolation
from ..errors import UserError, nearest
from ..networks import resnet
from ..networks.backbone import Backbone
from ..networks.heads import Features, Logits
from ..networks.trained import Trained
from ..settings import Part
from ._stages import Stage as Stage


class Task(NamedTuple):
    """What a method is built for: class names and training ``counts`` int64 (C,), the pixels that its network sees, the frozen
    CLIP where it needs one or the ``network`` that it trains from scratch with the ``weights`` that are to be its start, and
    each class's own ``sentences`` where prompts are not to be used."""

    class_names: list[str]
    counts: Tensor
    image_size: int
    backbone: Backbone | None = None
    checkpointing: bool = False
    network: str = resnet.NAME
    weights: Path | None = None
    sentences: list[list[str]] | None = None


class Now(NamedTuple):
    """Where training stands: ``stage`` and its ``epoch`` from 0, the ``share`` (0..1) of the stage that is done, and a
    generator that is a function of the seed and the step alone."""

    stage: int
    epoch: int
    share: float
    random: torch.Generator


class Seen(NamedTuple):
    """A whole set of images in the test's view: features float32 (N, d) as ``Method.shown`` has them, and labels int64 (N,), on
    the CPU."""

    features: Tensor
    labels: Tensor


class Published(NamedTuple):
    """What was printed for a data set: accuracies in percent by group (``all``, ``head``, ...), where, and the settings."""

    numbers: Mapping[str, float] = {}
    source: str = ""
    settings: Mapping[str, Any] = {}


class Method(Trained):
    """The interface. ``counts`` (C,): training images of every class; ``image_size``: pixels that the network sees, test images
    resized by ``interpolation``; ``margin``: by how much they are larger than their five crops, None: by the size."""

    Settings: ClassVar[type[Part]]
    needs: ClassVar[Literal["clip", "scratch"]]
    paper: ClassVar[str]
    version: ClassVar[int] = 1  # raised when results change: sweeps train such points again
    one_process: ClassVar[str] = ""  # why it cannot run in several
    counts: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(task.backbone)
        self.settings, self.image_size = settings, task.image_size
        self.interpolation: Interpolation = "bilinear" if task.backbone is None else task.backbone.interpolation
        self.margin = None if task.backbone is None else task.backbone.patch_size * 3 // 2
        self.register_buffer("counts", task.counts.clone(), persistent=False)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        """What is trained, one stage after the other; empty: nothing."""
        raise NotImplementedError

    @classmethod
    def reads_names(cls, settings: Any) -> bool:
        """Whether a CLIP's text tower is to say the classes' names; then they must be words."""
        return True

    def forward(self, batches: tuple[Batch, ...], now: Now) -> dict[str, Tensor]:
        """One training step on a batch from each sampler of the stage: ``loss`` and its terms, each a scalar."""
        raise NotImplementedError

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        """Features of ``images`` (B, 3, S, S) in 0..1; ``frozen`` (B, d) is f^zs where it is known."""
        raise NotImplementedError

    def classify(self, features: Features) -> Logits:
        """The head, in float32."""
        raise NotImplementedError

    def frozen_backbone(self) -> Backbone | None:
        """The frozen CLIP whose features of test images ``features`` can be handed; None where it uses none."""
        return None

    def beforehand(self, memory: int) -> list[str]:
        """Before training: what it takes for granted or will cost, a line each. ``memory``: bytes that the device has left.
        Raises ``UserError`` where that cannot be enough."""
        return []

    def taught_by(self, teacher: Method) -> None:
        """Before training, where the setting ``teacher`` names a run: its trained model, frozen."""

    def start_stage(self, stage: int) -> None:
        """Before a stage: a new head, a part that is frozen."""

    def shown(self, images: Tensor) -> Tensor:
        """The features (B, d) of ``images`` (B, 3, S, S) that ``look`` is to see."""
        return self.features(images).own

    def look(self, seen: Mapping[str, Seen], now: Now) -> None:
        """What the stage ``looks`` at, by the name of the set: before the stage, or before each of its epochs. What is kept of
        it must be a buffer or parameter; a stage of no epochs may do nothing else."""

    def start_epoch(self, now: Now) -> None:
        """Before an epoch: class statistics, accuracies, memory."""

    def after_step(self) -> None:
        """After the optimizer's step: momentum encoders, perturbations."""

    def scalars(self) -> dict[str, float]:
        """Columns of ``history.csv`` beside the losses."""
        return {}

    # --- the same for every method ------------------------------------------------------------------------------------

    def logits(self, images: Tensor, frozen: Tensor | None = None) -> Logits:
        """Logits of ``images``: the features in the caller's precision, the head in float32."""
        return self.head_of(self.features(images, frozen))

    def head_of(self, features: Features) -> Logits:
        """``classify`` on ``features`` in float32 (or float64), whatever precision they come in."""
        with torch.autocast(features.own.device.type, enabled=False):
            return self.classify(Features(_full(features.own), None if features.frozen is None else _full(features.frozen)))


def _full(feature: Tensor) -> Tensor:
    return feature if feature.dtype == torch.float64 else feature.float()


@cache
def names() -> tuple[str, ...]:
    """Every method: the files of this folder."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


@cache
def load(name: str) -> type[Method]:
    """The method that the file ``name`` holds. Raises ``UserError`` for an unknown one."""
    if name not in names():
        raise UserError(f"there is no method '{name}'.{nearest(name, names())} Methods: {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    own = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
    return next(v for v in own if issubclass(v, Method))


def about(name: str) -> Any:
    """The method's module: its docstring (equations), ``MINI`` and ``PUBLISHED``."""
    return importlib.import_module(load(name).__module__)
