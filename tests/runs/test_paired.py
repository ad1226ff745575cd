import itertools

import numpy as np
import pytest

from sagekit.runs import paired
from sagekit.runs.compare import t_half_width
from sagekit.runs.metrics import over_classes
from sagekit.runs.paired import EXACT, SIGNS, crossed, holm, p_value, paired_difference


def even(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def test_paired_difference():
    rng = np.random.default_rng(0)
    a = rng.random(1000) < 0.5
    b = a | (rng.random(1000) < 0.2)
    better = paired_difference(a, b, even(1000))
    assert better["difference"] == pytest.approx(b.mean() - a.mean())
    assert better["low"] > 0
    assert better["p"] < 0.01
    same = paired_difference(a, a, even(1000))
    assert (same["difference"], same["p"]) == (0, 1)


def test_a_difference_has_the_weights_of_the_accuracies():
    labels = np.repeat([0, 1], [8, 2])
    a, b = np.zeros(10, bool), labels == 1
    found = paired_difference(a, b, over_classes(labels, labels))
    assert found["difference"] == pytest.approx(0.5)  # a half for the class of two images, not a fifth
    alone = paired_difference(a, b, over_classes(labels, np.array([0])))
    assert (alone["difference"], alone["low"], alone["high"], alone["p"], alone["test"]) == (0, 0, 0, 1, EXACT)


def test_p_is_mcnemars_by_hand():
    """5 won, none lost: 2 / 2^5; 1 won and 3 lost: 2 (1 + 4) / 2^4. The images that do not differ do not matter."""
    assert p_value((np.arange(50) < 5).astype(int), even(50)) == (pytest.approx(1 / 16), EXACT)
    assert p_value(np.array([-1, -1, -1, 1, 0]), even(5)) == (pytest.approx(5 / 8), EXACT)


def test_p_of_unequal_weights_is_that_of_all_signs():
    """Against the 2^9 sign vectors of nine images that differ; where nothing differs p is 1."""
    labels = np.repeat([0, 1, 2], [9, 4, 2])
    weights = over_classes(labels, labels)
    wins = np.array([1, 1, 1, 1, -1, 0, 0, 0, 0, 1, 1, 0, 0, 1, -1])
    differ = (weights * wins)[wins != 0]
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differ))))
    exact = np.mean(np.abs(signs @ differ) >= abs(differ.sum()) - 1e-12)
    p, test = p_value(wins, weights)
    assert (p, test) == (pytest.approx(exact, abs=0.01), SIGNS)
    assert p_value(0 * wins, weights) == (1, SIGNS)


def test_p_is_never_zero():
    labels = np.repeat([0, 1], [300, 100])
    assert p_value(np.ones(400, int), over_classes(labels, labels))[0] == pytest.approx(1 / (1 + paired.FLIPS))


def test_images_without_a_weight_change_nothing():
    rng = np.random.default_rng(0)
    wins, labels = rng.integers(-1, 2, (3, 60)), np.repeat([0, 1], 30)
    assert crossed(wins, 500, 0, over_classes(labels, np.array([0]))) == crossed(wins[:, :30], 500)


def test_seeds_that_make_all_of_the_variance_have_students_interval():
    """Twelve seeds whose images are alike; a bootstrap without the mend gives 0.86 of this width."""
    of_seeds = np.random.default_rng(0).normal(size=12)
    low, high, _ = crossed(np.tile(of_seeds[:, None], 30), 20_000)
    assert (high - low) / 2 == pytest.approx(t_half_width(of_seeds), rel=0.05)


def test_a_constant_difference_has_no_width():
    labels = np.repeat([0, 1], [50, 3])
    assert crossed(np.ones((2, 53), int), 500, 0, over_classes(labels, labels))[:2] == pytest.approx((1, 1))


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1; the third may not fall below the second."""
    assert holm(np.array([0.9, 0.02, 0.01, 0.03])) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert holm(np.array([0.4, 0.5])).tolist() == [0.8, 0.8]
    assert holm(np.array([0.7, 0.8, 0.9])).max() == 1
    assert len(holm(np.array([]))) == 0
    np.testing.assert_allclose(holm(np.array([0.4, np.nan, 0.5])), [0.8, np.nan, 0.8])
