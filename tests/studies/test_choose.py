"""What validation chooses, against the runs' own validation records."""

import pandas as pd
import pytest
from conftest import small

from sagekit import Run, UserError
from sagekit.studies.choose import SEEDS, chosen
from sagekit.studies.sweep import Point

TINY = {"largest_class": 6, "imbalance_ratio": 2.0, "test_per_class": 2}


def row(*rates, **changes):
    return tuple(small("classifier", lr=lr, **{**TINY, **changes}) for lr in rates)


def validated(config, folder):
    record = Run(folder / "points" / Point("", config).name).record("val")
    return record["results"]["single"]["mean"]["accuracy"]


def test_validation_chooses_and_test_images_do_not(tmp_path):
    rows = {"fixed": row(0.01)[0], "tuned": row(1e-5, 0.3, 3.0)}
    found = chosen(rows, tmp_path, tmp_path / "choices.csv", show=False)
    assert found["fixed"] is rows["fixed"]
    means = [sum(validated(c.changed(seed=s), tmp_path) for s in range(SEEDS)) / SEEDS for c in rows["tuned"]]
    best = max(range(3), key=means.__getitem__)
    assert found["tuned"] is rows["tuned"][best]
    table = pd.read_csv(tmp_path / "choices.csv")
    assert table["candidate"].tolist() == ["lr=1e-05", "lr=0.3", "lr=3.0"]
    assert table["chosen"].tolist() == [k == best for k in range(3)]
    assert table["val"].tolist() == pytest.approx([100 * mean for mean in means])
    assert not (tmp_path / "points" / Point("", rows["fixed"]).name).exists()  # nothing to choose, nothing trained


def test_rows_without_candidates_need_no_validation(tmp_path):
    rows = {"one": row(0.01, val_per_class=0)[0]}
    assert chosen(rows, tmp_path, tmp_path / "choices.csv") == rows
    assert not list(tmp_path.iterdir())


def test_choosing_needs_validation_images(tmp_path):
    with pytest.raises(UserError, match=r"has none; --set val_share=0\.1 keeps some"):
        chosen({"tuned": row(0.01, 0.1, val_per_class=0)}, tmp_path, tmp_path / "choices.csv")
    assert not list(tmp_path.iterdir())


def test_a_failed_candidate_is_named(tmp_path):
    rows = {"tuned": row(0.01, 1e30)}
    with pytest.raises(UserError, match=r"tuned: lr=1e\+30: UserError.*--retry-failed"):
        chosen(rows, tmp_path, tmp_path / "choices.csv", show=False)
