"""Rows of a study whose settings the validation images choose.

    a row with candidates c_1, ..., c_m becomes   argmax_c  mean over seeds of val(c),   val the mean over classes

Every candidate is trained with the same few seeds; test images are not looked at. Of equals the first wins.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import Config
from ..data.datasets import load_data
from ..errors import UserError
from ..files import write_atomic
from .study import Row, candidates
from .sweep import over_seeds, run_points

SEEDS = 2
"""With which each candidate is trained."""


def chosen(rows: Mapping[str, Row], runs: Path, table: Path, show: bool = True, **how: Any) -> dict[str, Config]:
    """One configuration a row; what was tried is written to the CSV ``table``. ``how``: as ``sweep.run_points``.

    Raises ``UserError`` where a row has candidates and its data no validation images, or when a candidate failed.
    """
    if all(len(candidates(row)) == 1 for row in rows.values()):
        return {name: candidates(row)[0] for name, row in rows.items()}
    _check_validation(rows)
    points = {f"{name}: {_said(config, candidates(row))}": config for name, row in rows.items() if len(candidates(row)) > 1
              for config in candidates(row)}
    if show:
        choosing = sum(len(candidates(row)) > 1 for row in rows.values())
        print(f"{choosing} of {len(rows)} rows have settings that validation images choose: {len(points)} candidates, "
              f"{SEEDS} seeds each, are trained first.", file=sys.stderr)
    results = run_points(over_seeds(points, SEEDS), runs / "points", show=show, **how)
    failed = results[results["status"] != "finished"].to_dict("records")
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} runs to choose from are not finished; the first: {failed[0]['row']}: "
                        f"{failed[0]['error'] or failed[0]['status']}. --retry-failed tries them again.")
    val = results.groupby("row", sort=False)["val"].mean()
    found, lines = {}, []
    for name, row in rows.items():
        tried = candidates(row)
        values = [val[f"{name}: {_said(config, tried)}"] for config in tried] if len(tried) > 1 else [float("nan")]
        best = max(range(len(tried)), key=lambda k: values[k]) if len(tried) > 1 else 0
        found[name] = tried[best]
        lines += [{"row": name, "candidate": _said(config, tried), "seeds": SEEDS, "val": values[k], "chosen": k == best}
                  for k, config in enumerate(tried) if len(tried) > 1]
    write_atomic(table, lambda path: pd.DataFrame(lines).to_csv(path, index=False))
    return found


def _said(config: Config, tried: tuple[Config, ...]) -> str:
    """What tells ``config`` from the others."""
    flat = [other.flat for other in tried]
    return ", ".join(f"{key}={value}" for key, value in config.flat.items() if any(other[key] != value for other in flat))


def _check_validation(rows: Mapping[str, Row]) -> None:
    for data in {row[0].data for row in rows.values() if not isinstance(row, Config)}:
        if load_data(data, show=False).val is None:
            raise UserError("this study chooses on validation images and the data has none; --set val_share=0.1 keeps some of "
                            "the training images.")
