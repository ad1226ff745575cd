"""What a classifier's rows may start from in place of the classes' texts (LIFT's code):

    class mean     w_j = u(mean of the features of class j),  u(v) = v / |v|
    linear probe   w_j = u(row j of a logistic regression),   classes weighted alike, its intercept left out
    random         entries uniform in +-1, then u;  for a linear head Kaiming normal
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor


def random_rows(classes: int, width: int, linear: bool = False) -> Tensor:
    """(C, d), from the process's own generator."""
    rows = torch.empty(classes, width)
    return rows.normal_(0, math.sqrt(2 / width)) if linear else F.normalize(rows.uniform_(-1, 1), dim=-1)


def some_of_each(labels: Tensor, most: int, g: torch.Generator) -> Tensor:
    """Places of at most ``most`` images of each class of ``labels`` (N,), drawn without replacement: int64 (n,)."""
    order = torch.randperm(len(labels), generator=g)
    order = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels)
    return order[torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]] < most]


def class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes that ``labels`` (N,) has, rising, and their rows (c, d), of ``features`` (N, d)."""
    classes, place = labels.unique(return_inverse=True)
    sums = features.new_zeros(len(classes), features.shape[1]).index_add_(0, place, features)
    return classes, F.normalize(sums, dim=-1)


def linear_probe(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise: at most 100 steps, scikit-learn's usual penalty."""
    classes, rows, _ = logistic(features, labels, c=1.0, steps=100, balanced=True)
    return classes, F.normalize(rows, dim=-1)


def logistic(features: Tensor, labels: Tensor, c: float, steps: int, balanced: bool) -> tuple[Tensor, Tensor, Tensor]:
    """min |W|^2 / 2 + C sum CE of features (N, d) and labels (N,), by scikit-learn's L-BFGS in float64 on the CPU, for at most
    ``steps``: the classes (K,) that ``labels`` has, rising, W (K, d) and b (K,). ``balanced``: classes weighted alike."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as far as the steps go is the recipe
        fitted = LogisticRegression(C=c, max_iter=steps, class_weight="balanced" if balanced else None).fit(
            features.double().numpy(), labels.numpy())
    rows, bias = torch.from_numpy(fitted.coef_).to(features), torch.from_numpy(fitted.intercept_).to(features)
    if len(rows) == 1:  # of two classes it gives the difference alone
        rows, bias = torch.cat([-rows, rows]) / 2, torch.cat([-bias, bias]) / 2
    return torch.from_numpy(fitted.classes_), rows, bias
