"""Samplers: which images an epoch shows, and in which order.

A sampler takes all N training labels and gives N places, so that an epoch has the same length whatever the sampler. With n_j
images in class j, the probability that a draw is of class j:

    every_image       n_j / N, each image once
    class_aware       1 / C, four images of a class in a row (OLTR, Kang et al.)
    class_balanced    1 / C, images drawn with replacement
    reverse           (1 / n_j) / sum_i (1 / n_i), then a uniform image of the class (BBN)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor, torch.Generator], Tensor]
"""Labels int64 (N,) and a generator, which decides everything, to the places int64 (N,) of one epoch."""

IN_A_ROW = 4
"""Images of one class that ``class_aware`` takes at a time."""


def every_image(labels: Tensor, g: torch.Generator) -> Tensor:
    """Each image once, shuffled."""
    return torch.randperm(len(labels), generator=g)


def class_aware(labels: Tensor, g: torch.Generator) -> Tensor:
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


def class_balanced(labels: Tensor, g: torch.Generator) -> Tensor:
    """With replacement, an image of class y with weight 1 / n_y."""
    _, inverse, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    return torch.multinomial((1 / counts.double())[inverse], len(labels), replacement=True, generator=g)


def reverse(labels: Tensor, g: torch.Generator) -> Tensor:
    """With replacement, class j with probability proportional to 1 / n_j, then one of its images."""
    groups = _members(labels)
    counts = torch.tensor([len(members) for members in groups])
    drawn = torch.multinomial(1 / counts.double(), len(labels), replacement=True, generator=g)
    within = (torch.rand(len(labels), dtype=torch.float64, generator=g) * counts[drawn]).long()
    return torch.cat(groups)[(counts.cumsum(0) - counts)[drawn] + within]


def _members(labels: Tensor) -> list[Tensor]:
    """The places of each class that occurs, by rising label."""
    counts = torch.unique(labels, return_counts=True)[1]
    return list(labels.argsort(stable=True).split(counts.tolist()))


def _cycle(members: Tensor, length: int, g: torch.Generator) -> Tensor:
    """``members`` (n,) over and over, each time in a new order, cut at ``length``."""
    rounds = -(-length // len(members))
    return torch.cat([members[torch.randperm(len(members), generator=g)] for _ in range(rounds)])[:length]
