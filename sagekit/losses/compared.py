"""The losses that the paper is compared with, or adds its compensation factor to (Table 7).

With logits z (or cosines c = cos theta), label y, counts n, pi = n / sum n, K classes:

    CE               CE(z)
    focal            (1 - p_y)^g CE(z)                                                                      g = 2
    class-balanced   w_y CE(z),  w_j ~ (1 - b) / (1 - b^n_j), mean 1 over classes                           b = 0.9999
    CDB-W-CE         w_y CE(z),  w_j ~ (1 - a_j)^tau, mean 1 over classes, a_j the accuracy of class j; tau a number, or
                     sigmoid(r), or 2 sigmoid(r - 1),  r = max a / (min a + 0.01)
    LDAM             CE( s (c_j - 1[j=y] m_y) ),  m_j = 0.5 (n_min / n_j)^(1/4)                              s = 30
    LDAM-DRW         LDAM, and in the last fifth of the epochs  sum w_y LDAM / sum w_y  with class-balanced's w
    LADE             CE(z + log pi) + a R,  R = -sum_c pi_c (A_c - B_c - l B_c^2)                             a = 0.1, l = 0.01
                     A_c = mean of z_c over the batch's images of class c (0 without any),
                     B_c = log mean exp(z_c - log pi_c - log K)
    KPS              CE( s (s_j c_j - 1[j=y] m_y) ),  s_j = log(50 n_j / n_min) / log 50,
                     m_j = 0.2 s_(K-1-j) / max s, j by falling count                                        s = 15
    DBM              CE( 32 cos(theta_j + 1[j=y] d) ),  d = m_y + m_y 1[wrong] (1 - c_y) / 2,  m_j = 0.1 n_min / n_j
    ALA              CE( s (c_j - 1[j=y] (1 - c_y) / 2 log 2 / log(n_y / n_min + 1)) ), no gradient through (1 - c_y) s = 30
    GCL              CE( s (c_j - k |e_j| d_j) ),  d_j = (log n_1 - log n_j) / (log n_1 - log n_K)          s = 30, k = 0.5
                     e_j normal with deviation 1/3, of each image and class, clamped to -1..1; n_1 largest, n_K smallest
    VS               CE( (n_j / n_1)^g z_j + tau log pi_j )                                                  g = 0.05
    DDC              VS, and in the last fifth  sum w_y CE(z + 0.75 log pi) / sum w_y,  w_j ~ pi_j^-0.25: the scaling off (TLA),
                     the weights on (ADRW)
    balanced-bce     sum_j BCE(z_j + log pi_j - log(1 - pi_j), 1[j=y])                                      (LiVT)

Balanced Softmax is ``losses.logit_adjusted`` at tau = 1. Every loss is a mean over the batch, a weighted one too, but for
LDAM-DRW and DDC: their authors divide by the batch's sum of weights (LDAM's at CIFAR-100-LT 100 about a fifth of B). ``gamma``
adds the paper's compensation factor: e^{z_i} Lambda_i in place of e^{z_i} in the cross entropy, so gamma log n_i on the logit
(mu and S_N / (C n_min) cancel). For plain CE the paper does not say whether "+ CF" brings n_i itself too: ``cross_entropy``
with gamma is the reading tau = gamma, ``losses.compensated`` is the reading tau = 1 + gamma.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.longtail import rarity
from ..errors import UserError, nearest
from .adjusted import Loss, compensated, logit_adjusted

Name = Literal["ce", "focal", "class-balanced", "cdb", "la", "ldam", "ldam-drw", "lade", "kps", "dbm", "ala", "gcl", "vs",
               "ddc", "balanced-bce"]
COSINE = ("ldam", "ldam-drw", "kps", "dbm", "ala", "gcl")
"""The losses of cosines: their classifier must be a cosine one."""


def named(name: Name, class_counts: Tensor, *, tau: float = 1.0, gamma: float = 0.0, mu: float = 0.5, scale: float = 30.0,
          done: float = 0.0, class_accuracy: Tensor | None = None, random: torch.Generator | None = None) -> Loss:
    """The loss l(logits, target) called ``name``, for ``class_counts`` (C,).

    ``tau`` is la's. ``gamma`` > 0 adds the compensation factor; for la that is Eq 22 with ``mu``, and ``tau`` must be 1.
    ``scale`` is the classifier's logit scale: the losses in ``COSINE`` take logits / ``scale`` and bring their own. ``done``,
    0..1, is the share of epochs done: LDAM-DRW and DDC weight from 0.8 on, KPS adjusts its gradient from 0.6 on.
    ``class_accuracy`` (C,) in 0..1 is CDB's; without it no class is difficult yet. ``random`` draws GCL's noise.
    """
    n = class_counts
    if name == "la" and gamma > 0 and tau != 1:
        raise UserError(f"Eq 22 has tau = 1, not {tau:g}; set gamma to 0 to move tau (tau = 1 + gamma is the same loss).")
    balanced = effective_number_weights(n)
    difficult = None if class_accuracy is None else difficulty_weights(class_accuracy)
    known: dict[Name, Loss] = {
        "ce": lambda z, y: cross_entropy(z, y, n, gamma),
        "focal": lambda z, y: focal(z, y, n, gamma),
        "class-balanced": lambda z, y: cross_entropy(z, y, n, gamma, balanced),
        "cdb": lambda z, y: cross_entropy(z, y, n, gamma, difficult),
        "la": lambda z, y: compensated(z, y, n, gamma, mu) if gamma > 0 else logit_adjusted(z, y, n, tau),
        "ldam": lambda z, y: ldam(z / scale, y, n, gamma),
        "ldam-drw": lambda z, y: ldam(z / scale, y, n, gamma, weights=balanced if done >= 0.8 else None),
        "lade": lambda z, y: lade(z, y, n, gamma),
        "kps": lambda z, y: kps(z / scale, y, n, gamma, adjust_gradient=done >= 0.6),
        "dbm": lambda z, y: dbm(z / scale, y, n, gamma),
        "ala": lambda z, y: ala(z / scale, y, n, gamma),
        "gcl": lambda z, y: gcl(z / scale, y, n, gamma, random=random),
        "vs": lambda z, y: vs(z, y, n, gamma, tau=tau),
        "ddc": lambda z, y: ddc_late(z, y, n, gamma) if done >= 0.8 else vs(z, y, n, gamma),
        "balanced-bce": lambda z, y: balanced_bce(z, y, n, gamma),
    }
    if name not in known:
        raise UserError(f"There is no loss '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return known[name]


def cross_entropy(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0,
                  weights: Tensor | None = None, normalise: bool = False) -> Tensor:
    """CE of ``logits`` (B, C) with the compensation factor, for ``target`` int64 (B,) and ``class_counts`` (C,).

    ``weights`` (C,) multiply each image's loss by w_y. The sum is divided by B (class-balanced, CDB), or with ``normalise``
    by the batch's sum of w_y (LDAM-DRW).
    """
    loss = F.cross_entropy(compensate(logits, class_counts, gamma), target, reduction="none")
    if weights is None:
        return loss.mean()
    own = weights.to(loss)[target]  # (B,)
    return (own * loss).sum() / (own.sum() if normalise else len(own))


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


def difficulty_weights(class_accuracy: Tensor, tau: float | None = None,
                       dynamic: Literal["sigmoid", "doubled"] = "sigmoid") -> Tensor:
    """CDB's class weights float64 (C,) from accuracies (C,) in 0..1, with mean 1; all 1 when no class is difficult.

    The accuracies should come from held-out images, as the authors' do: a rare class that is learned by heart looks easy on
    its training images, and its weight would fall. Without ``tau`` the exponent follows r = max a / (min a + 0.01), in one of
    the two ways of the authors' code: ``sigmoid``, sigmoid(r) in 0.5..1 (their CIFAR loss), or ``doubled``, 2 sigmoid(r - 1),
    which is 1..2 for r >= 1 (their ImageNet-LT).
    """
    a = class_accuracy.double()
    ratio = a.max() / (a.min() + 0.01)
    moving = torch.sigmoid(ratio) if dynamic == "sigmoid" else 2 * torch.sigmoid(ratio - 1)
    weights = (1 - a) ** (moving if tau is None else tau)
    return weights / weights.mean() if weights.sum() > 0 else torch.ones_like(weights)


def ldam(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 30.0,
         largest_margin: float = 0.5, weights: Tensor | None = None) -> Tensor:
    """LDAM (Cao et al. 2019). ``cosines`` (B, C) in -1..1; the margin is subtracted before the scale.

    ``weights`` (C,), for deferred re-weighting (DRW): ``effective_number_weights`` in the last epochs, divided by the batch's
    sum of weights.
    """
    n = class_counts.to(cosines)
    margins = largest_margin * (n.min() / n) ** 0.25
    logits = scale * (cosines - F.one_hot(target, len(n)) * margins)
    return cross_entropy(logits, target, class_counts, gamma, weights, normalise=True)


def lade(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, strength: float = 0.1,
         regular: float = 0.01) -> Tensor:
    """LADE (Hong et al. 2021). Classes that the batch lacks keep their B_c in R, as in the authors' code.

    ``regular`` (l) is that of the authors' command for CIFAR-100-LT 100; their yaml file says 0.1.
    """
    n = class_counts.to(logits)
    prior = n / n.sum()
    members = F.one_hot(target, len(n)).to(logits)  # (B, C)
    own = (logits * members).sum(0) / members.sum(0).clamp(min=1)  # A_c
    spread = torch.logsumexp(logits - prior.log() - math.log(len(n)), 0) - math.log(len(logits))  # B_c
    estimate = (prior * (own - spread - regular * spread**2)).sum()  # -R
    return cross_entropy(logits + prior.log(), target, class_counts, gamma) - strength * estimate


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

    The gradient goes through the difficulty (1 - c_y) / 2 too, as in the authors' code: d theta' / d theta =
    1 + m_y sin(theta) / 2 for a wrong image. They do not clamp c_y; here acos keeps a finite slope at -1 and 1.
    """
    n = class_counts.to(cosines)
    margin = largest_margin * n.min() / n[target]  # (B,)
    c = cosines.gather(1, target[:, None])[:, 0].clamp(-1 + 1e-7, 1 - 1e-7)
    wrong = (cosines.argmax(1) != target).to(c)
    moved = torch.cos(torch.acos(c) + margin + margin * wrong * (1 - c) / 2)
    return cross_entropy(scale * cosines.scatter(1, target[:, None], moved[:, None]), target, class_counts, gamma)


