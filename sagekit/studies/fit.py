"""What is FIT worth, once it is trained? The stored logits of a study's runs, read again with other scalars (Eq 23).

    as trained          z + s_1 z^v + s_2 z^t
    without z^v         s_1 = 0: no pass through the frozen network at test time
    fitted              (s_1, s_2) of the grid with the highest mean over classes on the run's validation images
    fitted, no z^v      s_2 alone is fitted, s_1 = 0
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ..errors import UserError
from ..runs.metrics import cells, group_names
from ..runs.predictions import Predictions
from ..runs.run import Run
from ..runs.whatif import best_scalars
from .summary import differences

Scalars = Callable[[Run], tuple[float, float]]


def _as_trained(run: Run) -> tuple[float, float]:
    stored = run.predictions()
    return stored.s_v, stored.s_t


READINGS: dict[str, Scalars] = {
    "as trained": _as_trained,
    "without z^v": lambda run: (0.0, run.predictions().s_t),
    "fitted": lambda run: best_scalars(_validation(run)),
    "fitted, no z^v": lambda run: best_scalars(_validation(run), values_v=(0.0,)),
}


def afterwards(results: pd.DataFrame, row: str, base: str) -> pd.DataFrame:
    """Each of ``READINGS`` of the finished runs of ``row``, beside those of ``base`` as they were trained; ``results`` as of
    ``sweep.results``.

    Columns: ``reading``, ``seeds``, ``s_v``, ``s_t`` (means over seeds), mean / all / head / medium / tail (percent, means over
    seeds), each with ``_difference``, ``_low``, ``_high``, ``_p`` as ``summary.paired``. Raises ``UserError`` for runs without
    FIT or without validation images.
    """
    done = results[results["status"] == "finished"].drop_duplicates(["row", "seed"])
    first, second = (done[done["row"] == name].set_index("seed")["path"].to_dict() for name in (base, row))
    pairs = [(Run(first[seed]), Run(path)) for seed, path in second.items() if seed in first]
    if not pairs:
        raise UserError(f"no seed of '{row}' and '{base}' is finished.")
    before = np.stack([run.predictions().correct for run, _ in pairs]).astype(np.int8)
    labels, groups = pairs[0][0].predictions().labels, pairs[0][0].groups("own")
    lines = []
    for name, scalars in READINGS.items():
        chosen = [scalars(run) for _, run in pairs]
        right = np.stack([_right(run.predictions(), *pair) for (_, run), pair in zip(pairs, chosen, strict=True)])
        found = differences(labels, right.astype(np.int8) - before, groups)
        s_v, s_t = np.mean(chosen, axis=0)
        line: dict[str, object] = {"reading": name, "seeds": len(pairs), "s_v": s_v, "s_t": s_t}
        for group in group_names():
            line[group] = 100 * float((right @ cells(labels, groups)[group]).mean())
            line |= {f"{group}_{key}": value for key, value in found.loc[group].items()}
        lines.append(line)
    return pd.DataFrame(lines)


def _right(stored: Predictions, s_v: float, s_t: float) -> np.ndarray:
    return np.asarray(stored.named(stored.summed(s_v, s_t).argmax(1)) == stored.labels)


def _validation(run: Run) -> Predictions:
    if "val" not in run.records:
        raise UserError(f"{run.path} has no validation images to fit scalars on; train it with --set val_share=0.1.")
    stored = run.predictions("single", "val")
    if stored.z_v is None:
        raise UserError(f"{run.path} has no FIT: there are no scalars to fit.")
    return stored
