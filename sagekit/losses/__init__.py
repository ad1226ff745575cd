"""Losses: tensors in, a scalar out."""

from .adjusted import Loss, compensated, compensation, criterion, interchange_loss, logit_adjusted

__all__ = ["Loss", "compensated", "compensation", "criterion", "interchange_loss", "logit_adjusted"]
