"""Long-tailed counts and the head / medium / tail groups.

Profile of CIFAR-100-LT (the common protocol), classes i = 0..C-1 in label order, imbalance ratio beta:

    n_i = int( n_max * (1 / beta)^(i / (C - 1)) )

Groups by a class's training images: head > 100, 20 <= medium <= 100, tail < 20 (LIFT's thresholds, which are settings), or by
thirds of the classes in order of size. The LIFT line of work takes the groups of every CIFAR variant from the beta = 100
profile; ``DEFINITIONS`` names the readings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..errors import UserError

GROUPS = ("head", "medium", "tail")
HEAD_ABOVE, TAIL_BELOW = 100, 20
DEFINITIONS = {
    "own": "groups by the data set's own training counts",
    "beta100": "groups by the counts of the same data at imbalance ratio 100 (LIFT's convention for CIFAR-100-LT)",
    "thirds": "groups by thirds of the classes, the largest in training first",
}
"""Readings of head, medium and tail. A data set has "beta100" only where the kit makes its long tail."""

Groups = Mapping[str, np.ndarray]
"""Class indices of head, medium and tail; a group may be empty."""


def profile(classes: int, largest: int, imbalance_ratio: float) -> np.ndarray:
    """Training images of each class, int64 (classes,), largest first. ``imbalance_ratio`` >= 1; 1 is balanced."""
    if imbalance_ratio < 1:
        raise UserError(f"imbalance_ratio is {imbalance_ratio:g}; it is n_max / n_min and so at least 1.")
    exponent = np.arange(classes) / max(1, classes - 1)
    return np.array([int(largest * (1 / imbalance_ratio) ** e) for e in exponent], dtype=np.int64)


def served(own: np.ndarray, largest: int, imbalance_ratio: float) -> np.ndarray:
    """Images of each class, int64 (C,), that data with ``own`` (C,) can give to a profile of this ratio.

    The profile starts from the largest class, ``largest`` at most; in order of size, a class gives n_i = min(own, profile),
    which is 0 where the profile is.
    """
    order = np.argsort(-own, kind="stable")
    wanted = profile(len(own), min(largest, int(own.max())), imbalance_ratio)
    counts = np.empty(len(own), np.int64)
    counts[order] = np.minimum(own[order], wanted)
    return counts


def rarity(counts: Tensor) -> Tensor:
    """How rare each class is: d_j = (log n_1 - log n_j) / (log n_1 - log n_K) of ``counts`` float (C,), which is 0 for the
    largest class and 1 for the smallest; 0 for all where they are equal."""
    logs = counts.log()
    return (logs.max() - logs) / (logs.max() - logs.min()).clamp(min=1e-12)


def sketch(classes: int, images: int, largest: int, smallest: int) -> np.ndarray:
    """A smooth stand-in for a profile of which only these four numbers are known, int64 (classes,), largest first.

    n_i = largest (smallest / largest)^((i / (C - 1))^q), with q such that the sum comes out at about ``images``; q = 1 is
    ``profile``.
    """
    from scipy.optimize import brentq  # slow to import

    place = np.arange(classes) / max(1, classes - 1)

    def counts(q: float) -> np.ndarray:
        return largest * (smallest / largest) ** (place**q)

    if not counts(1e-2).sum() < images < counts(1e2).sum():
        raise UserError(f"{classes} classes of {smallest} to {largest} images cannot have {images} in all.")
    return np.round(counts(brentq(lambda q: counts(q).sum() - images, 1e-2, 1e2))).astype(np.int64)


def groups(class_counts: Sequence[int] | np.ndarray, head_above: int = HEAD_ABOVE,
           tail_below: int = TAIL_BELOW) -> dict[str, np.ndarray]:
    """Class indices of head (> ``head_above`` images), medium, and tail (< ``tail_below`` images); a group may be empty."""
    n = np.asarray(class_counts)
    head, tail = n > head_above, n < tail_below
    return {"head": np.flatnonzero(head), "medium": np.flatnonzero(~head & ~tail), "tail": np.flatnonzero(tail & ~head)}


def thirds(class_counts: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Class indices of the three thirds, the largest classes first; of classes alike in size the first in order are larger.
    Where C is no multiple of 3 the first groups have one class more."""
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    return {group: np.sort(part) for group, part in zip(GROUPS, np.array_split(order, 3), strict=True)}


def subsample(labels: np.ndarray, class_counts: np.ndarray, seed: int) -> np.ndarray:
    """Indices of a long-tailed subset with ``class_counts[c]`` images of class c, drawn without replacement.

    ``labels`` int (N,). The draw of the community's CIFAR-100-LT: one legacy random state, class after class. Raises
    ``UserError`` when a class has fewer images than asked for.
    """
    rng = np.random.RandomState(seed)  # a newer kind of generator draws other images
    chosen = []
    for c, count in enumerate(class_counts):
        members = np.flatnonzero(labels == c)
        if len(members) < count:
            raise UserError(f"class {c} has {len(members)} images; {count} are asked for. Lower the largest count.")
        rng.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen)
