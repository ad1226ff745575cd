"""Classifier only: LIFT without its adapters, a control of this kit.

    z_i = k w_i . f^zs,        Eq 1 on the rows w_i alone

It believes that CLIP's features need no change and only the classes' rows do: what adapters add is the difference to this.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from . import Published
from .lift import PUBLISHED as LIFT
from .lift import Lift

MINI: dict[str, Any] = {"epochs": 5, "batch_size": 64}
"""LIFT's."""

PUBLISHED = {name: Published(settings=row.settings) for name, row in LIFT.items()}
"""LIFT's settings; nobody prints its accuracy."""


class Classifier(Lift):
    """LIFT with nothing in the blocks."""

    class Settings(Lift.Settings):
        module: Literal["none"] = Field("none", description="nothing is trained in the blocks")

    paper = "none: a control"