def ala(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 30.0) -> Tensor:
    """ALA (Zhao et al. 2022): a margin for images that are hard, times one for classes that are rare. ``cosines`` (B, C).

    No code of its authors is public. This is the form of two public copies; a line in them that is switched off has
    1 / log(n_y / n_min + 1) for rare classes, and which is the paper's is open.
    """
    n = class_counts.to(cosines)
    hard = (1 - cosines.gather(1, target[:, None]).detach()) / 2
    rare = math.log(2) / torch.log(n[target] / n.min() + 1)
    logits = scale * (cosines - F.one_hot(target, len(n)) * hard * rare[:, None])
    return cross_entropy(logits, target, class_counts, gamma)


def gcl(cosines: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, scale: float = 30.0, strength: float = 0.5,
        random: torch.Generator | None = None) -> Tensor:
    """GCL (Li et al. 2022), its first stage: noise that always lowers a cosine, the rarer the class the more. ``cosines`` (B,
    C); the test uses plain cosines. All counts equal: no noise.
    """
    return cross_entropy(scale * clouded(cosines, target, class_counts, strength, random=random), target, class_counts, gamma)


def clouded(cosines: Tensor, target: Tensor, class_counts: Tensor, strength: float, margin: float = 0.0,
            random: torch.Generator | None = None) -> Tensor:
    """c_j - ``strength`` |e_j| d_j - ``margin`` 1[j=y] of ``cosines`` (B, C): (B, C)."""
    lowered = cosines - strength * gcl_noise(cosines, class_counts, random)
    return lowered - margin * F.one_hot(target, len(class_counts)).to(lowered)


