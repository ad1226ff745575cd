"""The density ratio on Gaussians with a known one."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

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


def test_held_out_halves_by_the_formula():
    """Each half's log P_t is that of a mixture fitted on the other half."""
    rng = np.random.default_rng(2)
    (train, a), (test, b) = drawn([40, 10], rng), drawn([12, 12], rng)
    frame = density.log_ratios(train, a, test, b, components=2, held_out=True)
    own = density.log_ratios(train, a, test, b, components=2)
    even = np.arange(len(b)) % 2 == 0  # classes have 12 images each, in order
    expected = np.empty(len(b))
    for half in (even, ~even):
        expected[half] = _log_mixture(test[half], test[~half], b[~half], [0.5, 0.5])
    difference = _log_mixture(test, train, a, [0.8, 0.2]) - expected
    assert frame["log_ratio"].tolist() == pytest.approx([difference[b == c].mean() for c in (0, 1)], abs=1e-6)
    assert (frame["log_ratio"] > own["log_ratio"]).all()  # P_t is too sure of the images that it was fitted on


def _log_mixture(x, data, labels, prior):
    """By the formula, with scikit-learn's covariance."""
    means = [data[labels == c].mean(0) for c in (0, 1)]
    covariance = LedoitWolf(assume_centered=True).fit(data - np.stack(means)[labels]).covariance_
    return np.log(sum(p * multivariate_normal.pdf(x, m, covariance) for p, m in zip(prior, means, strict=True)))


def test_apart_splits_priors_from_conditionals_from_estimation():
    rng = np.random.default_rng(3)
    counts = np.array([300, 2])
    (train, a), (test, b), (other, c) = drawn(counts, rng), drawn([400, 400], rng), drawn([50, 50], rng)
    train[a == 1] += [0.0, 2.0]  # the rare class differs between training and test
    found = density.apart(train, a, test, b, other, c, components=2)
    ratios = {name: frame["log_ratio"].to_numpy() for name, frame in found.items()}
    prior = np.log(counts / counts.sum() / 0.5)
    assert ratios["priors"] == pytest.approx(prior, abs=0.05)
    assert ratios["conditionals"][0] == pytest.approx(0, abs=0.1)
    assert ratios["conditionals"][1] < -0.8
    assert ratios["conditionals"][1] < ratios["estimation"][1] < 0.05
    assert ratios["all"] == pytest.approx(prior + ratios["conditionals"], abs=0.05)  # far apart: the parts add up
    assert all(frame["images"].tolist() == counts.tolist() for frame in found.values())


def test_a_half_needs_two_images():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="two test images of every class"):
        density.log_ratios(*drawn([5, 5], rng), *drawn([5, 1], rng), held_out=True)
