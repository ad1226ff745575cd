"""Comparing finished runs: tables, and paired differences on the same test images.

A difference is taken image by image (``paired``), so what both runs get right or wrong alike does not blur it. Runs on other
test images or other groups are refused.
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
from .metrics import cells, group_names
from .paired import holm, p_value, paired_difference
from .predictions import Predictions
from .run import VIEWS, Run

VIEW_NAMES = {"single": "single view", "five_crops": "five crops averaged", "ten_crops": "ten crops averaged",
              "random_crops": "random crops averaged"}
MEASURES = {"top5": "top-5", "macro_f1": "macro-F1", "worst_class": "worst class", "harmonic_mean": "harmonic mean",
            "geometric_mean": "geometric mean", "calibration_error": "ECE", "negative_log_likelihood": "NLL"}
"""What is measured beside the accuracies, and its name in tables."""


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise ``UserError`` with the reason unless all runs have the same classes, groups and test images."""
    first = runs[0]
    for run in runs[1:]:
        for key, what in (("class_names", "other classes"), ("groups", "other groups"),
                          ("test_digest", "their test images differ")):
            if run.metrics.get(key) != first.metrics.get(key):
                raise UserError(f"{run.path} and {first.path} cannot be compared: {what}.")


def said(run: Run, view: str, definition: str) -> str:
    """What a run's numbers are of: data, test images, view, groups and their thresholds."""
    metrics = run.metrics
    above, below = metrics["thresholds"]
    bounds = "" if definition == "thirds" else f" (head > {above}, tail < {below} training images)"
    return f"{metrics['data']}, {metrics['test_images']:,} test images, {VIEW_NAMES[view]}; {DEFINITIONS[definition]}{bounds}"


def table(runs: Sequence[Run], view: str = "single", definition: str = "own") -> pd.DataFrame:
    """One row a run, as ``line`` gives it."""
    return pd.DataFrame([line(run, view, definition) for run in runs])


def line(run: Run, view: str = "single", definition: str = "own") -> dict[str, Any]:
    """A run's name, method, data, seed, whether its test set is ``balanced``, then ``mean`` (over classes), ``all``, ``head``,
    ``medium``, ``tail`` in percent with the ends of their 95 % Wilson intervals over test images (``mean_low``, ...; nan for an
    empty group), trained parameters and training seconds."""
    if definition not in DEFINITIONS or view not in VIEWS:
        raise UserError(f"unknown view or groups: '{view}', '{definition}'. Views: {', '.join(VIEWS)}; groups: "
                        f"{', '.join(DEFINITIONS)}.")
    if view not in run.metrics["results"]:
        raise UserError(f"{run.path} was measured without {view.replace('_', ' ')}; run `sagekit evaluate {run.path} "
                        f"--ensemble {view}`.")
    run.groups(definition)  # or say that it has none
    result = run.metrics["results"][view]
    row = {"run": run.name, "method": run.config.method, "data": run.metrics["data"], "seed": run.config.seed,
           "balanced": result["balanced"]}
    row |= percent(result, definition)
    return row | {"parameters": sum(run.metrics["trainable_parameters"].values()), "seconds": run.metrics["train_seconds"]}


def percent(result: dict[str, Any], definition: str) -> dict[str, float]:
    """``mean``, ``all``, ``head``, ``medium``, ``tail`` of one of a record's ``results``, with ``_low`` and ``_high``, in
    percent; nan for an empty group."""
    found = {**result, **result["groups"][definition]}
    return {group + end: np.nan if found[group][key] is None else 100 * found[group][key]
            for group in group_names() for end, key in (("", "accuracy"), ("_low", "low"), ("_high", "high"))}


def measures(runs: Sequence[Run], view: str = "single", definition: str = "own") -> pd.DataFrame:
    """One row a run: ``run``, ``balanced``, the accuracies of ``line``, then ``MEASURES``; nan for what a run has not. In
    percent but the negative log likelihood, which is in nats."""
    rows = []
    for run in runs:
        accuracies, result = line(run, view, definition), run.metrics["results"][view]
        scale = {key: 1 if key == "negative_log_likelihood" else 100 for key in MEASURES}
        rows.append({**{key: accuracies[key] for key in ("run", "balanced", *group_names())},
                     **{key: np.nan if result[key] is None else scale[key] * result[key] for key in MEASURES}})
    return pd.DataFrame(rows)


def differences(base: Run, other: Run, view: str = "single", definition: str = "own") -> pd.DataFrame:
    """``other`` minus ``base``, one row for each of mean / all / head / medium / tail that has images: ``group``,
    ``difference``, ``low``, ``high`` (points; paired bootstrap), ``p`` and ``test`` (``paired.p_value``), ``p_holm`` (``p``
    corrected for this table's rows; rows of the same weights, as mean and all on a balanced test set, count once), and
    ``images``."""
    a, b = _same_images(base, other, view)
    groups: dict[str, int] = {}
    tests: list[dict[str, Any]] = []
    known: list[np.ndarray] = []
    for group, weights in cells(a.labels, base.groups(definition)).items():
        if weights.any():
            groups[group] = next((k for k, w in enumerate(known) if np.allclose(w, weights, rtol=1e-9, atol=0)), len(known))
            if groups[group] == len(known):
                known.append(weights)
                tests.append({**paired_difference(a.correct, b.correct, weights), "images": int(np.count_nonzero(weights))})
    frame = pd.DataFrame(tests)
    frame[["difference", "low", "high"]] *= 100
    frame.insert(frame.columns.get_loc("p") + 1, "p_holm", holm(frame["p"].to_numpy()))
    frame = frame.iloc[list(groups.values())].reset_index(drop=True)
    frame.insert(0, "group", list(groups))
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
            before, after = a.correct[own], b.correct[own]
            p, _ = p_value(after.astype(int) - before, np.full(len(before), 1 / len(before)))
            rows.append({"label": label, "name": name, "group": next(g for g, c in members.items() if label in c), "images": n,
                         "tested": len(before), "base": 100 * before.mean(), "other": 100 * after.mean(), "p": p})
    frame = pd.DataFrame(rows)
    frame.insert(frame.columns.get_loc("p"), "difference", frame["other"] - frame["base"])
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
    return base.predictions(view), other.predictions(view)


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