def gcl_noise(cosines: Tensor, class_counts: Tensor, random: torch.Generator | None = None) -> Tensor:
    """|e_j| d_j of every image and class: (B, C) in 0..1."""
    noise = (torch.randn(cosines.shape, generator=random).to(cosines) / 3).clamp(-1, 1).abs()
    return noise * rarity(class_counts.to(cosines))


def vs(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, tau: float = 1.0,
       scaling: float = 0.05) -> Tensor:
    """VS (Kini et al. 2021): logit adjustment, and logits of rare classes made smaller; as DDC's code has it (``scaling`` is
    their 0.05 for CIFAR-100-LT). ``logits`` (B, C)."""
    n = class_counts.to(logits)
    return cross_entropy((n / n.max()) ** scaling * logits + tau * (n / n.sum()).log(), target, class_counts, gamma)


def ddc_late(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0, tau: float = 0.75,
             power: float = 0.25) -> Tensor:
    """DDC's last epochs (Wang et al. 2023; its CIFAR-100-LT 100 script): no scaling (TLA), weights pi^-``power`` (ADRW)."""
    n = class_counts.to(logits)
    weights = (n / n.sum()) ** -power
    return cross_entropy(logits + tau * (n / n.sum()).log(), target, class_counts, gamma, weights, normalise=True)


def balanced_bce(logits: Tensor, target: Tensor, class_counts: Tensor, gamma: float = 0.0) -> Tensor:
    """LiVT's loss: each class a question of its own, its logit moved by its prior odds (Xu et al. 2023; their code's form)."""
    odds = class_counts.to(logits)
    odds = odds / (odds.sum() - odds)
    asked = compensate(logits, class_counts, gamma) + odds.log()
    return F.binary_cross_entropy_with_logits(asked, F.one_hot(target, len(odds)).to(asked), reduction="sum") / len(target)
