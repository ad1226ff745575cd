"""The runs on photographs that ship with the course: what their records say is what their logits say."""

from pathlib import Path

import numpy as np
import pytest

from sagekit import Run
from sagekit.data import longtail

FOLDER = Path(__file__).parents[1] / "notebooks/real"
RUNS = sorted(path.parent for path in FOLDER.glob("*/metrics.json"))


def test_every_run_is_in_the_list_and_the_other_way_round():
    listed = {line.split("`")[1] for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")}
    assert listed == {path.name for path in RUNS}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_records_are_counted_from_the_logits(path):
    run = Run(path)
    stored, counts = run.predictions(), np.array(run.metrics["class_counts"])
    assert np.array_equal(np.sort(counts), np.sort(longtail.profile(100, 500, 100.0)))
    assert stored.z.shape == (10_000, 100)
    assert np.array_equal(np.bincount(stored.labels), np.full(100, 100))
    right = stored.z.argmax(1) == stored.labels
    result = run.metrics["results"]["single"]
    assert result["all"]["accuracy"] == pytest.approx(right.mean())
    for group, classes in longtail.groups(counts).items():
        assert result["groups"]["own"][group]["accuracy"] == pytest.approx(right[np.isin(stored.labels, classes)].mean())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_the_whole_protocol_was_run(path):
    run = Run(path)
    assert run.finished
    assert (run.config.epochs, len(run.history), run.config.data.imbalance_ratio) == (200, 200, 100)
    assert run.history["test_accuracy"].notna().sum() == 40
    last = run.metrics["results"]["single"]["mean"]["accuracy"]
    assert run.history["test_accuracy"].iloc[-1] == pytest.approx(last, abs=2e-3)  # stored logits are rounded
    assert max(file.stat().st_size for file in path.iterdir()) < 2_500_000
