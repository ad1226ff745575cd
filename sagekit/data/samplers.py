"""Samplers: which images an epoch shows, and in which order.

A sampler takes all N training labels and gives N places, so that an epoch has the same length whatever the sampler. With n_j
images in class j and C classes that have any, the probability that a draw is of class j:

    every_image       n_j / N, each image once
    class_aware       1 / C, four images of a class in a row (OLTR, Kang et al.)
    class_balanced    1 / C, images drawn with replacement
    square_root       sqrt(n_j) / sum_i sqrt(n_i)                                            (Kang et al.)
    effective_number  n_j v_j / sum_i n_i v_i,  v_j = (1 - b) / (1 - b^n_j), b = 0.9999      (GCL's code; Cui et al. 2019)
    cben              the same with b_j = 0.9999 + 1e-5 d_j of the class's own               (GCL's paper)
    progressive       (1 - t) n_j / N + t / C,  t the share of the stage's epochs done       (Kang et al.)
    reverse           (1 / n_j) / sum_i (1 / n_i), then a uniform image of the class (BBN)

with d_j = (log n_1 - log n_j) / (log n_1 - log n_K) between the largest and the smallest class. All but the first two draw
with replacement. Against the largest class ``cben`` shows rare ones less often than ``effective_number``, as its authors mean
it, but by less than a thousandth for classes of up to some thousand images; both are then near ``class_balanced``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .longtail import rarity

Sampler = Callable[[Tensor, torch.Generator, float], Tensor]
"""Labels int64 (N,), a generator, which decides everything, and the share 0..1 of the stage's epochs that are done, to the
places int64 (N,) of one epoch."""

IN_A_ROW = 4
"""Images of one class that ``class_aware`` takes at a time."""


def every_image(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """Each image once, shuffled."""
    return torch.randperm(len(labels), generator=g)


def class_aware(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """Class after class in a shuffled cycle, ``IN_A_ROW`` images of each out of the class's own shuffled cycle.

    A cycle that is used up is shuffled anew. It stops at N images, however many a cycle still holds.
    """
    groups = _members(labels)
    turns = -(-len(labels) // IN_A_ROW)
    order = _cycle(torch.arange(len(groups)), turns, g)
    chosen = torch.empty(turns, IN_A_ROW, dtype=torch.int64)
    for c, mine in zip(order.unique().tolist(), _members(order), strict=True):  # few images: not every class has its turn
        chosen[mine] = _cycle(groups[c], IN_A_ROW * len(mine), g).view(-1, IN_A_ROW)
    return chosen.flatten()[: len(labels)]


def class_balanced(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, an image of class y with weight 1 / n_y."""
    return _weighted(labels, lambda n: 1 / n, g)


def square_root(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, an image of class y with weight 1 / sqrt(n_y)."""
    return _weighted(labels, lambda n: n**-0.5, g)


def effective_number(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, an image of class y with weight (1 - b) / (1 - b^n_y), b = 0.9999."""
    return _weighted(labels, lambda n: 1 / (1 - 0.9999**n), g)


def cben(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, an image of class y with weight (1 - b_y) / (1 - b_y^n_y), b_y = 0.9999 + 1e-5 d_y."""

    def weights(n: Tensor) -> Tensor:
        beta = 0.9999 + 1e-5 * rarity(n)
        return (1 - beta) / (1 - beta**n)

    return _weighted(labels, weights, g)


def progressive(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, from the images as they come (``done`` = 0) to all classes alike (1)."""
    return _weighted(labels, lambda n: (1 - done) / n.sum() + done / (len(n) * n), g)


def reverse(labels: Tensor, g: torch.Generator, done: float = 0.0) -> Tensor:
    """With replacement, class j with probability proportional to 1 / n_j, then one of its images."""
    groups = _members(labels)
    counts = torch.tensor([len(members) for members in groups])
    drawn = torch.multinomial(1 / counts.double(), len(labels), replacement=True, generator=g)
    within = (torch.rand(len(labels), dtype=torch.float64, generator=g) * counts[drawn]).long()
    return torch.cat(groups)[(counts.cumsum(0) - counts)[drawn] + within]


SAMPLERS: dict[str, Sampler] = {sampler.__name__: sampler for sampler in (
    every_image, class_aware, class_balanced, square_root, effective_number, cben, progressive, reverse)}


def _weighted(labels: Tensor, weights: Callable[[Tensor], Tensor], g: torch.Generator) -> Tensor:
    """With replacement, an image of class y with the weight that ``weights`` gives for the counts, float64 (C,), of the classes
    that have images."""
    _, inverse, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    return torch.multinomial(weights(counts.double())[inverse], len(labels), replacement=True, generator=g)


def _members(labels: Tensor) -> list[Tensor]:
    """The places of each class that occurs, by rising label."""
    counts = torch.unique(labels, return_counts=True)[1]
    return list(labels.argsort(stable=True).split(counts.tolist()))


def _cycle(members: Tensor, length: int, g: torch.Generator) -> Tensor:
    """``members`` (n,) over and over, each time in a new order, cut at ``length``."""
    rounds = -(-length // len(members))
    return torch.cat([members[torch.randperm(len(members), generator=g)] for _ in range(rounds)])[:length]
