"""What the results of many runs say: each row's mean over seeds, and its paired difference to another row, by the crossed
bootstrap of ``runs.paired`` over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.longtail import Groups
from ..errors import UserError
from ..files import write_atomic
from ..runs.compare import check_comparable, t_half_width
from ..runs.metrics import cells, group_names
from ..runs.paired import DRAWS, crossed, holm
from ..runs.run import Run

PAIRED = ("difference", "low", "high", "p")


def summary(results: pd.DataFrame, bases: Mapping[str, str] | None = None, definition: str = "own",
            view: str = "single") -> pd.DataFrame:
    """One row for each of ``sweep.results``' rows, over its finished seeds; accuracies and differences in percent, groups by
    the data set's own counts.

    Columns: ``row``, ``base`` (empty without one), ``seeds``, ``failed``, ``val``, and for each of mean / all / head / medium /
    tail: its mean, ``_half`` (half width of the t interval), ``_difference`` to the row's base, with ``_low``, ``_high`` and
    ``_p`` as in ``paired``.
    ``definition`` and ``view`` are of the differences; the means are those of ``results``. ``bases`` names each row's base (nan
    without one); by default it is the first row. Of several finished runs of one row and seed the first by path counts.
    Raises ``UserError`` for runs of one method by two versions.
    """
    finished = results[results["status"] == "finished"].sort_values("path").drop_duplicates(["row", "seed"])
    check_versions(finished)
    first = results["row"].iloc[0]
    bases = {name: first for name in results["row"].unique() if name != first} if bases is None else bases
    rows = []
    for name, part in results.groupby("row", sort=False):
        done = finished[finished["row"] == name].sort_values("seed")
        base = finished[finished["row"] == bases.get(str(name))].set_index("seed")["path"]
        pairs = [(Run(base[s]), Run(p)) for s, p in zip(done["seed"], done["path"], strict=True) if s in base.index]
        found = paired(pairs, definition, view)
        row: dict[str, object] = {"row": name, "base": bases.get(str(name), ""), "seeds": len(done),
                                  "failed": int((part["status"] == "failed").sum()),
                                  "val": done["val"].mean() if "val" in done else np.nan}
        for group in group_names():
            values = done[group].to_numpy(float) if len(done) else np.array([np.nan])
            row |= {group: values.mean(), f"{group}_half": t_half_width(values)}
            row |= {f"{group}_{key}": found.loc[group, key] for key in PAIRED}
        rows.append(row)
    return pd.DataFrame(rows)


def check_versions(finished: pd.DataFrame) -> None:
    """Raise ``UserError`` where ``finished`` (``row``, ``path`` of finished runs) has runs of one method that were made by two
    versions, of sagekit or of the method: their difference may be the code's."""
    made_by: dict[str, dict[str, str]] = {}
    for name, path in zip(finished["row"], finished["path"], strict=True):
        run = Run(path)
        said = run.metrics.get("versions") or {}
        version = f"sagekit {said.get('sagekit', '?')}, method {said.get('method', '?')}"
        made_by.setdefault(run.config.method, {}).setdefault(version, f"row '{name}', {path}")
    for method, versions in made_by.items():
        if len(versions) > 1:
            raise UserError(f"runs of '{method}' by two versions cannot stand in one table: "
                            + "; ".join(f"{version} ({where})" for version, where in versions.items())
                            + ". Delete the older runs, or train all again into another folder with --runs.")


def corrected(found: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """``summary``'s frame with ``_p_holm`` of each of ``groups``: the bootstrap's p, corrected by Holm for all rows and
    ``groups`` that are shown together."""
    columns = [f"{group}_p" for group in groups]
    values = holm(found[columns].to_numpy(float).ravel()).reshape(len(found), len(columns))
    return found.assign(**{f"{column}_holm": values[:, i] for i, column in enumerate(columns)})


def paired(pairs: Sequence[tuple[Run, Run]], definition: str = "own", view: str = "single", seed: int = 0) -> pd.DataFrame:
    """Second minus first over pairs of runs with one seed each, in percent: a row for each of mean / all / head / medium / tail
    (the index) with the mean ``difference``, the ends ``low`` and ``high`` of its 95 % interval, and the bootstrap's ``p``, the
    last three by ``crossed``; nan for a group without images, and everywhere without pairs.

    Each run's predictions are read once. With one seed the interval is that of the images alone. Raises ``UserError`` for runs
    on other test images.
    """
    if not pairs:
        return pd.DataFrame(np.nan, index=list(group_names()), columns=list(PAIRED))
    check_comparable([run for pair in pairs for run in pair])
    labels, won = wins(pairs, view)
    return differences(labels, won, pairs[0][0].groups(definition), seed)


def differences(labels: np.ndarray, won: np.ndarray, groups: Groups, seed: int = 0) -> pd.DataFrame:
    """``paired``'s frame from D = ``won`` (S, N): 1 where only the second of a pair is right, -1 where only the first is, for
    test images with ``labels`` int (N,)."""
    found = pd.DataFrame(np.nan, index=list(group_names()), columns=list(PAIRED))
    for group, weights in cells(labels, groups).items():
        if weights.any():
            low, high, p = crossed(won, DRAWS, seed, weights)
            found.loc[group] = [100 * (won @ weights).mean(), 100 * low, 100 * high, p]
    return found


def wins(pairs: Sequence[tuple[Run, Run]], view: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels int (N,) that all runs of ``pairs`` share, and D int8 (S, N): 1 where only the second run of a pair is right,
    -1 where only the first is."""
    labels, rows = np.empty(0, np.int64), []
    for first, second in pairs:
        before = first.predictions(view)
        labels = before.labels
        rows.append(second.predictions(view).correct.astype(np.int8) - before.correct)
    return labels, np.stack(rows)


def axes_of(results: pd.DataFrame) -> pd.DataFrame:
    """The points of a sweep by the settings that its rows name ("gamma=0.1, mu=0.5"): a column for each of them (nan where a
    row does not name it, as the preset), then ``row``, ``seeds``, ``failed``, the mean ``val``, and for mean / all / head /
    medium / tail the mean over finished seeds and ``_half`` of its t interval. Only ``results`` is read, no run."""
    rows = []
    for name, part in results.groupby("row", sort=False):
        done = part[part["status"] == "finished"]
        line: dict[str, object] = {"row": name, "seeds": len(done), "failed": int((part["status"] == "failed").sum()),
                                   "val": done["val"].mean() if "val" in done else np.nan}
        for assignment in str(name).split(", "):
            key, equals, value = assignment.partition("=")
            if equals and key.isidentifier():  # "tau = gamma" is a name
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


def save(results: pd.DataFrame, folder: Path, bases: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Write ``results.csv`` and ``summary.csv`` into the study's folder; the summary against ``bases``."""
    found = summary(results, bases)
    write_atomic(folder / "results.csv", lambda path: results.to_csv(path, index=False))
    write_atomic(folder / "summary.csv", lambda path: found.to_csv(path, index=False))
    return found
