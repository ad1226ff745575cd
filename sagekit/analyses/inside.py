"""What analyses look into: the tuned CLIP of a method, and the guidance of its adapters."""

from __future__ import annotations

from torch import Tensor

from ..errors import UserError
from ..methods import Method
from ..methods.sage import Sage
from ..networks.tuned import Tuned


def tuned_of(model: Method) -> Tuned:
    """The method's tuned CLIP. Raises ``UserError`` where it has none."""
    net = getattr(model, "net", None)
    if not isinstance(net, Tuned):
        raise UserError("this run's network is no CLIP; the analysis looks into a CLIP's blocks.")
    return net


def guidance_of(model: Method) -> Tensor | None:
    """w_bar (d,) of a method that guides its adapters; None of others."""
    return model.guidance() if isinstance(model, Sage) else None
