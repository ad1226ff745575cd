"""Measures of a classifier on a test set, from its predictions: pure numpy, no model.

Every accuracy is a weighted mean over the N test images, a = sum_i w_i [image i is right] with sum_i w_i = 1. Let n_c be the
test images of class c:

    all           w_i = 1 / N
    mean          w_i = 1 / (C n_c), c the class of i, over the C classes that have test images: the mean over classes
    head, ...     w_i = 1 / (C_g n_c) over the C_g classes of the group that have test images; 0 elsewhere

Where all n_c are equal, mean and all are the same. The 95 % interval is Wilson's for n = 1 / sum_i w_i^2 images (Kish's
effective number; the number of images itself where w is constant): all a0 with, at z = 1.96,

    (a - a0)^2 <= z^2 a0 (1 - a0) / n

Of the whole test set: top-5 (mean over classes), macro-F1, worst class, harmonic and geometric mean of the class accuracies,
negative log likelihood, and expected calibration error with 15 equal bins of confidence, n_b images in bin b (the last two over
images):

    NLL = -(1 / N) sum_i log p_i(true class),   ECE = sum_b (n_b / N) | accuracy_b - confidence_b |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import gmean, hmean

from ..data.longtail import GROUPS, Groups
from .predictions import Predictions

Z = 1.959963984540054
"""The normal distribution's 97.5 % point."""


def group_names(balanced: bool = False) -> tuple[str, ...]:
    """The columns of every table, in order: ``mean`` (over classes), ``all`` (over images), then the three groups. On a
    ``balanced`` test set all is mean, and is left out."""
    return ("mean", *(() if balanced else ("all",)), *GROUPS)


def about_mean(balanced: bool) -> str:
    """What a table says of its first columns."""
    if balanced:
        return "mean: over classes; over all images it is the same, as every class has as many"
    return "mean: over classes; all: over images, so that classes with many test images count more"


def is_balanced(labels: np.ndarray) -> bool:
    """Whether every class that has test images, of ``labels`` int (N,), has as many."""
    return len(np.unique(np.unique(labels, return_counts=True)[1])) == 1


def over_classes(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Weights (N,) of the mean over those of ``classes`` that have test images; all 0 when none has."""
    present, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    member = np.isin(present, classes)
    return np.asarray((member / counts / max(1, member.sum()))[inverse])


def cells(labels: np.ndarray, groups: Groups) -> dict[str, np.ndarray]:
    """Weights (N,) of each of ``group_names`` for test images with ``labels`` int (N,); all 0 for a group without images."""
    return {"mean": over_classes(labels, labels), "all": np.full(len(labels), 1 / len(labels)),
            **{group: over_classes(labels, groups[group]) for group in GROUPS}}


def interval(correct: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The accuracy of ``correct`` bool (N,) under ``weights`` (N,) with its 95 % interval, all in 0..1, and the number of
    images that have a weight; None where no image has."""
    if not weights.any():
        return {"accuracy": None, "low": None, "high": None, "images": 0}
    a = float(np.clip(weights @ correct, 0, 1))
    low, high = wilson(a, 1 / (weights @ weights))
    return {"accuracy": a, "low": low, "high": high, "images": int(np.count_nonzero(weights))}


def wilson(a: float, n: float) -> tuple[float, float]:
    """Ends of the 95 % interval of a proportion ``a`` (0..1) of ``n`` > 0 images, which need not be a whole number."""
    middle = (a + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(a * (1 - a) / n + Z**2 / (4 * n**2))
    return float(min(a, max(0.0, middle - half))), float(max(a, min(1.0, middle + half)))


def class_accuracies(correct: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Top-1 of each class, float (C,), nan for a class without test images."""
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels, weights=correct, minlength=classes)
    return np.divide(right, total, out=np.full(classes, np.nan), where=total > 0)


def macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean of F1 = 2 right / (said + there) over the classes that have test images, in 0..1."""
    right, said, there = (np.bincount(c, minlength=classes) for c in (labels[predicted == labels], predicted, labels))
    return float((2 * right[there > 0] / (said + there)[there > 0]).mean())


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (0..1) of predictions with ``confidence`` float (N,) that are ``correct`` bool (N,)."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean()
            for b in np.unique(which)]
    return float(sum(gaps))


def measure(predictions: Predictions, classes: int, groups: Mapping[str, Groups]) -> dict[str, Any]:
    """Everything that ``metrics.json`` says about one set of predictions over C = ``classes``.

    ``groups``: the classes of head / medium / tail by each definition. ``mean``, ``all`` and each group have ``accuracy``,
    ``low``, ``high``, ``images``, a group also ``classes`` (those with test images). ``top5`` is None with fewer than 5
    classes, or with 5 stored ones or fewer of many. Harmonic and geometric mean are 0 when a class is never right.
    """
    predicted, labels = predictions.predicted, predictions.labels
    correct = predicted == labels
    per_class = class_accuracies(correct, labels, classes)
    seen = per_class[~np.isnan(per_class)]
    weights = {definition: cells(labels, of) for definition, of in groups.items()}
    mean = over_classes(labels, labels)
    five = classes >= 5 if predictions.classes is None else predictions.z.shape[1] > 5
    return {
        "mean": interval(correct, mean),
        "all": interval(correct, np.full(len(labels), 1 / len(labels))),
        "balanced": is_balanced(labels),
        "groups": {definition: {group: {**interval(correct, of[group]), "classes": len(np.unique(labels[of[group] > 0]))}
                                for group in GROUPS} for definition, of in weights.items()},
        "top5": float(np.clip(mean @ (predictions.places < 5), 0, 1)) if five else None,
        "macro_f1": macro_f1(predicted, labels, classes),
        "worst_class": float(seen.min()),
        "harmonic_mean": float(hmean(seen)) if seen.min() > 0 else 0.0,
        "geometric_mean": float(gmean(seen)) if seen.min() > 0 else 0.0,
        "calibration_error": calibration_error(predictions.confidence, correct),
        "negative_log_likelihood": float(-predictions.log_likelihood.mean()),
        "per_class": [None if np.isnan(a) else float(a) for a in per_class],
    }
