import itertools
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from conftest import small

import sagekit as sk
from sagekit import Run, UserError
from sagekit.config import Config, Loss, Module
from sagekit.studies.study import STUDIES, axes_of, paired, rows_of, summary
from sagekit.studies.sweep import Point, results, run_points

TINY = {"largest_class": 6, "imbalance_ratio": 2.0, "test_per_class": 2}


def test_table_5_switches_one_part_on_at_a_time():
    rows = list(rows_of("table5", "cifar100-lt-100").values())
    keys = [k for k in Config.model_fields if k not in ("method", "preset_name")]
    changed = [{k for k in keys if getattr(a, k) != getattr(b, k)} for a, b in itertools.pairwise(rows)]
    assert changed == [{"module"}, {"templates"}, {"compensation"}, {"fit"}]
    assert rows[-1] == Config.preset("cifar100-lt-100", "sage")


def test_table_10_differs_in_the_adapter_alone():
    base, sg, without = rows_of("table10", "cifar100-lt-100").values()
    assert (base.module, sg.gate, without.gate) == ("adaptformer", "projection", "text")
    assert all(c.compensation and not c.fit and c.templates == 60 for c in (base, sg, without))


@pytest.mark.parametrize("study", list(STUDIES))
def test_every_row_is_a_valid_configuration(study):
    rows = rows_of(study, "mini")
    assert len(rows) >= 3
    assert len({Point("", c).name for c in rows.values()}) >= len(rows) - 3  # a figure's axis may hold the preset's own value


def test_unknown_study():
    with pytest.raises(UserError, match="Did you mean 'table5'"):
        rows_of("tabel5", "mini")


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    rows = {"classifier": small("classifier", **TINY), "lift": small("lift", **TINY)}
    todo = [Point(name, c.changed(seed=s)) for s in (0, 1) for name, c in rows.items()]
    return run_points(todo, folder, show=False), todo, folder


def test_summary_is_over_seeds_and_paired(points):
    frame = points[0]
    found = summary(frame)
    assert found["seeds"].tolist() == [2, 2]
    lift = frame[frame["row"] == "lift"]["all"].mean()
    assert found["all"].iloc[1] == pytest.approx(lift)
    assert found["all_difference"].iloc[1] == pytest.approx(lift - frame[frame["row"] == "classifier"]["all"].mean())
    assert np.isnan(found["all_difference"].iloc[0])
    assert found["all_low"].iloc[1] <= found["all_difference"].iloc[1] <= found["all_high"].iloc[1]


def test_failed_seeds_are_counted_not_dropped(points):
    _, todo, folder = points
    bad = Point("lift", todo[1].config.changed(seed=9))
    (folder / bad.name).mkdir()
    (folder / bad.name / "error.txt").write_text("UserError: no")
    found = summary(results([*todo, bad], folder))
    assert found.set_index("row").loc["lift", ["seeds", "failed"]].tolist() == [2, 1]


def test_paired_interval_agrees_with_resampling_the_images(points):
    """One seed: the interval is the image bootstrap's."""
    frame = points[0]
    a, b = (Run(frame[frame["row"] == r]["path"].iloc[0]) for r in ("classifier", "lift"))
    found = paired([(a, b)], "all")
    difference = b.predictions().correct.astype(float) - a.predictions().correct
    rng = np.random.default_rng(0)
    means = [100 * rng.choice(difference, len(difference)).mean() for _ in range(4000)]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1.5)


def test_a_group_without_images_has_no_difference(points):
    frame = points[0]
    a, b = (Run(frame[frame["row"] == r]["path"].iloc[0]) for r in ("classifier", "lift"))
    assert np.isnan(paired([(a, b)], "head")["difference"])


def test_pairs_of_other_test_sets_are_refused(points, runs):
    run = Run(points[0]["path"].iloc[0])
    with pytest.raises(UserError, match="cannot be paired"):
        paired([(run, sk.Run(runs["lift"].path))], "all")


def test_table_7_is_each_loss_with_and_without_the_factor():
    rows = rows_of("table7", "cifar100-lt-100")
    assert [c.loss for c in rows.values()] == ["ce", "ce", "la", "la", "kps", "kps", "proco", "proco"]
    assert [c.compensation for c in rows.values()] == [False, True] * 4
    kps, proco = rows["KPS"], rows["ProCo"]
    assert (kps.batch_size, kps.decay, kps.head) == (64, 0.1, "cosine")
    assert (proco.batch_size, proco.lr, proco.epochs) == (256, pytest.approx(0.3), 200)


def test_table_9_has_every_module():
    modules = {c.module for c in rows_of("table9", "mini").values()}
    assert modules == set(get_args(Module))


def test_other_losses_are_all_the_rest():
    known = {c.loss for name in ("table7", "losses") for c in rows_of(name, "mini").values()}
    assert known == set(get_args(Loss))


def test_a_row_may_have_its_own_base(points):
    frame = points[0]
    against = summary(frame, {"classifier": "lift"}).set_index("row")
    usual = summary(frame).set_index("row")
    assert against.loc["classifier", "all_difference"] == pytest.approx(-usual.loc["lift", "all_difference"])
    assert np.isnan(against.loc["lift", "all_difference"])


def test_points_of_a_sweep_by_their_settings():
    frame = pd.DataFrame([{"row": row, "seed": seed, "status": status, **dict.fromkeys(("all", "head", "medium", "tail"), a)}
                          for row, seed, status, a in (("preset", 0, "finished", 80.0), ("gamma=0.1", 0, "finished", 81.0),
                                                       ("gamma=0.1", 1, "finished", 83.0), ("gamma=0.2", 0, "failed", np.nan),
                                                       ("gate=text, mu=1", 0, "open", np.nan))])
    found = axes_of(frame).set_index("row")
    assert found.loc["gamma=0.1", ["gamma", "seeds", "failed", "all"]].tolist() == [0.1, 2, 0, 82.0]
    assert found.loc["gamma=0.1", "all_half"] == pytest.approx(12.706, abs=1e-3)
    assert found.loc["gamma=0.2", ["seeds", "failed"]].tolist() == [0, 1]
    assert np.isnan(found.loc["gamma=0.2", "all"])
    assert np.isnan(found.loc["preset", "gamma"])
    assert found.loc["gate=text, mu=1", ["gate", "mu"]].tolist() == ["text", 1.0]


def test_p_is_small_where_the_interval_excludes_zero(points):
    frame = points[0]
    a, b = (Run(frame[frame["row"] == r]["path"].iloc[0]) for r in ("classifier", "lift"))
    same = paired([(a, a)], "all")
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    found = paired([(a, b)], "all")
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
