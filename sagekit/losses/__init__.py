"""Losses: tensors in, a scalar out. The paper's are here by name, the others in ``compared`` and ``contrast``."""

from . import compared, contrast
from .adjusted import Loss, compensated, compensation, interchanged, logit_adjusted
from .compared import named

__all__ = ["Loss", "compared", "compensated", "compensation", "contrast", "interchanged", "logit_adjusted", "named"]
