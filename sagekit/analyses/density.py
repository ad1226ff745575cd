"""The density ratio behind the compensation factor (Appendix 8, Figure 9), estimated with Gaussians.

    Eq 27-28   P(x) = sum_k P(k) N(x; m_k, S),          training: P'_s(k) = n_k / S_N,    test: P_t(k) = 1 / C
    ratio_i    = P'_s(x_i) / P_t(x_i), x_i of class i;  claimed: ratio_i ~ mu n_i^gamma

The paper gives each class its own covariance and does not say how it is estimated; a class with five images has none in 100
dimensions. Here features are reduced to their first principal components and all classes share one covariance, shrunk as Ledoit
and Wolf do, one for the training and one for the test images.

A correlation is no sign of mismatch: long-tailed priors give one, and so does a mean that few images place badly (finding 16).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import linregress, multivariate_normal, pearsonr
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from ..errors import UserError


def log_ratios(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray,
               components: int = 16, seed: int = 0) -> pd.DataFrame:
    """One row a class: ``label``, ``images`` n_i, ``log_ratio`` (mean over its test images of log P'_s(x) - log P_t(x)).

    ``train`` (N, d), ``test`` (M, d) features, labels (N,), (M,). Every class needs a training and a test image.
    """
    classes = np.unique(test_labels)
    if not np.array_equal(classes, np.unique(train_labels)):
        raise UserError("training and test images must have the same classes.")
    reduce = PCA(min(components, train.shape[1]), random_state=seed).fit(np.concatenate([train, test]))
    a, b = reduce.transform(train), reduce.transform(test)
    counts = np.array([(train_labels == c).sum() for c in classes])
    difference = (_log_mixture(b, a, train_labels, classes, counts / counts.sum())
                  - _log_mixture(b, b, test_labels, classes, np.full(len(classes), 1 / len(classes))))
    return pd.DataFrame({"label": classes, "images": counts,
                         "log_ratio": [difference[test_labels == c].mean() for c in classes]})


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
