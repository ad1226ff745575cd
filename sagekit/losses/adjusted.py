"""The paper's losses: logit adjustment (Eq 1), its compensated form (Eq 22), and their sum over FIT's logits (Eq 24).

    Eq 1   l(x, y=i) = -log( e^{z_i} n_i^tau / sum_k e^{z_k} n_k^tau ),           tau = 1 in the paper
    Eq 21  Lambda_i  = mu n_i^gamma S_N / (C n_min),                              S_N = sum_k n_k
    Eq 22  l(x, y=i) = -log( e^{z_i} n_i Lambda_i / sum_k e^{z_k} n_k Lambda_k )
    Eq 24  l'        = l(z) + lambda_1 l(z^v) + lambda_2 l(z^t) + lambda_3 l(z^)

mu and S_N / (C n_min) stand in numerator and denominator alike and cancel: Eq 22 is Eq 1 with tau = 1 + gamma, for
every mu. ``compensated`` is written as the paper has it; the tests show the identity. Eq 1 with tau = 1 is Balanced Softmax.
Eq 17, from which Eq 21 comes by two approximations, is exactly 1 for every class and image (finding 12).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

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


def interchanged(z: Tensor, z_v: Tensor, z_t: Tensor, prediction: Tensor, target: Tensor, loss: Loss,
                 lambda_1: float, lambda_2: float, lambda_3: float) -> dict[str, Tensor]:
    """Eq 24 and its terms: ``loss`` is l', and ``z``, ``z_v``, ``z_t``, ``prediction`` are the unweighted l of each (scalars).

    The four logits are (B, C), ``prediction`` being z^; ``target`` is int64 (B,).
    """
    terms = {"z": loss(z, target), "z_v": loss(z_v, target), "z_t": loss(z_t, target), "prediction": loss(prediction, target)}
    total = terms["z"] + lambda_1 * terms["z_v"] + lambda_2 * terms["z_t"] + lambda_3 * terms["prediction"]
    return {"loss": total, **terms}


def _log_counts(class_counts: Tensor, like: Tensor) -> Tensor:
    if len(class_counts) != like.shape[-1]:
        raise UserError(f"class_counts has {len(class_counts)} classes and the logits have {like.shape[-1]}.")
    if torch.any(class_counts <= 0):
        raise UserError(f"class {int((class_counts <= 0).nonzero()[0])} has no training images; logit adjustment needs one.")
    return class_counts.to(like.device, like.dtype).log()
