"""The density ratio behind the compensation factor (Appendix 8, Figure 9), estimated with Gaussians.

    Eq 27-28   P(x) = sum_k P(k) N(x; m_k, S),          training: P'_s(k) = n_k / S_N,    test: P_t(k) = 1 / C
    ratio_i    = P'_s(x_i) / P_t(x_i), x_i of class i;  claimed: ratio_i ~ mu n_i^gamma

The paper gives each class its own covariance and does not say how it is estimated; a class with five images has none in 100
dimensions. Here features are reduced to their first principal components and all classes share one covariance, shrunk as Ledoit
and Wolf do, one for the training and one for the test images. Where P_t is looked at on the images that it was fitted on, it is
too sure of them: ``held_out`` fits it on one half and looks at the other.

A correlation is no sign of mismatch (finding 16): it mixes several things, which ``apart`` takes apart as far as it can:

    priors        P'_s(k) = n_k / S_N, the conditionals of the test: what logit adjustment corrects
    conditionals  P'_s(k) = 1 / C, the conditionals of the training images: the mismatch, the error below, and that trained
                  features were fitted to just these images
    estimation    P'_s(k) = 1 / C, min(n_k, m) images a class of the test's own distribution, m at hand: a mean from few images
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import linregress, multivariate_normal, pearsonr
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from ..errors import UserError


def log_ratios(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, components: int = 16,
               seed: int = 0, uniform: bool = False, held_out: bool = False) -> pd.DataFrame:
    """One row a class: ``label``, ``images`` n_i, ``log_ratio`` (mean over its test images of log P'_s(x) - log P_t(x)).

    ``train`` (N, d), ``test`` (M, d) features, labels (N,), (M,). Every class needs a training and a test image. ``uniform``:
    P'_s(k) = 1 / C. ``held_out``: P_t is fitted on the other half of each class's test images, of which it needs two.
    """
    classes = _classes(train_labels, test_labels)
    a, b = _reduced([train, test], components, seed)
    counts = np.array([(train_labels == c).sum() for c in classes])
    prior = _even(classes) if uniform else counts / counts.sum()
    difference = _log_mixture(b, a, train_labels, classes, prior) - _log_test(b, test_labels, classes, held_out, _even(classes))
    return _by_class(difference, test_labels, classes, counts)


def apart(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, other: np.ndarray,
          other_labels: np.ndarray, components: int = 16, seed: int = 0) -> dict[str, pd.DataFrame]:
    """``log_ratios``, held out, of ``all`` together and of ``priors``, ``conditionals`` and ``estimation`` alone, by name.

    ``other`` (K, d): more images of the test's distribution, such as the validation images; of class k the first min(n_k, its
    own number) stand for its training images in ``estimation``, whose ``images`` are still n_k.
    """
    classes = _classes(train_labels, test_labels)
    counts = np.array([(train_labels == c).sum() for c in classes])
    few = np.concatenate([np.flatnonzero(other_labels == c)[:n] for c, n in zip(classes, counts, strict=True)])
    a, b, spare = _reduced([train, test, other], components, seed)
    tilt = (_log_test(b, test_labels, classes, True, counts / counts.sum())
            - _log_test(b, test_labels, classes, True, _even(classes)))
    where = (b, test_labels, b.shape[1], seed)  # the same components for all: reducing them again only turns them
    return {"all": log_ratios(a, train_labels, *where, held_out=True),
            "priors": _by_class(tilt, test_labels, classes, counts),
            "conditionals": log_ratios(a, train_labels, *where, uniform=True, held_out=True),
            "estimation": log_ratios(spare[few], other_labels[few], *where, uniform=True, held_out=True).assign(images=counts)}


def _classes(train_labels: np.ndarray, test_labels: np.ndarray) -> np.ndarray:
    classes = np.unique(test_labels)
    if not np.array_equal(classes, np.unique(train_labels)):
        raise UserError("training and test images must have the same classes.")
    return classes


def _reduced(parts: list[np.ndarray], components: int, seed: int) -> list[np.ndarray]:
    """The parts in their common first principal components."""
    reduce = PCA(min(components, parts[0].shape[1]), random_state=seed).fit(np.concatenate(parts))
    return [reduce.transform(part) for part in parts]


def _halves(labels: np.ndarray) -> np.ndarray:
    """Every second image of each class, bool (M,)."""
    taken = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        if len(own) < 2:
            raise UserError("a held-out half needs two test images of every class.")
        taken[own[::2]] = True
    return taken


def _even(classes: np.ndarray) -> np.ndarray:
    """1 / C for each class."""
    return np.full(len(classes), 1 / len(classes))


def _log_test(b: np.ndarray, labels: np.ndarray, classes: np.ndarray, held_out: bool, prior: np.ndarray) -> np.ndarray:
    """log sum_k prior_k N(x; m_k, S) of the test images ``b``, (M,), with their own means and covariance."""
    if not held_out:
        return _log_mixture(b, b, labels, classes, prior)
    first, logs = _halves(labels), np.empty(len(b))
    for half in (first, ~first):
        logs[half] = _log_mixture(b[half], b[~half], labels[~half], classes, prior)
    return logs


def _by_class(difference: np.ndarray, labels: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"label": classes, "images": counts, "log_ratio": [difference[labels == c].mean() for c in classes]})


def _log_mixture(x: np.ndarray, data: np.ndarray, labels: np.ndarray, classes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """log sum_k prior_k N(x; m_k, S), (M,), with means and the shared covariance of ``data``."""
    means = np.stack([data[labels == c].mean(0) for c in classes])
    centred = data - means[np.searchsorted(classes, labels)]
    covariance = LedoitWolf(assume_centered=True).fit(centred).covariance_
    logs = np.stack([multivariate_normal.logpdf(x, mean, covariance) for mean in means], 1)  # (M, C)
    return logsumexp(logs + np.log(prior), axis=1)


def fit(frame: pd.DataFrame) -> dict[str, float]:
    """What Figure 9 reports, and the exponent: Pearson ``r`` and ``p`` between ratio and class size, the same on logarithms
    (``log_r``, ``log_p``), and gamma, mu of log ratio = log mu + gamma log n."""
    ratio, n = np.exp(frame["log_ratio"].to_numpy()), frame["images"].to_numpy(float)
    plain, logs = pearsonr(ratio, n), pearsonr(np.log(ratio), np.log(n))
    line = linregress(np.log(n), np.log(ratio))
    return {"r": float(plain.statistic), "p": float(plain.pvalue), "log_r": float(logs.statistic), "log_p": float(logs.pvalue),
            "gamma": float(line.slope), "mu": float(np.exp(line.intercept))}
