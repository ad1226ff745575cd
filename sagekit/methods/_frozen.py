"""Methods that stand on a frozen CLIP's features: of test images they are computed once for all runs (``networks.frozen``).

    Frozen   f = f^zs in R^d, before the projection
    Shared   f = f^zs P in R^e, the space that CLIP shares with texts, where T (C, e) are the classes' texts
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..networks.backbone import Backbone
from ..networks.heads import Features
from ..networks.tuned import Tuned
from . import Method, Task


class Frozen(Method):
    """``features`` are f^zs, without a gradient."""

    needs = "clip"

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        assert task.backbone is not None
        self.net = Tuned(task.backbone)

    def frozen_backbone(self) -> Backbone | None:
        return self.net.backbone

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        return self.net(images, frozen=frozen)


class Shared(Frozen):
    """``features`` are f^zs P; ``settings`` are ``Texts``, whose rows in that space ``texts`` holds, as they stay."""

    texts: Tensor

    def __init__(self, settings: Any, task: Task) -> None:
        super().__init__(settings, task)
        rows = settings.rows(self.net.backbone, task.class_names, task.sentences, shared=True)
        self.register_buffer("texts", rows, persistent=False)

    def features(self, images: Tensor, frozen: Tensor | None = None) -> Features:
        f = super().features(images, frozen).own
        return Features(self.net.backbone.shared(f), f)
