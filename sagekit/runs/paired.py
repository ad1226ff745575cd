"""Differences of two classifiers on the same test images, with interval and p-value.

With D[s, i] in {-1, 0, 1} the win or loss of the second on image i between the two runs of seed s, and the image weights w of
``metrics`` (sum_i w_i = 1), the difference is

    d = (1 / S) sum_s sum_i w_i D[s, i]

Its 95 % interval is a crossed bootstrap: in a draw seed s occurs a_s times and image i b_i times, for all seeds alike since
they share the images,

    d* = sum_s c_s sum_i b_i w_i D[s, i] / (S sum_i b_i w_i),   a ~ Multinomial(S, 1/S), b ~ Multinomial(N, 1/N)
    c_s = 1 + sqrt(S / (S - 1)) (a_s - 1)

for the N images that have a weight. A bootstrap of S seeds sees (S - 1) / S of their variance, which c mends, and few seeds
need Student's tails: the draws are spread to d + (d* - d) t_nu / 1.96. t_nu is the 97.5 % point for Satterthwaite's degrees of
freedom: many where the images make most of the variance V* of d*, S - 1 where the seeds do,

    nu = (S - 1) (V* / V_s)^2,   V_s = the variance of the S differences / S

The p-value for one seed is exact where they weigh the same (McNemar's: images won ~
Binomial(won + lost, 1/2)); else of random signs: the share of M draws of s_i = +-1, the data's own counted among them, with

    | sum_i w_i s_i D_i | >= | sum_i w_i D_i |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from .metrics import Z

DRAWS = 2000
"""Of the bootstrap."""
FLIPS = 20_000
"""M, of the test by signs."""
EXACT, SIGNS = "exact McNemar", "random signs"
"""Which test a p-value is of."""


def paired_difference(a: np.ndarray, b: np.ndarray, weights: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Accuracy of ``b`` minus that of ``a`` on the same images, bool (N,) each, under ``weights`` (N,), some above 0: its
    ``difference``, ``low`` and ``high``, two-sided ``p`` and ``test``, which says how p was found. With few differing images
    the interval and p may disagree; p is right."""
    wins = b.astype(np.int8) - a
    low, high, _ = crossed(wins[None], DRAWS, seed, weights)
    p, test = p_value(wins, weights, seed)
    return {"difference": round(float(weights @ wins), 12), "low": low, "high": high, "p": p, "test": test}


def p_value(wins: np.ndarray, weights: np.ndarray, seed: int = 0) -> tuple[float, str]:
    """Two-sided p of D = ``wins`` (N,) under ``weights`` (N,), 1 where no image differs, and whether it is ``EXACT`` or of
    ``SIGNS``."""
    held = weights[weights > 0]
    if np.allclose(held, held[0], rtol=1e-9, atol=0):
        won, lost = int((wins[weights > 0] > 0).sum()), int((wins[weights > 0] < 0).sum())
        return (float(binomtest(won, won + lost).pvalue) if won + lost else 1.0), EXACT
    values, counts = np.unique(weights[(wins != 0) & (weights > 0)], return_counts=True)
    positive = np.random.default_rng(seed).binomial(counts, 0.5, (FLIPS, len(counts)))  # images alike in weight, drawn together
    drawn = np.abs((2 * positive - counts) @ values)
    return float((1 + np.sum(drawn >= abs(weights @ wins) - 1e-12)) / (1 + FLIPS)), SIGNS


def crossed(wins: np.ndarray, draws: int = DRAWS, seed: int = 0,
            weights: np.ndarray | None = None) -> tuple[float, float, float]:
    """The crossed bootstrap of D = ``wins`` (S, N) under ``weights`` (N,), by default the same for all: ends of the 95 %
    interval, and the two-sided bootstrap p, twice the smaller share of draws on one side of zero (at least 1 / ``draws``).

    Images with the same weight and column of D are alike, so their counts are drawn together: (K,) for the K different ones.
    """
    weights = np.ones(wins.shape[1]) if weights is None else weights
    wins, weights = wins[:, weights > 0], weights[weights > 0] / weights[weights > 0].min()  # 1 where all weigh the same
    seeds, images = wins.shape
    columns, sizes = np.unique(np.vstack([weights, wins]), axis=1, return_counts=True)
    w, columns = columns[0], columns[1:]
    rng = np.random.default_rng(seed)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)  # (draws, S)
    seed_counts = 1 + np.sqrt(seeds / max(1, seeds - 1)) * (seed_counts - 1)
    image_counts = rng.multinomial(images, sizes / images, draws) * w  # (draws, K)
    means = (seed_counts * (image_counts @ columns.T)).sum(1) / (seeds * image_counts.sum(1))
    means = _few_seeds(means, columns @ (sizes * w) / (sizes @ w))
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return float(low), float(high), float(min(1.0, max(2 * tail, 1 / draws)))


def _few_seeds(means: np.ndarray, of_seeds: np.ndarray) -> np.ndarray:
    """The draws ``means`` (draws,) spread from normal to Student's tails; ``of_seeds`` (S,) are the seeds' differences."""
    if np.allclose(of_seeds, of_seeds[0], rtol=0, atol=1e-12):  # one seed, or seeds that are alike
        return means
    seeds, middle = len(of_seeds), of_seeds.mean()
    freedom = (seeds - 1) * (means.var() / (of_seeds.var(ddof=1) / seeds)) ** 2
    return middle + (means - middle) * t.ppf(0.975, freedom) / Z


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values (m,), in the order of ``p`` (m,): the k-th smallest times m - k + 1, never falling, at most 1.
    A nan is no comparison: it stays, and does not count."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # nan sorts last
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected
