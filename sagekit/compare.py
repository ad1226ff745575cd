"""Comparing finished runs: one table, and paired differences on the same test images.

A difference is taken image by image: the bootstrap resamples the pairs, so what both runs get right or wrong alike does
not blur it. Runs on other test images or other groups are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .errors import UserError
from .longtail import DEFINITIONS, groups
from .metrics import group_names, paired_difference
from .runs import VIEWS, Run


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise ``UserError`` with the reason unless all runs have the same classes, counts and test images."""
    first = runs[0]
    for run in runs[1:]:
        for key, what in (("class_names", "other classes"), ("group_counts", "other training counts, so other groups"),
                          ("test_images", "another test set")):
            if run.metrics.get(key) != first.metrics.get(key):
                raise UserError(f"{run.path} and {first.path} cannot be compared: {what}.")
        same_world = ("dataset", "data_seed", "mismatch")
        odd = [key for key in same_world if getattr(run.config, key) != getattr(first.config, key)]
        if odd:
            raise UserError(f"{run.path} and {first.path} cannot be compared: {odd[0]} differs.")


def table(runs: Sequence[Run], view: str = "single", definition: str = "own") -> pd.DataFrame:
    """One row a run: name, method, data, seed, then ``all``, ``head``, ``medium``, ``tail`` in percent with the ends of their
    95 % bootstrap intervals (``all_low``, ...; nan for an empty group), trained parameters and training seconds."""
    if definition not in DEFINITIONS or view not in VIEWS:
        raise UserError(f"unknown view or groups: '{view}', '{definition}'. Views: {', '.join(VIEWS)}; groups: "
                        f"{', '.join(DEFINITIONS)}.")
    rows = []
    for run in runs:
        if view not in run.metrics["results"]:
            raise UserError(f"{run.path} was measured without five crops; run `sagekit evaluate {run.path} --ensembling`.")
        result = run.metrics["results"][view]
        row = {"run": run.name, "method": run.config.method, "data": run.metrics["data"], "seed": run.config.seed}
        for group in group_names():
            cell = result["all"] if group == "all" else result["groups"][definition][group]
            row |= {group + end: np.nan if cell[key] is None else 100 * cell[key]
                    for end, key in (("", "accuracy"), ("_low", "low"), ("_high", "high"))}
        row |= {"parameters": sum(run.metrics["trainable_parameters"].values()), "seconds": run.metrics["train_seconds"]}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(base: Run, other: Run, view: str = "single", definition: str = "own") -> pd.DataFrame:
    """``other`` minus ``base``, one row for all / head / medium / tail: difference, low, high (points), p, images."""
    check_comparable([base, other])
    a, b = base.predictions(view), other.predictions(view)
    if not np.array_equal(a.labels, b.labels):
        raise UserError(f"{other.path} and {base.path} cannot be compared: their test images are in another order.")
    members = groups(base.metrics["group_counts"][definition])
    rows = []
    for group in group_names():
        chosen = np.isin(a.labels, np.unique(a.labels) if group == "all" else members[group])
        if chosen.any():
            test = paired_difference(a.correct[chosen], b.correct[chosen])
            rows.append({"group": group, **{k: 100 * test[k] for k in ("difference", "low", "high")}, "p": test["p"],
                         "images": int(chosen.sum())})
    return pd.DataFrame(rows)


def t_half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t interval of the mean of ``values`` (n,); nan for n < 2."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
