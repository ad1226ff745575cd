"""Is a run as sure as it is right, and what if the test set were distributed otherwise? From stored logits, without a model.

Reliability (Guo et al. 2017): over equal bins b of confidence, accuracy_b against confidence_b; their mean distance, weighted
by the share of images, is the ECE of ``metrics``. Temperature scaling divides the logits, which changes no prediction:

    p = softmax(z / T),   T = argmin -(1 / N) sum_i log p_i(true class)        on validation images

Other test priors (as SADE, Zhang et al. 2022): the same predictions on a test set in which class c has the share pi_c,

    accuracy(pi) = sum_c pi_c accuracy_c,   pi_c ~ ratio^(-r_c / (C - 1))

over the C classes that have test images, with r_c = 0, 1, ... by falling training count (forward: long-tailed as the training
set), or by rising count (backward); ratio 1 is uniform, which is the mean over classes. No prior is told to the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from ..errors import UserError
from ..runs.metrics import calibration_error, interval
from ..runs.predictions import Predictions

RATIOS = (50, 25, 10, 5, 2, 1)
COOLEST, HOTTEST = 0.05, 20.0
"""Where ``temperature`` looks."""


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """One row a bin of ``confidence`` float (N,) in 0..1 of predictions that are ``correct`` bool (N,): ``low``, ``high`` (the
    bin), ``confidence``, ``accuracy`` (means, nan for an empty bin), ``share`` of the images, ``images``."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    images = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, weights=values, minlength=bins) for values in (confidence, correct)]
    means = [np.divide(values, images, out=np.full(bins, np.nan), where=images > 0) for values in sums]
    edges = np.arange(bins + 1) / bins
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "confidence": means[0], "accuracy": means[1],
                         "share": images / len(which), "images": images})


def temperature(validation: Predictions) -> float:
    """The T in 0.05..20 with the smallest negative log likelihood on ``validation`` (N images). Approximate where not all
    classes are stored, as ``scaled`` says."""
    found = minimize_scalar(lambda log: -scaled(validation, float(np.exp(log)))[1].mean(), method="bounded",
                            bounds=(np.log(COOLEST), np.log(HOTTEST)), options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(predictions: Predictions, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and log probability of the true class, float (N,) each, at T = ``temperature`` > 0.

    Approximate where not all classes are stored: the others are taken to have one logit each that gives their known sum at
    T = 1. How many they are is read off the highest class that is stored for any image.
    """
    if temperature <= 0:
        raise UserError(f"the temperature is {temperature:g}; it must be above 0.")
    z = predictions.logits.astype(np.float64)
    total = logsumexp(z / temperature, axis=1)
    if predictions.classes is not None and predictions.rest is not None:
        others = np.log(max(1, int(predictions.classes.max()) + 1 - z.shape[1]))
        total = np.logaddexp(total, others + (predictions.rest - others) / temperature)
    true = np.take_along_axis(z, predictions.true_columns[:, None], 1)[:, 0]
    return np.exp(z.max(1) / temperature - total), true / temperature - total


def calibrated(predictions: Predictions, temperature: float) -> pd.DataFrame:
    """Rows ``before`` and ``after`` (the index) dividing by ``temperature``: ``calibration_error`` (0..1) and
    ``negative_log_likelihood`` (nats) of N test images."""
    rows = {}
    for name, t in (("before", 1.0), ("after", temperature)):
        confidence, likelihood = scaled(predictions, t)
        rows[name] = {"calibration_error": calibration_error(confidence, predictions.correct),
                      "negative_log_likelihood": float(-likelihood.mean())}
    return pd.DataFrame.from_dict(rows, orient="index")


def prior_curve(predictions: Predictions, class_counts: Sequence[int] | np.ndarray,
                ratios: Sequence[float] = RATIOS) -> pd.DataFrame:
    """One row a test prior, from forward with the first of ``ratios`` (each at least 1) over uniform to backward: ``prior``
    (its name), ``ratio``, and ``accuracy`` with the ends ``low`` and ``high`` of its 95 % interval, in percent.
    ``class_counts`` int (C,): training images; classes of as many keep their order."""
    correct, labels = predictions.correct, predictions.labels
    present, inverse, tested = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(present), int)
    rank[np.argsort(-np.asarray(class_counts)[present], kind="stable")] = np.arange(len(present))
    place = rank / max(1, len(present) - 1)
    rising = sorted({float(r) for r in ratios if r > 1})
    priors = [("forward", r) for r in reversed(rising)] + [("uniform", 1.0)] + [("backward", r) for r in rising]
    rows = []
    for name, ratio in priors:
        shares = ratio ** -(1 - place if name == "backward" else place)
        found = interval(correct, (shares / shares.sum() / tested)[inverse])
        rows.append({"prior": name if ratio == 1 else f"{name} {ratio:g}", "ratio": ratio,
                     **{key: 100 * found[key] for key in ("accuracy", "low", "high")}})
    return pd.DataFrame(rows)
