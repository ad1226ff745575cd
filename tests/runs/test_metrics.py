import numpy as np
import pytest
from scipy.stats import binomtest

from sagekit import Predictions
from sagekit.runs import metrics

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 0, 2, 0])
GROUPS = {"head": np.array([0]), "medium": np.array([1]), "tail": np.array([2])}


def predicting(classes: np.ndarray, labels: np.ndarray = LABELS) -> Predictions:
    """Predictions that are sure of ``classes`` (N,)."""
    return Predictions(labels, 10 * np.eye(3, dtype=np.float32)[classes], None, None, 0.0, 0.0)


def test_measure_by_hand():
    m = metrics.measure(predicting(PREDICTED), 3, {"own": GROUPS})
    assert m["all"]["accuracy"] == pytest.approx(0.6)
    assert m["mean"]["accuracy"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert not m["balanced"]
    assert m["per_class"] == pytest.approx([0.75, 0.5, 0.5])
    assert [m["groups"]["own"][g]["accuracy"] for g in ("head", "medium", "tail")] == pytest.approx([0.75, 0.5, 0.5])
    assert m["worst_class"] == 0.5
    assert m["harmonic_mean"] == pytest.approx(3 / (1 / 0.75 + 2 + 2))
    assert m["geometric_mean"] == pytest.approx((0.75 * 0.5 * 0.5) ** (1 / 3))
    precision, recall = [3 / 6, 2 / 3, 1.0], [0.75, 0.5, 0.5]
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert m["macro_f1"] == pytest.approx(np.mean(f1))
    total = np.log(np.exp(10) + 2)
    assert m["negative_log_likelihood"] == pytest.approx(0.6 * (total - 10) + 0.4 * total, rel=1e-5)
    assert m["top5"] is None  # of three classes


def test_a_group_averages_its_classes():
    """Four images at 75 % and two at 50 %: 62.5 %, where counting images says 66.7 %."""
    two = {"head": np.array([0, 2]), "medium": np.array([1]), "tail": np.array([], int)}
    cell = metrics.measure(predicting(PREDICTED), 3, {"own": two})["groups"]["own"]["head"]
    assert (cell["accuracy"], cell["images"], cell["classes"]) == (0.625, 6, 2)


def test_a_classifier_that_always_says_the_head_class_is_seen_through():
    labels = np.repeat([0, 1, 2], [80, 10, 10])
    m = metrics.measure(predicting(np.zeros(100, int), labels), 3, {"own": GROUPS})
    assert (m["all"]["accuracy"], m["mean"]["accuracy"]) == pytest.approx((0.8, 1 / 3))


def test_a_class_without_test_images_counts_nowhere():
    labels, predicted = np.array([0, 0, 2]), np.array([0, 2, 2])
    groups = {"head": np.array([0]), "medium": np.array([1, 2]), "tail": np.array([1])}
    m = metrics.measure(predicting(predicted, labels), 3, {"own": groups})
    assert m["mean"]["accuracy"] == pytest.approx(0.75)
    assert m["macro_f1"] == pytest.approx(2 / 3)
    assert (m["groups"]["own"]["medium"]["accuracy"], m["groups"]["own"]["medium"]["classes"]) == (1, 1)
    assert m["groups"]["own"]["tail"] == {"accuracy": None, "low": None, "high": None, "images": 0, "classes": 0}


def test_on_a_balanced_test_set_mean_is_all():
    labels = np.repeat([0, 1, 2], 4)
    m = metrics.measure(predicting(np.repeat([0, 1, 1], 4), labels), 3, {"own": GROUPS})
    assert m["balanced"]
    assert m["mean"] == pytest.approx(m["all"])
    assert metrics.group_names(True) == ("mean", "head", "medium", "tail")
    assert metrics.group_names(False) == ("mean", "all", "head", "medium", "tail")


def test_top_5_is_counted():
    """The true class stands at places 0, 4, 5 and 9 of ten; the first two are in."""
    z = np.tile(-np.arange(10, dtype=np.float32), (4, 1))
    labels = np.array([0, 4, 5, 9])
    m = metrics.measure(Predictions(labels, z, None, None, 0.0, 0.0), 10, {})
    assert m["top5"] == pytest.approx(0.5)
    flat = Predictions(labels, np.zeros((4, 10), np.float32), None, None, 0.0, 0.0)  # equal logits are no luck
    assert metrics.measure(flat, 10, {})["top5"] == pytest.approx(0.5)


def test_a_class_that_is_never_right_makes_the_means_zero():
    m = metrics.measure(predicting(np.zeros(10, int)), 3, {"own": GROUPS})
    assert m["worst_class"] == m["harmonic_mean"] == m["geometric_mean"] == 0


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (213, 300)])
def test_interval_is_wilsons(right, n):
    """Its ends solve (a - a0)^2 = z^2 a0 (1 - a0) / n; at 0 % and 100 % it still has a width."""
    found = metrics.interval(np.arange(n) < right, np.full(n, 1 / n))
    z2, a = 1.959964**2, right / n
    ends = sorted(np.roots([1 + z2 / n, -(2 * a + z2 / n), a * a]))
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=1e-6)
    scipys = binomtest(right, n).proportion_ci(method="wilson")
    assert [found["low"], found["high"]] == pytest.approx([scipys.low, scipys.high], abs=1e-12)
    assert (found["accuracy"], found["images"]) == (pytest.approx(a), n)
    assert found["low"] <= found["accuracy"] <= found["high"]


def test_unequal_weights_have_fewer_effective_images():
    """8 and 2 images, a half for each class: n = 1 / (8 / 16^2 + 2 / 4^2) = 6.4."""
    labels = np.repeat([0, 1], [8, 2])
    found = metrics.interval(labels == 0, metrics.over_classes(labels, labels))
    assert [found["low"], found["high"]] == pytest.approx(metrics.wilson(0.5, 6.4))
    assert found["accuracy"] == 0.5


def test_calibration_error_of_a_known_case():
    """Confidence 0.9 in one bin, right half of the time: the error is 0.4."""
    assert metrics.calibration_error(np.full(100, 0.9), np.repeat([True, False], 50)) == pytest.approx(0.4)
