"""Shared by the mini-world benchmarks: many runs in parallel, one thread each, and their table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

import sagekit as sk
from sagekit.compare import t_half_width, table
from sagekit.metrics import group_names


def train_one(config: sk.Config, out: Path) -> Path:
    """Train in a worker process; a finished run is kept, a stopped one continues."""
    torch.set_num_threads(1)
    sk.train(config, out, resume=True, show=False)
    return out


def train_all(rows: dict[str, sk.Config], seeds: int, folder: Path) -> dict[str, list[sk.Run]]:
    """Every row with every seed, one process a core; finished runs by row."""
    jobs = [(config.changed(seed=seed), folder / f"{name}-{seed}".replace(" ", "_"))
            for seed in range(seeds) for name, config in rows.items()]
    Parallel(n_jobs=os.cpu_count(), verbose=1)(delayed(train_one)(*job) for job in jobs)
    return {name: [sk.Run(folder / f"{name}-{seed}".replace(" ", "_")) for seed in range(seeds)] for name in rows}


def cell(values: np.ndarray) -> str:
    """Mean and half width of the 95 % t interval over seeds."""
    half = t_half_width(values)
    return f"{values.mean():.1f} ± {half:.1f}" if np.isfinite(half) and half > 0 else f"{values.mean():.1f}"


def accuracy_table(runs: dict[str, list[sk.Run]], compared_with: dict[str, str]) -> str:
    """A Markdown table: each row's mean and interval over seeds, and its paired difference to ``compared_with[row]``.

    The difference is taken seed by seed; its interval is the t interval of those differences.
    """
    frames = {name: table(of_row) for name, of_row in runs.items()}
    rows = []
    for name, frame in frames.items():
        row = {"": name, **{g: cell(frame[g].to_numpy()) for g in group_names()}}
        base = compared_with.get(name)
        for g in ("all", "tail") if compared_with else ():
            if base is None:
                row[f"{g}: difference"] = ""
            else:
                difference = frame[g].to_numpy() - frames[base][g].to_numpy()
                row[f"{g}: difference"] = f"{difference.mean():+.1f} ± {t_half_width(difference):.1f} (to {base})"
        row["seconds"] = f"{frame['seconds'].mean():.0f}"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def markdown(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()])
