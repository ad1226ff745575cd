"""What the results of many runs say: each row's mean over seeds, and its paired difference to another row.

With D[s, i] in {-1, 0, 1} the win or loss on test image i between the two runs of seed s, the difference is

    d = (1 / S N) sum_s sum_i D[s, i]

and its 95 % interval is a crossed bootstrap: in a draw seed s occurs a_s times and image i b_i times, for all seeds alike
since they share the images,

    d* = (1 / S N) sum_s sum_i a_s b_i D[s, i],   a ~ Multinomial(S, 1/S), b ~ Multinomial(N, 1/N)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import UserError
from ..files import write_atomic
from ..runs.compare import t_half_width
from ..runs.metrics import DRAWS, group_names
from ..runs.run import Run

PAIRED = ("difference", "low", "high", "p")


def summary(results: pd.DataFrame, bases: Mapping[str, str] | None = None, definition: str = "own",
            view: str = "single") -> pd.DataFrame:
    """One row for each of ``sweep.results``' rows, over its finished seeds; accuracies and differences in percent, groups by
    the data set's own counts.

    Columns: ``row``, ``seeds``, ``failed``, ``val``, and for each of all / head / medium / tail: its mean, ``_half`` (half
    width of the t interval), ``_difference`` to the row's base, with ``_low``, ``_high`` and ``_p`` as in ``paired``.
    ``definition`` and ``view`` are of the differences; the means are those of ``results``. ``bases`` names each row's base (nan
    without one); by default it is the first row. Of several finished runs of one row and seed the first by path counts.
    """
    finished = results[results["status"] == "finished"].sort_values("path").drop_duplicates(["row", "seed"])
    first = results["row"].iloc[0]
    bases = {name: first for name in results["row"].unique() if name != first} if bases is None else bases
    rows = []
    for name, part in results.groupby("row", sort=False):
        done = finished[finished["row"] == name].sort_values("seed")
        base = finished[finished["row"] == bases.get(str(name))].set_index("seed")["path"]
        pairs = [(Run(base[s]), Run(p)) for s, p in zip(done["seed"], done["path"], strict=True) if s in base.index]
        found = paired(pairs, definition, view)
        row: dict[str, object] = {"row": name, "seeds": len(done), "failed": int((part["status"] == "failed").sum()),
                                  "val": done["val"].mean() if "val" in done else np.nan}
        for group in group_names():
            values = done[group].to_numpy(float) if len(done) else np.array([np.nan])
            row |= {group: values.mean(), f"{group}_half": t_half_width(values)}
            row |= {f"{group}_{key}": found.loc[group, key] for key in PAIRED}
        rows.append(row)
    return pd.DataFrame(rows)


def paired(pairs: Sequence[tuple[Run, Run]], definition: str = "own", view: str = "single", seed: int = 0) -> pd.DataFrame:
    """Second minus first over pairs of runs with one seed each, in percent: a row for each of all / head / medium / tail (the
    index) with the mean ``difference``, the ends ``low`` and ``high`` of its 95 % interval, and ``p``, the last three by
    ``crossed``; nan for a group without images, and everywhere without pairs.

    Each run's predictions are read once. With one seed the interval is that of the images alone.
    """
    found = pd.DataFrame(np.nan, index=list(group_names()), columns=list(PAIRED))
    if not pairs:
        return found
    labels, wins = _wins(pairs, view)
    members = {"all": np.unique(labels), **pairs[0][0].groups(definition)}
    for group in group_names():
        chosen = wins[:, np.isin(labels, members[group])]
        if chosen.size:
            low, high, p = crossed(chosen, DRAWS, seed)
            found.loc[group] = [100 * chosen.mean(), 100 * low, 100 * high, p]
    return found


def _wins(pairs: Sequence[tuple[Run, Run]], view: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels int (N,) that all runs share, and D int8 (S, N): 1 where only the second run of a pair is right, -1 where
    only the first is."""
    labels: np.ndarray | None = None
    rows = []
    for pair in pairs:
        correct = []
        for run in pair:
            predictions = run.predictions(view)
            labels = predictions.labels if labels is None else labels
            if not np.array_equal(predictions.labels, labels):
                raise UserError(f"{run.path} and {pairs[0][0].path} cannot be paired: their test images differ.")
            correct.append(predictions.correct.astype(np.int8))
        rows.append(correct[1] - correct[0])
    assert labels is not None
    return labels, np.stack(rows)


def crossed(wins: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """The crossed bootstrap of the mean of D = ``wins`` (S, N): ends of the 95 % interval, and the two-sided p, twice the
    smaller share of draws on one side of zero (at least 1 / ``draws``).

    Images with the same column of D are alike, so their counts are drawn together: (K,) for the K different columns.
    """
    seeds, images = wins.shape
    columns, sizes = np.unique(wins, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)  # (draws, S)
    image_counts = rng.multinomial(images, sizes / images, draws)  # (draws, K)
    means = (seed_counts * (image_counts @ columns.T.astype(float))).sum(1) / (seeds * images)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return float(low), float(high), float(min(1.0, max(2 * tail, 1 / draws)))


def axes_of(results: pd.DataFrame) -> pd.DataFrame:
    """The points of a sweep by the settings that its rows name ("gamma=0.1, mu=0.5"): a column for each of them (nan where a
    row does not name it, as the preset), then ``row``, ``seeds``, ``failed``, the mean ``val``, and for all / head / medium /
    tail the mean over finished seeds and ``_half`` of its t interval. Only ``results`` is read, no run."""
    rows = []
    for name, part in results.groupby("row", sort=False):
        done = part[part["status"] == "finished"]
        line: dict[str, object] = {"row": name, "seeds": len(done), "failed": int((part["status"] == "failed").sum()),
                                   "val": done["val"].mean() if "val" in done else np.nan}
        for assignment in str(name).split(", "):
            key, equals, value = assignment.partition("=")
            if equals:
                line[key] = _as_number(value)
        for group in group_names():
            values = done[group].to_numpy(float) if group in done and len(done) else np.array([np.nan])
            line |= {group: values.mean(), f"{group}_half": t_half_width(values)}
        rows.append(line)
    return pd.DataFrame(rows)


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def save(results: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write ``results.csv`` and ``summary.csv`` into the study's folder; the summary."""
    found = summary(results)
    write_atomic(folder / "results.csv", lambda path: results.to_csv(path, index=False))
    write_atomic(folder / "summary.csv", lambda path: found.to_csv(path, index=False))
    return found
