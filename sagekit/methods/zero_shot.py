"""Zero-shot CLIP (Radford et al. 2021): the classes' texts are the classifier; nothing is trained.

    z_i = k w^zs_i . f^zs        w^zs_i: the class's prompts encoded, normalised, averaged, mapped back by P^T, normalised

It believes that the foundation model already knows every class alike: no image of the data set is looked at, so no class is
rare.

Where we differ from CLIP's own code: features and texts are compared in the transformer's width d and not in the shared space
(finding 8), as LIFT's start is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..networks.heads import Cosine, Features, Logits
from . import Published, Task
from ._frozen import Frozen
from ._stages import Stage, Texts

MINI: dict[str, Any] = {}
PUBLISHED: dict[str, Published] = {}


class ZeroShot(Frozen):
    """A frozen CLIP and its texts."""

    Settings = Texts

    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"

    def __init__(self, settings: Texts, task: Task) -> None:
        super().__init__(settings, task)
        self.head = Cosine(settings.rows(self.net.backbone, task.class_names, task.sentences), settings.logit_scale)

    @classmethod
    def stages(cls, settings: Any) -> list[Stage]:
        return []

    def trained(self) -> dict[str, Tensor]:
        return {}

    def classify(self, features: Features) -> Logits:
        return Logits.plain(self.head(features.own))
