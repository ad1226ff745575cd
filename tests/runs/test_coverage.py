"""Every interval and p-value that the kit prints, in made-up experiments whose truth is known (``benchmarks/intervals.py``).

A number is what docs/statistics.md has from 2,000 experiments, in percent: whoever changes an interval measures it again.
"""

import intervals
import numpy as np
import pytest
from intervals import IMAGES, even, unequal

from sagekit.runs import paired

THREE = [60, 20, 4]


def near(share: float, percent: float, repeats: int) -> bool:
    """Whether it is within three binomial standard errors of ``repeats`` experiments and of the page's own 2,000."""
    p = percent / 100
    return abs(share - p) <= 3 * np.sqrt(p * (1 - p) * (1 / repeats + 1 / 2000))


@pytest.mark.parametrize(("sizes", "truth", "percent"), [
    ([300], [0.7], 93.8), ([10], [0.9], 92.5), ([50] * 50, np.linspace(0.15, 0.95, 50), 97.3), (THREE, [0.9, 0.5, 0.3], 97.1),
    (THREE, [0.3, 0.5, 0.9], 99.4), (THREE, [0.9, 0.9, 0.5], 91.0)])  # 91: the smallest class is the least certain
def test_wilson(sizes, truth, percent):
    assert near(intervals.wilson(np.array(sizes), np.array(truth), 800), percent, 800)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread", "weights", "percent"), [
    (1, 0, even(50), 93.6), (1, 0, even(IMAGES), 94.7), (1, 0, unequal(), 92.0),
    (2, 4, even(IMAGES), 88.0),  # two seeds say too little of how much seeds differ
    (3, 0, even(IMAGES), 98.9), (3, 2, even(IMAGES), 95.3), (3, 4, even(IMAGES), 92.7), (5, 0, even(IMAGES), 98.4),
    (5, 4, even(IMAGES), 94.5), (5, 1, unequal(), 98.2), (10, 0, even(IMAGES), 97.3), (10, 4, even(IMAGES), 95.1)])
def test_a_difference(seeds, spread, weights, percent):
    assert near(intervals.difference(seeds, spread, weights, 300), percent, 300)


@pytest.mark.parametrize(("seeds", "these", "other"), [(3, 95.4, 94.1), (5, 94.5, 89.1), (10, 95.0, 81.3)])
def test_the_t_interval_over_seeds_is_of_these_images_only(seeds, these, other):
    """Other images would move all seeds together."""
    assert near(intervals.of_seeds(seeds, 1, False, 1500), these, 1500)
    assert near(intervals.of_seeds(seeds, 1, True, 1500), other, 1500)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "percent"), [(even(50), 2.4), (even(IMAGES), 3.9), (unequal(), 4.7)])
def test_p_of_one_seed(weights, percent, monkeypatch):
    monkeypatch.setattr(paired, "FLIPS", 1000)
    assert near(intervals.false_alarms(weights, 400), percent, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread", "percent"), [(3, 0, 0.9), (3, 2, 4.7), (5, 0, 1.3), (5, 2, 4.2), (10, 2, 4.0)])
def test_p_over_seeds(seeds, spread, percent):
    assert near(intervals.false_alarms_over_seeds(seeds, spread, 300), percent, 300)


@pytest.mark.slow
def test_holm_holds_for_a_table():
    """Of ten comparisons without a difference one or more is below 0.05 in a third of all tables; by Holm in one of twenty."""
    assert near(intervals.families(10, 100, corrected=False), 32.0, 100)
    assert near(intervals.families(10, 100), 5.0, 100)
