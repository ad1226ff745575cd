"""Losses: tensors in, a scalar out. The paper's are here by name, the others in ``compared`` and ``contrast``."""

from . import compared, contrast
from .adjusted import Loss, compensated, compensation, interchanged, logit_adjusted
from .compared import Name, named

__all__ = ["Loss", "Name", "compared", "compensated", "compensation", "contrast", "interchanged", "logit_adjusted", "named"]
