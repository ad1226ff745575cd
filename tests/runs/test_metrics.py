import numpy as np
import pytest

from sagekit import Predictions
from sagekit.runs import metrics

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 0, 2, 0])
COUNTS = {"own": np.array([200, 50, 5])}


def predicting(classes: np.ndarray) -> Predictions:
    """Predictions that are sure of ``classes`` (10,)."""
    return Predictions(LABELS, 10 * np.eye(3, dtype=np.float32)[classes], None, None, 0.0, 0.0)


def test_measure_by_hand():
    m = metrics.measure(predicting(PREDICTED), 3, COUNTS)
    assert m["all"]["accuracy"] == pytest.approx(0.6)
    assert m["per_class"] == pytest.approx([0.75, 0.5, 0.5])
    assert [m["groups"]["own"][g]["accuracy"] for g in ("head", "medium", "tail")] == pytest.approx([0.75, 0.5, 0.5])
    assert m["worst_class"] == 0.5
    assert m["harmonic_mean"] == pytest.approx(3 / (1 / 0.75 + 2 + 2))
    assert m["geometric_mean"] == pytest.approx((0.75 * 0.5 * 0.5) ** (1 / 3))
    precision, recall = [3 / 6, 2 / 3, 1.0], [0.75, 0.5, 0.5]
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert m["macro_f1"] == pytest.approx(np.mean(f1))


def test_a_class_that_is_never_right_makes_the_means_zero():
    m = metrics.measure(predicting(np.zeros(10, int)), 3, COUNTS)
    assert m["worst_class"] == m["harmonic_mean"] == m["geometric_mean"] == 0


def test_empty_group_has_no_accuracy():
    m = metrics.measure(predicting(PREDICTED), 3, {"own": np.array([500, 400, 300])})
    assert m["groups"]["own"]["tail"] == {"accuracy": None, "low": None, "high": None, "images": 0, "classes": 0}


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (213, 300)])
def test_interval_is_wilsons(right, n):
    """Its ends solve (a - a0)^2 = z^2 a0 (1 - a0) / n; at 0 % and 100 % it still has a width."""
    found = metrics.interval(np.arange(n) < right)
    z2, a = 1.959964**2, right / n
    ends = sorted(np.roots([1 + z2 / n, -(2 * a + z2 / n), a * a]))
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=1e-6)
    assert (found["accuracy"], found["images"]) == (a, n)
    assert found["low"] <= a <= found["high"]


def test_calibration_error_of_a_known_case():
    """Confidence 0.9 in one bin, right half of the time: the error is 0.4."""
    assert metrics.calibration_error(np.full(100, 0.9), np.repeat([True, False], 50)) == pytest.approx(0.4)


def test_paired_difference():
    rng = np.random.default_rng(0)
    a = rng.random(1000) < 0.5
    b = a | (rng.random(1000) < 0.2)
    better = metrics.paired_difference(a, b)
    assert better["difference"] == pytest.approx(b.mean() - a.mean())
    assert better["low"] > 0
    assert better["p"] < 0.01
    same = metrics.paired_difference(a, a)
    assert (same["difference"], same["p"]) == (0, 1)


def test_p_is_mcnemars_by_hand():
    """5 won, none lost: 2 / 2^5; 1 won and 3 lost: 2 (1 + 4) / 2^4. The images that do not differ do not matter."""
    a, b = np.zeros(50, bool), np.arange(50) < 5
    assert metrics.paired_difference(a, b)["p"] == pytest.approx(1 / 16)
    a, b = np.array([1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 1, 1], bool)
    assert metrics.paired_difference(a, b)["p"] == pytest.approx(5 / 8)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1; the third may not fall below the second."""
    assert metrics.holm(np.array([0.9, 0.02, 0.01, 0.03])) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert metrics.holm(np.array([0.4, 0.5])).tolist() == [0.8, 0.8]
    assert metrics.holm(np.array([0.7, 0.8, 0.9])).max() == 1
    assert len(metrics.holm(np.array([]))) == 0
