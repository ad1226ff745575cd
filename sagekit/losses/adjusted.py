"""The losses: logit adjustment (Eq 1) and its compensated form (Eq 22).

    Eq 1   l(x, y=i) = -log( e^{z_i} n_i^tau / sum_k e^{z_k} n_k^tau ),           tau = 1 in the paper
    Eq 21  Lambda_i  = mu n_i^gamma S_N / (C n_min),                              S_N = sum_k n_k
    Eq 22  l(x, y=i) = -log( e^{z_i} n_i Lambda_i / sum_k e^{z_k} n_k Lambda_k )
    Eq 24  l'        = l(z) + lambda_1 l(z^v) + lambda_2 l(z^t) + lambda_3 l(z^)

mu and S_N / (C n_min) stand in numerator and denominator alike and cancel: Eq 22 is Eq 1 with tau = 1 + gamma, for
every mu. ``compensated`` is written as the paper has it; the tests show the identity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..errors import UserError
from ..networks.heads import Logits
from . import compared as compared_losses

Loss = Callable[[Tensor, Tensor], Tensor]
"""l(logits (B, C), target int64 (B,)) -> the mean over the batch, a scalar."""


def logit_adjusted(logits: Tensor, target: Tensor, class_counts: Tensor, tau: float = 1.0) -> Tensor:
    """Eq 1: mean logit-adjusted cross entropy over the batch (a scalar).

    ``logits`` (B, C), ``target`` int64 (B,), ``class_counts`` (C,) training images a class, all positive. ``tau`` = 0
    is plain cross entropy.
    """
    return F.cross_entropy(logits + tau * _log_counts(class_counts, logits), target)


def compensation(class_counts: Tensor, gamma: float, mu: float) -> Tensor:
    """Eq 21: the factor Lambda_i, (C,), of classes with ``class_counts`` (C,) images. ``mu`` > 0."""
    if mu <= 0:
        raise UserError(f"mu is {mu:g}; it must be positive, since Eq 22 takes its logarithm.")
    n = class_counts
    return mu * n**gamma * n.sum() / (len(n) * n.min())


def compensated(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.05, mu: float = 0.5) -> Tensor:
    """Eq 22: mean logit-adjusted cross entropy with the compensation factor (a scalar).

    Shapes as in ``logit_adjusted``. Equal to ``logit_adjusted`` with ``tau = 1 + gamma``, whatever ``mu`` is.
    """
    n = class_counts.to(logits.device, logits.dtype)
    adjustment = _log_counts(class_counts, logits) + compensation(n, gamma, mu).log()
    return F.cross_entropy(logits + adjustment, target)


def criterion(config: Config, class_counts: Tensor, epoch: int = 0, class_accuracy: Tensor | None = None) -> Loss:
    """The loss l(logits, target) that ``config.loss`` names, with its settings filled in, for ``epoch`` = 0..epochs-1.

    Deferred parts start at their published share of the epochs: LDAM's weights after 80 %, KPS's gradient adjustment after
    60 %. ``class_accuracy`` (C,) of the epoch before is CDB's difficulty; without it no class is difficult yet.
    """
    n, name, done = class_counts, config.loss, epoch / max(1, config.epochs)
    gamma = config.gamma if config.compensation else 0.0
    if name in ("la", "proco"):
        if config.compensation:
            return lambda logits, target: compensated(logits, target, n, config.gamma, config.mu)
        return lambda logits, target: logit_adjusted(logits, target, n, config.tau)
    if name in ("ce", "class-balanced", "cdb"):
        weights = {"ce": None, "class-balanced": compared_losses.effective_number_weights(n),
                   "cdb": None if class_accuracy is None else compared_losses.difficulty_weights(class_accuracy)}[name]
        return lambda logits, target: compared_losses.cross_entropy(logits, target, n, gamma, weights)
    if name in ("focal", "lade"):
        plain = compared_losses.focal if name == "focal" else compared_losses.lade
        return lambda logits, target: plain(logits, target, n, gamma)
    k = config.logit_scale
    if name == "kps":
        return lambda logits, target: compared_losses.kps(logits / k, target, n, gamma, adjust_gradient=done >= 0.6)
    if name == "dbm":
        return lambda logits, target: compared_losses.dbm(logits / k, target, n, gamma)
    weights = compared_losses.effective_number_weights(n) if name == "ldam-drw" and done >= 0.8 else None
    return lambda logits, target: compared_losses.ldam(logits / k, target, n, gamma, weights=weights)


def interchange_loss(logits: Logits, target: Tensor, loss: Loss, config: Config) -> dict[
        str, Tensor]:
    """Eq 24 and its terms: ``loss`` is l', ``z``, ``z_v``, ``z_t``, ``prediction`` the unweighted l of each.

    Without FIT the only term is l(z).
    """
    parts = {"z": logits.z, "z_v": logits.z_v, "z_t": logits.z_t, "prediction": logits.prediction}
    terms = {name: loss(value, target) for name, value in parts.items() if value is not None}
    if logits.z_v is None:
        return {"loss": terms["z"], "z": terms["z"]}
    total = (terms["z"] + config.lambda_1 * terms["z_v"] + config.lambda_2 * terms["z_t"]
             + config.lambda_3 * terms["prediction"])
    return {"loss": total, **terms}


def _log_counts(class_counts: Tensor, like: Tensor) -> Tensor:
    if len(class_counts) != like.shape[-1]:
        raise UserError(f"class_counts has {len(class_counts)} classes and the logits have {like.shape[-1]}.")
    if torch.any(class_counts <= 0):
        raise UserError(f"class {int((class_counts <= 0).nonzero()[0])} has no training images; logit adjustment needs one.")
    return class_counts.to(like.device, like.dtype).log()
