"""Measures of a classifier on a test set, from its predictions: pure numpy, no model.

Top-1 by group, macro-F1, worst class, harmonic and geometric mean of the class accuracies, and expected calibration
error with 15 equal bins of confidence:

    ECE = sum_b (n_b / N) | accuracy_b - confidence_b |

Every accuracy a = k / n has its 95 % Wilson interval over the n test images: all a0 with, at z = 1.96,

    (a - a0)^2 <= z^2 a0 (1 - a0) / n

Two classifiers on the same images, of which one alone is right ``won`` times and the other alone ``lost`` times: the p-value is
McNemar's exact one, of won ~ Binomial(won + lost, 1/2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest, gmean, hmean
from sklearn.metrics import f1_score

from ..data.longtail import GROUPS, Groups
from .predictions import Predictions

DRAWS = 2000


def interval(correct: np.ndarray) -> dict[str, Any]:
    """Accuracy of ``correct`` bool (n,) with its 95 % Wilson interval, all in 0..1; empty in, empty out (None)."""
    n = len(correct)
    if n == 0:
        return {"accuracy": None, "low": None, "high": None, "images": 0}
    ends = binomtest(int(correct.sum()), n).proportion_ci(method="wilson")
    return {"accuracy": float(correct.mean()), "low": float(ends.low), "high": float(ends.high), "images": n}


def class_accuracies(correct: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Top-1 of each class, float (C,), nan for a class without test images."""
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, weights=correct, minlength=classes)
    return np.divide(right, total, out=np.full(classes, np.nan), where=total > 0)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (0..1) of predictions with ``confidence`` float (N,) that are ``correct`` bool (N,)."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean()
            for b in np.unique(which)]
    return float(sum(gaps))


def measure(predictions: Predictions, classes: int, groups: Mapping[str, Groups]) -> dict[str, Any]:
    """Everything that ``metrics.json`` says about one set of predictions over C = ``classes``.

    ``groups``: the classes of head / medium / tail by each definition. Harmonic and geometric mean are 0 when a class
    is never right.
    """
    predicted, labels = predictions.predicted, predictions.labels
    correct = predicted == labels
    per_class = class_accuracies(correct, labels, classes)
    seen = per_class[~np.isnan(per_class)]
    return {
        "all": interval(correct),
        "groups": {
            definition: {
                group: {**interval(correct[np.isin(labels, members)]), "classes": len(members)}
                for group, members in of.items()
            }
            for definition, of in groups.items()
        },
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=np.arange(classes), zero_division=0)),
        "worst_class": float(seen.min()),
        "harmonic_mean": float(hmean(seen)) if seen.min() > 0 else 0.0,
        "geometric_mean": float(gmean(seen)) if seen.min() > 0 else 0.0,
        "calibration_error": calibration_error(predictions.confidence, correct),
        "per_class": [None if np.isnan(a) else float(a) for a in per_class],
    }


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Accuracy of ``b`` minus that of ``a`` on the same images, bool (n,) each, with 95 % interval and two-sided p-value.

    ``p`` is McNemar's exact test (1 where no image differs). ``low`` and ``high`` are the paired bootstrap over images:
    resampling the differences -1, 0, +1 is one multinomial draw. With few differing images the two may disagree; p is exact.
    """
    n, won, lost = len(a), int((b & ~a).sum()), int((a & ~b).sum())
    gain, loss = won / n, lost / n
    draws = np.random.default_rng(seed).multinomial(n, [gain, loss, max(0.0, 1 - gain - loss)], DRAWS)
    differences = (draws[:, 0] - draws[:, 1]) / n
    low, high = np.quantile(differences, [0.025, 0.975])
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return {"difference": gain - loss, "low": float(low), "high": float(high), "p": p}


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values (m,), in the order of ``p`` (m,): the k-th smallest times m - k + 1,
    never falling, at most 1."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def group_names() -> tuple[str, ...]:
    """``all``, then the three groups: the order of every table."""
    return ("all", *GROUPS)
