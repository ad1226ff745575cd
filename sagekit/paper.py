"""The paper's hyperparameters and parameter counts as data, each with its source.

Tables 1-7, 10 and 11 (accuracies) come with the studies; here stands what the presets and the audit need.
"""

from __future__ import annotations

from dataclasses import dataclass

MEBI = 2**20
"""Unit of the paper's Sage counts ("6.96M"): 2^20 parameters, SG-Adapters alone, without the classifier."""
MEGA = 10**6
"""Unit of LIFT's counts ("0.10M"), which the paper prints beside its own."""


@dataclass(frozen=True)
class Hyperparameters:
    """One row of Table 8."""

    alpha: float
    mu: float
    gamma: float
    lambda_1: float
    lambda_2: float
    lambda_3: float
    epochs: int = 10  # section 4.2


TABLE_8: dict[str, Hyperparameters] = {
    "cifar100-lt-100": Hyperparameters(0.1, 0.5, 0.050, 0.015, 0.015, 0.4),
    "cifar100-lt-50": Hyperparameters(0.1, 0.5, 0.060, 0.0001, 0.01, 0.6),
    "cifar100-lt-10": Hyperparameters(0.1, 0.5, 0.060, 0.002, 0.005, 0.2),
    "places-lt": Hyperparameters(0.8, 0.5, 0.050, 0.003, 0.01, 0.2),
    "imagenet-lt": Hyperparameters(0.8, 0.5, 0.050, 0.005, 0.01, 0.2),
    "inat2018": Hyperparameters(1.0, 0.5, 0.085, 1e-7, 1e-7, 1e-7, epochs=20),
}

CLASSES = {"CIFAR-100-LT": 100, "ImageNet-LT": 1000, "Places-LT": 365, "iNaturalist 2018": 8142}
"""Section 5 of the notes; number of classes of each data set."""

TABLE_12: dict[str, dict[str, float]] = {
    "Baseline": {"CIFAR-100-LT": 0.10, "ImageNet-LT": 0.62, "Places-LT": 0.18, "iNaturalist 2018": 4.75},
    "+ SG-Adapter": {"CIFAR-100-LT": 0.20, "ImageNet-LT": 1.43, "Places-LT": 0.38, "iNaturalist 2018": 11.29},
    "+ SG-Adapter (w/o W_proj)": {"CIFAR-100-LT": 6.96, "ImageNet-LT": 8.19, "Places-LT": 7.13,
                                  "iNaturalist 2018": 18.04},
}
"""Table 12 as printed, in "M". Its last two labels are swapped: see ``tests/test_audit.py``."""
