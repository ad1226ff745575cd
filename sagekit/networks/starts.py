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
    """Likewise, by scikit-learn's L-BFGS: at most 100 steps, its usual penalty, on the CPU."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps are the recipe
        fitted = LogisticRegression(max_iter=100, class_weight="balanced").fit(features.numpy(), labels.numpy())
    rows = torch.from_numpy(fitted.coef_).to(features)
    if len(rows) == 1:  # two classes: scikit-learn gives the second one's row
        rows = torch.cat([-rows, rows])
    return torch.from_numpy(fitted.classes_), F.normalize(rows, dim=-1)
