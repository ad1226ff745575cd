"""Calibration and other test priors, against the formulas written out in float64."""

import math

import numpy as np
import pytest

from sagekit import UserError
from sagekit.analyses import calibration
from sagekit.runs.metrics import calibration_error
from sagekit.runs.predictions import Predictions, reduced


def stored(n: int = 400, classes: int = 12, scale: float = 3.0) -> Predictions:
    """Labels drawn from softmax(z), and logits ``scale`` times as large as they should be."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(n, classes))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return Predictions(labels, (scale * z).astype(np.float32), None, None, 0.0, 0.0)


def literal(p: Predictions, t: float) -> tuple[list[float], list[float]]:
    confidence, likelihood = [], []
    for row, label in zip(p.z.astype(np.float64).tolist(), p.labels.tolist(), strict=True):
        exps = [math.exp((v - max(row)) / t) for v in row]
        confidence.append(max(exps) / sum(exps))
        likelihood.append(math.log(exps[label] / sum(exps)))
    return confidence, likelihood


def test_reliability_is_counted_bin_by_bin():
    p = stored()
    frame = calibration.reliability(p.confidence, p.correct)
    for row in frame.to_dict("records"):
        own = [i for i, c in enumerate(p.confidence) if row["low"] <= c < row["high"] or (c == 1 and row["high"] == 1)]
        assert row["images"] == len(own)
        if own:
            assert row["accuracy"] == pytest.approx(sum(bool(p.correct[i]) for i in own) / len(own))
            assert row["confidence"] == pytest.approx(sum(p.confidence[i] for i in own) / len(own))
        else:
            assert math.isnan(row["accuracy"])
    assert frame["share"].sum() == pytest.approx(1)
    gap = (frame["share"] * (frame["accuracy"] - frame["confidence"]).abs()).sum()
    assert gap == pytest.approx(calibration_error(p.confidence, p.correct))


def test_scaling_is_the_softmax_of_divided_logits():
    p = stored(60)
    for t in (0.5, 1.0, 4.0):
        for found, expected in zip(calibration.scaled(p, t), literal(p, t), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(UserError, match="above 0"):
        calibration.scaled(p, 0.0)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_temperature_undoes_what_the_logits_are_too_large_by(scale):
    p = stored(4000, scale=scale)
    t = calibration.temperature(p)
    assert t == pytest.approx(scale, rel=0.06)
    grid = np.exp(np.linspace(np.log(t) - 0.5, np.log(t) + 0.5, 101))
    losses = [-np.mean(literal(p, g)[1]) for g in (grid[0], grid[45], t, grid[55], grid[-1])]
    assert min(losses) == losses[2]
    found = calibration.calibrated(p, t)
    assert found.loc["after", "negative_log_likelihood"] < found.loc["before", "negative_log_likelihood"]
    assert found.loc["after", "calibration_error"] < found.loc["before", "calibration_error"]
    assert found.loc["before", "calibration_error"] == pytest.approx(calibration_error(p.confidence, p.correct))


def test_with_few_stored_classes_the_temperature_is_near():
    p = stored(2000, classes=60)
    few = reduced(p, 20)
    np.testing.assert_allclose(calibration.scaled(few, 1.0)[1], calibration.scaled(p, 1.0)[1], rtol=1e-4, atol=1e-4)
    assert calibration.temperature(few) == pytest.approx(calibration.temperature(p), rel=0.1)


def test_the_prior_curve_is_the_weighted_mean_of_class_accuracies():
    """Class 1 has no test image; by falling count the others are 2, 0, 3."""
    labels = np.array([0] * 8 + [2] * 2 + [3] * 4)
    right = np.array([1] * 6 + [0] * 2 + [1, 1] + [1, 0, 0, 0], bool)
    z = np.where(np.eye(4)[np.where(right, labels, 1)] > 0, 5.0, 0.0).astype(np.float32)
    frame = calibration.prior_curve(Predictions(labels, z, None, None, 0.0, 0.0), [50, 70, 90, 5], (10, 1)).set_index("prior")
    accuracy, order = {0: 0.75, 2: 1.0, 3: 0.25}, [2, 0, 3]
    for name, ratio, classes in (("forward 10", 10, order), ("uniform", 1, order), ("backward 10", 10, order[::-1])):
        shares = [ratio ** (-r / 2) for r in range(3)]
        expected = sum(s * accuracy[c] for s, c in zip(shares, classes, strict=True)) / sum(shares)
        assert frame.loc[name, "accuracy"] == pytest.approx(100 * expected)
        assert frame.loc[name, "low"] < frame.loc[name, "accuracy"] < frame.loc[name, "high"]
    assert list(frame.index) == ["forward 10", "uniform", "backward 10"]


def test_a_head_heavy_classifier_falls_from_forward_to_backward():
    labels = np.repeat(np.arange(4), 10)
    z = np.zeros((40, 4), np.float32)
    z[:, 0] = 1  # always the most frequent class
    frame = calibration.prior_curve(Predictions(labels, z, None, None, 0.0, 0.0), [100, 50, 20, 5])
    assert len(frame) == 11
    assert frame["accuracy"].is_monotonic_decreasing
    assert frame.set_index("prior").loc["uniform", "accuracy"] == pytest.approx(25)
