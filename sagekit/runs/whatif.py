"""What if? Questions that stored logits answer without a model: another tau, other scalars of FIT.

    z^(s_1, s_2) = z + s_1 z_v + s_2 z_t                       (Eq 23, other scalars)
    z' = z^ - tau log(n_i / N)                                 (post-hoc logit adjustment, Menon et al. 2021)

tau > 0 favours rare classes, tau < 0 frequent ones. A run that was trained with logit adjustment stands at tau = 0: its
training has taken the class counts into account already. ``curve`` moves tau and marks the points
that no other point beats in head and tail; ``best_tau`` and ``best_scalars`` pick on validation images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..data.longtail import GROUPS, Groups
from .metrics import cells, over_classes
from .predictions import Predictions

TAUS = tuple(t / 10 for t in range(-15, 16))
"""Where ``curve`` looks."""
SCALARS = tuple(s / 10 for s in range(-5, 21))
"""Where ``best_scalars`` looks."""


def predicted(stored: Predictions, class_counts: Sequence[int] | np.ndarray, tau: float, s_v: float, s_t: float) -> np.ndarray:
    """The class (N,) of each image with other scalars and tau log(n_i / N) taken away, for training counts (C,) of at least 1.

    Approximate where not all classes are stored (``stored.classes``).
    """
    n = np.asarray(class_counts, np.float64)
    offset = (tau * np.log(n / n.sum())).astype(np.float32)
    z = stored.summed(s_v, s_t) - (offset if stored.classes is None else offset[stored.classes])
    return stored.named(z.argmax(1))


def accuracies(predicted: np.ndarray, labels: np.ndarray, groups: Groups) -> dict[str, float]:
    """Top-1 (percent) of mean (over classes), all, head, medium and tail for predicted classes (N,); nan for a group without
    images."""
    correct = predicted == labels
    return {group: round(float(100 * weights @ correct), 9) if weights.any() else float("nan")
            for group, weights in cells(labels, groups).items()}


def curve(stored: Predictions, class_counts: Sequence[int] | np.ndarray, groups: Groups, s_v: float, s_t: float,
          taus: Sequence[float] = TAUS) -> pd.DataFrame:
    """One row for each of ``taus``: ``tau``, mean / all / head / medium / tail (percent), and ``best``: whether no other row is
    at least as good in head and tail and better in one."""
    answers = {tau: predicted(stored, class_counts, tau, s_v, s_t) for tau in taus}
    frame = pd.DataFrame([{"tau": tau, **accuracies(p, stored.labels, groups)} for tau, p in answers.items()])
    return frame.assign(best=_unbeaten(frame[[GROUPS[0], GROUPS[-1]]].to_numpy()))


def best_tau(stored: Predictions, class_counts: Sequence[int] | np.ndarray, s_v: float, s_t: float,
             taus: Sequence[float] = TAUS) -> float:
    """The one of ``taus`` with the highest mean over classes on ``stored``, which should be of validation images; of several
    the one that is nearest to 0."""
    weights = over_classes(stored.labels, stored.labels)
    means = {tau: weights @ (predicted(stored, class_counts, tau, s_v, s_t) == stored.labels) for tau in taus}
    return max(taus, key=lambda tau: (round(float(means[tau]), 9), -abs(tau)))


def best_scalars(stored: Predictions, values_v: Sequence[float] = SCALARS,
                 values_t: Sequence[float] = SCALARS) -> tuple[float, float]:
    """The (s_1, s_2) of a grid with the highest mean over classes on ``stored``, which should be of validation images; of
    several the one that is nearest to (0, 0)."""
    weights = over_classes(stored.labels, stored.labels)

    def mean(pair: tuple[float, float]) -> float:
        return round(float(weights @ (stored.named(stored.summed(*pair).argmax(1)) == stored.labels)), 9)

    return max(itertools.product(values_v, values_t), key=lambda pair: (mean(pair), -pair[0] ** 2 - pair[1] ** 2))


def _unbeaten(points: np.ndarray) -> np.ndarray:
    as_good = np.all(points[None] >= points[:, None], axis=2)
    better = np.any(points[None] > points[:, None], axis=2)
    return np.asarray(~np.any(as_good & better, axis=1))
