"""ProCo (Du et al. 2024): contrast with every class's von Mises-Fisher distribution in place of with other images.

An image is a vector u on the unit sphere in R^p (p = 128). Each class j keeps the mean a_j of its u, and

    mu_j = a_j / |a_j|,    R_j = |a_j|,    kappa_j = p R_j / (1 - R_j^2)
    log C(k) = log I_v(k) - v log k,    v = p/2 - 1                     (I_v: modified Bessel function of the first kind)
    logit_j = log C(|kappa_j mu_j + u / t|) - log C(kappa_j),    t = 0.1
which enter the losses as a classifier's logits do. The means of one epoch serve the next, to which each batch is added. A
class that an epoch does not show keeps its mean, with count 0 (the authors' restarts at a random direction).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIMENSION = 128
LARGEST_KAPPA = 1e5
"""A class of one image has R = 1; its kappa is cut here (as in the authors' code)."""


def log_bessel(kappa: Tensor, order: float) -> Tensor:
    """log I_v(kappa) - v log kappa, in float64, for ``kappa`` >= 0 and ``order`` v of about 10 or more.

    Debye's uniform expansion in 1/v (DLMF 10.41.3) to its fourth term: within 1e-9 of scipy at v = 63 (a test).
    Its derivative is I_{v+1}(kappa) / I_v(kappa), the mean length of a von Mises-Fisher vector.
    """
    v, k = order, kappa.double()
    root = torch.sqrt(1 + (k / v) ** 2)
    t = 1 / root
    u1 = (3 * t - 5 * t**3) / 24
    u2 = (81 * t**2 - 462 * t**4 + 385 * t**6) / 1152
    u3 = (30375 * t**3 - 369603 * t**5 + 765765 * t**7 - 425425 * t**9) / 414720
    u4 = (4465125 * t**4 - 94121676 * t**6 + 349922430 * t**8 - 446185740 * t**10 + 185910725 * t**12) / 39813120
    series = 1 + u1 / v + u2 / v**2 + u3 / v**3 + u4 / v**4
    return v * (root - torch.log(v * (1 + root))) - 0.5 * math.log(2 * math.pi * v) - 0.5 * root.log() + series.log()


class Statistics(nn.Module):
    """Running means of every class's unit vectors: of the epoch before together with this one's, and of this one's alone.

    ``means`` and ``counts`` make the logits, ``own_means`` and ``own_counts`` are this epoch's; (C, p) and (C,), saved with
    the weights. ``temperature`` is t.
    """

    means: Tensor
    counts: Tensor
    own_means: Tensor
    own_counts: Tensor

    def __init__(self, classes: int, dimension: int = DIMENSION, temperature: float = 0.1) -> None:
        super().__init__()
        self.order, self.temperature = dimension / 2 - 1, temperature
        start = 0.9 * F.normalize(torch.randn(classes, dimension), dim=1)  # spread out, until the first images come
        for name in ("means", "own_means"):
            self.register_buffer(name, start.clone())
        for name in ("counts", "own_counts"):
            self.register_buffer(name, torch.zeros(classes))

    def start_epoch(self) -> None:
        """What this epoch counted serves the next; counting starts anew."""
        self.means.copy_(self.own_means)  # in place: DistributedDataParallel holds on to the buffers it was given
        self.counts.copy_(self.own_counts)
        self.own_counts.zero_()

    @torch.no_grad()
    def update(self, vectors: Tensor, labels: Tensor) -> None:
        """Add unit ``vectors`` (B, p) of the classes ``labels`` int64 (B,)."""
        for means, counts in ((self.means, self.counts), (self.own_means, self.own_counts)):
            new = torch.zeros_like(counts).index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
            total = torch.zeros_like(means).index_add_(0, labels, vectors.to(means))
            both = (counts + new).clamp(min=1)[:, None]
            means.copy_(torch.where(new[:, None] > 0, (means * counts[:, None] + total) / both, means))
            counts.add_(new)

    def logits(self, vectors: Tensor) -> Tensor:
        """The class logits (B, C) of unit ``vectors`` (B, p), through float64: kappa^2 is up to 1e10, and 1 / t^2 only 100."""
        means, t = self.means.double(), self.temperature
        length = means.norm(dim=1)
        kappa = (means.shape[1] * length / (1 - length**2).clamp(min=1e-12)).clamp(max=LARGEST_KAPPA)  # (C,)
        cosine = vectors.double() @ F.normalize(means, dim=1).T
        moved = (kappa**2 + 2 * kappa * cosine / t + 1 / t**2).clamp(min=1e-12).sqrt()  # (B, C)
        return (log_bessel(moved, self.order) - log_bessel(kappa, self.order)).to(vectors.dtype)
