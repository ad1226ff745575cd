"""Comparing finished runs: one table, and paired differences on the same test images.

A difference is taken image by image: the bootstrap resamples the pairs, and McNemar's test counts the images that one run
alone gets right, so what both get right or wrong alike does not blur it. Runs on other test images or other groups are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..config import WHERE
from ..data.longtail import DEFINITIONS
from ..errors import UserError
from .metrics import group_names, holm, paired_difference
from .predictions import Predictions
from .run import VIEWS, Run


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise ``UserError`` with the reason unless all runs have the same classes, counts and test images."""
    first = runs[0]
    for run in runs[1:]:
        for key, what in (("class_names", "other classes"), ("groups", "other groups"),
                          ("test_digest", "their test images differ")):
            if run.metrics.get(key) != first.metrics.get(key):
                raise UserError(f"{run.path} and {first.path} cannot be compared: {what}.")


def table(runs: Sequence[Run], view: str = "single", definition: str = "own") -> pd.DataFrame:
    """One row a run, as ``line`` gives it."""
    return pd.DataFrame([line(run, view, definition) for run in runs])


def line(run: Run, view: str = "single", definition: str = "own") -> dict[str, Any]:
    """A run's name, method, data, seed, then ``all``, ``head``, ``medium``, ``tail`` in percent with the ends of their 95 %
    Wilson intervals over test images (``all_low``, ...; nan for an empty group), trained parameters and training seconds."""
    if definition not in DEFINITIONS or view not in VIEWS:
        raise UserError(f"unknown view or groups: '{view}', '{definition}'. Views: {', '.join(VIEWS)}; groups: "
                        f"{', '.join(DEFINITIONS)}.")
    if view not in run.metrics["results"]:
        raise UserError(f"{run.path} was measured without five crops; run `sagekit evaluate {run.path} --ensembling`.")
    run.groups(definition)  # or say that it has none
    result = run.metrics["results"][view]
    row = {"run": run.name, "method": run.config.method, "data": run.metrics["data"], "seed": run.config.seed}
    for group in group_names():
        cell = result["all"] if group == "all" else result["groups"][definition][group]
        row |= {group + end: np.nan if cell[key] is None else 100 * cell[key]
                for end, key in (("", "accuracy"), ("_low", "low"), ("_high", "high"))}
    return row | {"parameters": sum(run.metrics["trainable_parameters"].values()), "seconds": run.metrics["train_seconds"]}


def differences(base: Run, other: Run, view: str = "single", definition: str = "own") -> pd.DataFrame:
    """``other`` minus ``base``, one row for all / head / medium / tail: ``difference``, ``low``, ``high`` (points; paired
    bootstrap), ``p`` (exact McNemar), ``p_holm`` (``p`` corrected for the rows of this table), ``images``."""
    a, b = _same_images(base, other, view)
    members = base.groups(definition)
    rows = []
    for group in group_names():
        chosen = np.isin(a.labels, np.unique(a.labels) if group == "all" else members[group])
        if chosen.any():
            test = paired_difference(a.correct[chosen], b.correct[chosen])
            rows.append({"group": group, **{k: 100 * test[k] for k in ("difference", "low", "high")}, "p": test["p"],
                         "images": int(chosen.sum())})
    frame = pd.DataFrame(rows)
    frame.insert(frame.columns.get_loc("p") + 1, "p_holm", holm(frame["p"].to_numpy()))
    return frame


def per_class(base: Run, other: Run, view: str = "single", definition: str = "own") -> pd.DataFrame:
    """One row a class, most frequent first: ``label``, ``name``, ``group``, ``images`` (training), ``tested``, ``base``,
    ``other`` (accuracy, percent), ``difference`` (points), ``p`` (exact McNemar over the class's test images), and ``p_holm``
    (``p`` corrected for all classes)."""
    a, b = _same_images(base, other, view)
    members = base.groups(definition)
    rows = []
    for label, (name, n) in enumerate(zip(base.metrics["class_names"], base.metrics["class_counts"], strict=True)):
        own = a.labels == label
        if own.any():
            test = paired_difference(a.correct[own], b.correct[own])
            rows.append({"label": label, "name": name, "group": next(g for g, c in members.items() if label in c), "images": n,
                         "tested": int(own.sum()), "base": 100 * a.correct[own].mean(), "other": 100 * b.correct[own].mean(),
                         "difference": 100 * test["difference"], "p": test["p"]})
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame["p"].to_numpy())
    return frame.sort_values(["images", "label"], ascending=[False, True], ignore_index=True)


def confusions(base: Run, other: Run, view: str = "single") -> pd.DataFrame:
    """Pairs of classes that are taken for one another, largest change first: ``true``, ``taken_for`` (names), ``base`` and
    ``other`` (test images), ``change``. Pairs without a change are left out."""
    a, b = _same_images(base, other, view)
    names, classes = base.metrics["class_names"], len(base.metrics["class_names"])
    before, after = (np.bincount(p.labels * classes + p.predicted, minlength=classes**2) for p in (a, b))
    change = after - before
    change[:: classes + 1] = 0  # right is no confusion
    cells = np.flatnonzero(change)
    frame = pd.DataFrame({"true": [names[c // classes] for c in cells], "taken_for": [names[c % classes] for c in cells],
                          "base": before[cells], "other": after[cells], "change": change[cells]})
    return frame.sort_values("change", key=lambda c: -c.abs(), kind="stable", ignore_index=True)


def won_and_lost(base: Run, other: Run, view: str = "single") -> tuple[np.ndarray, np.ndarray]:
    """Places in the test set of the images that only ``other`` gets right, and of those that only ``base`` does."""
    a, b = _same_images(base, other, view)
    return np.flatnonzero(b.correct & ~a.correct), np.flatnonzero(a.correct & ~b.correct)


def _same_images(base: Run, other: Run, view: str) -> tuple[Predictions, Predictions]:
    check_comparable([base, other])
    a, b = base.predictions(view), other.predictions(view)
    if not np.array_equal(a.labels, b.labels):
        raise UserError(f"{other.path} and {base.path} cannot be compared: their test images are in another order.")
    return a, b


def by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seed, together. A name is preset and method, and what differs from those."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        config = run.config
        changes = [f"{k}={v}" for k, v in config.changes().items() if k not in WHERE]
        name = ", ".join([f"{config.preset_name} {config.method}", *changes])
        found.setdefault(name, []).append(run)
    return {name: sorted(found[name], key=lambda run: (run.config.seed, run.name)) for name in sorted(found)}


def t_half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t interval of the mean of ``values`` (n,); nan for n < 2."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
