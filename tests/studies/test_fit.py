"""FIT's scalars after training, against counting by hand."""

import itertools

import numpy as np
import pytest
from conftest import small

from sagekit import Run, UserError
from sagekit.studies.fit import READINGS, afterwards
from sagekit.studies.sweep import Point, run_points

TINY = {"largest_class": 6, "imbalance_ratio": 2.0, "test_per_class": 2}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    sage = small("sage", **TINY)
    rows = {"with": sage, "zero": sage.changed(lambda_3=0.0), "without": sage.changed(fit=False)}
    return run_points([Point(name, c.changed(seed=s)) for s in (0, 1) for name, c in rows.items()],
                      tmp_path_factory.mktemp("points"), show=False)


def accuracy(stored, s_v, s_t):
    return (stored.z + np.float32(s_v) * stored.z_v + np.float32(s_t) * stored.z_t).argmax(1) == stored.labels


def test_readings_by_hand(results):
    found = afterwards(results, "zero", "with").set_index("reading")
    assert list(found.index) == list(READINGS)
    own = [Run(p) for p in results[results["row"] == "zero"]["path"]]
    base = np.mean([Run(p).predictions().correct.mean() for p in results[results["row"] == "with"]["path"]])
    grid = [s / 10 for s in range(-5, 21)]
    by_hand = {
        "as trained": [r.predictions().correct.mean() for r in own],
        "without z^v": [accuracy(r.predictions(), 0, r.predictions().s_t).mean() for r in own],
        "fitted": [accuracy(r.predictions(), *best(r, grid, grid)).mean() for r in own],
        "fitted, no z^v": [accuracy(r.predictions(), *best(r, [0.0], grid)).mean() for r in own],
    }
    for name, values in by_hand.items():
        assert found.loc[name, "all"] == pytest.approx(100 * np.mean(values))
        assert found.loc[name, "all_difference"] == pytest.approx(100 * (np.mean(values) - base))
    assert found.loc["without z^v", "s_v"] == 0
    assert found.loc["as trained", "s_t"] == pytest.approx(np.mean([r.predictions().s_t for r in own]))


def best(run, values_v, values_t):
    """The highest validation accuracy (as many images of every class); of equals the nearest to 0."""
    stored = run.predictions("single", "val")
    pairs = list(itertools.product(values_v, values_t))
    right = {pair: accuracy(stored, *pair).sum() for pair in pairs}
    return min(pairs, key=lambda pair: (-right[pair], pair[0] ** 2 + pair[1] ** 2))


def test_runs_without_scalars_are_refused(results):
    with pytest.raises(UserError, match="has no FIT"):
        afterwards(results, "without", "with")
    with pytest.raises(UserError, match="no seed of 'nothing' and 'with' is finished"):
        afterwards(results, "nothing", "with")
