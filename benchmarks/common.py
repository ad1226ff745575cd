"""Shared by the benchmarks: rows of runs over seeds, their Markdown table, and seconds of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from sagekit import Config
from sagekit.runs.compare import t_half_width
from sagekit.runs.metrics import group_names
from sagekit.studies.sweep import over_seeds, run_points


def train_all(rows: dict[str, Config], seeds: int) -> pd.DataFrame:
    """Every row with every seed, one process a core, kept in build/points; the sweep's results."""
    return run_points(over_seeds(rows, seeds), Path("build/points"))


def accuracy_table(results: pd.DataFrame, compared_with: dict[str, str]) -> str:
    """A Markdown table: each row's mean and interval over seeds, and its difference to the row ``compared_with[row]``.

    The difference is taken seed by seed; its interval is the t interval of those differences.
    """
    frames = dict(list(results.groupby("row", sort=False)))
    rows = []
    for name, frame in frames.items():
        row = {"": name, **{g: _cell(frame[g].to_numpy()) for g in group_names()}}
        base = compared_with.get(name)
        for g in ("all", "tail") if compared_with else ():
            row[f"{g}: difference"] = "" if base is None else f"{_difference(frame, frames[base], g)} (to {base})"
        rows.append(row | {"seconds": f"{frame['seconds'].mean():.0f}"})
    return markdown(pd.DataFrame(rows))


def _difference(frame: pd.DataFrame, base: pd.DataFrame, group: str) -> str:
    values = frame[group].to_numpy() - base[group].to_numpy()
    return f"{values.mean():+.1f} ± {t_half_width(values):.1f}"


def _cell(values: np.ndarray) -> str:
    half = t_half_width(values)
    return f"{values.mean():.1f} ± {half:.1f}" if half >= 0.05 else f"{values.mean():.1f}"


def markdown(frame: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()])


def best(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of some calls, the first left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])
