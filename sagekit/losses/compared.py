"""The losses that the paper is compared with, or adds its compensation factor to (Table 7).

With logits z (or cosines c = cos theta), label y, counts n, pi = n / sum n, K classes:

    CE               CE(z)
    focal            (1 - p_y)^g CE(z)                                                                      g = 2
    class-balanced   w_y CE(z),  w_j ~ (1 - b) / (1 - b^n_j), mean 1 over classes                           b = 0.9999
    CDB-W-CE         w_y CE(z),  w_j ~ (1 - a_j)^tau, mean 1 over classes, a_j the accuracy of class j;
                     tau = sigmoid( max a / (min a + 0.01) )
    LDAM             CE( s (c_j - 1[j=y] m_y) ),  m_j = 0.5 (n_min / n_j)^(1/4)                              s = 30
    LADE             CE(z + log pi) + a R,  R = -sum_c pi_c (A_c - B_c - l B_c^2)                             a = 0.1, l = 0.01
                     A_c = mean of z_c over the batch's images of class c,  B_c = log mean exp(z_c - log pi_c - log K)
    KPS              CE( s (s_j c_j - 1[j=y] m_y) ),  s_j = log(50 n_j / n_min) / log 50,
                     m_j = 0.2 s_(K-1-j) / max s, j by falling count                                        s = 15
    DBM              CE( 32 cos(theta_j + 1[j=y] d) ),  d = m_y + m_y 1[wrong] (1 - c_y) / 2,  m_j = 0.1 n_min / n_j

Balanced Softmax is ``losses.logit_adjusted`` at tau = 1. Every loss is a mean over the batch. ``gamma`` adds the paper's
compensation factor: e^{z_i} Lambda_i in place of e^{z_i} in the cross entropy, so gamma log n_i on the logit (mu and
S_N / (C n_min) cancel). For plain CE the paper does not say whether "+ CF" brings n_i itself too: ``cross_entropy`` with
gamma is the reading tau = gamma, ``losses.compensated`` is the reading tau = 1 + gamma.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0,
                  weights: Tensor | None = None) -> Tensor:
    """CE of ``logits`` (B, C) with the compensation factor, for ``target`` int64 (B,) and ``class_counts`` (C,).

    ``weights`` (C,) multiply each image's loss by w_y; the mean is not divided by the batch's weights.
    """
    loss = F.cross_entropy(compensate(logits, class_counts, gamma), target, reduction="none")
    return (loss if weights is None else weights.to(loss)[target] * loss).mean()


def compensate(logits: Tensor, class_counts: Tensor, gamma: float) -> Tensor:
    """z_i + gamma log n_i, (B, C)."""
    return logits + gamma * class_counts.to(logits).log() if gamma else logits


def focal(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, focus: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017); ``focus`` = 0 is cross entropy."""
    loss = F.cross_entropy(compensate(logits, class_counts, gamma), target, reduction="none")
    return ((1 - torch.exp(-loss)) ** focus * loss).mean()


def effective_number_weights(class_counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Class weights float64 (C,) of Cui et al. 2019, with mean 1."""
    weights = (1 - beta) / (1 - beta ** class_counts.double())
    return weights / weights.mean()


def difficulty_weights(class_accuracy: Tensor) -> Tensor:
    """CDB's class weights float64 (C,) from class accuracies in 0..1, with mean 1 and the dynamic exponent of Sinha et al.'s
    code; all 1 when no class is difficult."""
    a = class_accuracy.double()
    weights = (1 - a) ** torch.sigmoid(a.max() / (a.min() + 0.01))
    return weights / weights.mean() if weights.sum() > 0 else torch.ones_like(weights)


def ldam(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 30.0,
         largest_margin: float = 0.5, weights: Tensor | None = None) -> Tensor:
    """LDAM (Cao et al. 2019). ``cosines`` (B, C) in -1..1; the margin is subtracted before the scale.

    ``weights`` (C,), for deferred re-weighting (DRW): ``effective_number_weights`` in the last epochs.
    """
    n = class_counts.to(cosines)
    margins = largest_margin * (n.min() / n) ** 0.25
    logits = scale * (cosines - F.one_hot(target, len(n)) * margins)
    return cross_entropy(logits, target, class_counts, gamma, weights)


def lade(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, strength: float = 0.1,
         regular: float = 0.01) -> Tensor:
    """LADE (Hong et al. 2021). Classes that the batch lacks have no A_c and are left out of R."""
    n = class_counts.to(logits)
    prior = n / n.sum()
    members = F.one_hot(target, len(n)).to(logits)  # (B, C)
    size = members.sum(0)
    own = (logits * members).sum(0) / size.clamp(min=1)  # A_c
    spread = torch.logsumexp(logits - prior.log() - math.log(len(n)), 0) - math.log(len(logits))  # B_c
    estimate = torch.where(size > 0, prior * (own - spread - regular * spread**2), 0.0)
    return cross_entropy(logits + prior.log(), target, class_counts, gamma) - strength * estimate.sum()


def kps(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 15.0,
        adjust_gradient: bool = False) -> Tensor:
    """KPS (Li et al. 2022): key-point-sensitive scale and margin. ``cosines`` (B, C); the test uses plain cosines.

    ``adjust_gradient`` (from epoch 120 of 200 on) raises the scale of an image to clamp(15 s_(K-1-y), 15, 50).
    """
    factors, mirrored = _kps_factors(class_counts.to(cosines))
    margins = 0.2 * mirrored / factors.max()
    scales = (scale * mirrored[target]).clamp(scale, 50.0).unsqueeze(1) if adjust_gradient else scale
    logits = scales * (factors * cosines - F.one_hot(target, len(factors)) * margins)
    return cross_entropy(logits, target, class_counts, gamma)


def _kps_factors(n: Tensor) -> tuple[Tensor, Tensor]:
    """s_j of every class, and s of the class with the mirrored rank; both (C,), whatever the order of the counts."""
    factors = torch.log(50 * n / n.min()) / math.log(50)
    order = factors.argsort(descending=True, stable=True)
    mirrored = torch.empty_like(factors)
    mirrored[order] = factors[order.flip(0)]
    return factors, mirrored


def dbm(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 32.0,
        largest_margin: float = 0.1) -> Tensor:
    """DBM (Son et al. 2024): a class margin, and a difficulty margin for images that are wrong now. ``cosines`` (B, C).

    The difficulty (1 - c_y) / 2 is a weight and carries no gradient.
    """
    n = class_counts.to(cosines)
    margin = largest_margin * n.min() / n[target]  # (B,)
    c = cosines.gather(1, target[:, None])[:, 0].clamp(-1 + 1e-7, 1 - 1e-7)
    wrong = (cosines.argmax(1) != target).to(c)
    moved = torch.cos(torch.acos(c) + margin + margin * wrong * (1 - c.detach()) / 2)
    return cross_entropy(scale * cosines.scatter(1, target[:, None], moved[:, None]), target, class_counts, gamma)
