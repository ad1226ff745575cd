"""The density ratio on Gaussians with a known one."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from sagekit import UserError
from sagekit.analyses import density

MEANS = np.array([[0.0, 0.0], [6.0, 0.0]])


def drawn(counts, rng):
    labels = np.repeat(np.arange(len(counts)), counts)
    return MEANS[labels] + rng.standard_normal((len(labels), 2)), labels


def test_a_known_ratio_is_found():
    """Far apart and with the same conditionals, the ratio is that of the priors: 1.8 and 0.2 against 1/2 each."""
    rng = np.random.default_rng(0)
    frame = density.log_ratios(*drawn([9000, 1000], rng), *drawn([4000, 4000], rng), components=2)
    assert np.exp(frame["log_ratio"]).tolist() == pytest.approx([1.8, 0.2], rel=0.05)
    assert frame["images"].tolist() == [9000, 1000]


def test_overlap_by_the_formula():
    rng = np.random.default_rng(1)
    (train, a), (test, b) = drawn([3000, 600], rng), drawn([2000, 2000], rng)
    frame = density.log_ratios(train, a, test, b, components=2)

    def mixture(x, prior):
        return sum(p * multivariate_normal.pdf(x, m) for p, m in zip(prior, MEANS, strict=True))

    exact = np.log(mixture(test, [5 / 6, 1 / 6])) - np.log(mixture(test, [0.5, 0.5]))
    assert frame["log_ratio"].tolist() == pytest.approx([exact[b == c].mean() for c in (0, 1)], abs=0.06)


def test_a_planted_power_law_is_fitted():
    n = np.array([500, 200, 80, 30, 10, 5])
    found = density.fit(pd.DataFrame({"images": n, "log_ratio": np.log(0.5 * n**0.3)}))
    assert (found["gamma"], found["mu"], found["log_r"]) == pytest.approx((0.3, 0.5, 1.0))
    assert 0.9 < found["r"] < 1
    assert found["p"] < 0.05


def test_both_splits_need_all_classes():
    rng = np.random.default_rng(0)
    train, test = drawn([5, 5], rng), drawn([5, 0], rng)
    with pytest.raises(UserError, match="same classes"):
        density.log_ratios(*train, *test)
