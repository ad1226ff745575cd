import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import small

from sagekit import Run, UserError
from sagekit.runs.metrics import group_names, over_classes
from sagekit.runs.paired import crossed, holm
from sagekit.studies.summary import axes_of, corrected, paired, save, summary
from sagekit.studies.sweep import Point, results, run_points

TINY = {"largest_class": 6, "imbalance_ratio": 2.0, "test_per_class": 2}
SEEDS, IMAGES, DRAWS, REPETITIONS = 5, 600, 300, 200
"""Of the simulation of coverage."""


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
    assert found["val"].iloc[1] == pytest.approx(frame[frame["row"] == "lift"]["val"].mean())
    assert np.isnan(found["all_difference"].iloc[0])
    assert found["base"].tolist() == ["", "classifier"]
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
    found = paired([(a, b)]).loc["all"]
    difference = b.predictions().correct.astype(float) - a.predictions().correct
    rng = np.random.default_rng(0)
    means = [100 * rng.choice(difference, len(difference)).mean() for _ in range(4000)]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1.5)


def test_a_group_without_images_has_no_difference(points):
    frame = points[0]
    a, b = (Run(frame[frame["row"] == r]["path"].iloc[0]) for r in ("classifier", "lift"))
    assert paired([(a, b)]).loc["head"].isna().all()


def test_pairs_of_other_test_sets_are_refused(points, runs):
    run = Run(points[0]["path"].iloc[0])
    with pytest.raises(UserError, match="cannot be compared"):
        paired([(run, Run(runs["lift"].path))])


def test_a_row_may_have_its_own_base(points):
    frame = points[0]
    against = summary(frame, {"classifier": "lift"}).set_index("row")
    usual = summary(frame).set_index("row")
    assert against.loc["classifier", "all_difference"] == pytest.approx(-usual.loc["lift", "all_difference"])
    assert np.isnan(against.loc["lift", "all_difference"])


def test_points_of_a_sweep_by_their_settings():
    frame = pd.DataFrame([{"row": row, "seed": seed, "status": status, **dict.fromkeys(group_names(), a)}
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
    same = paired([(a, a)]).loc["all"]
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    found = paired([(a, b)]).loc["all"]
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)


def test_each_run_is_read_once(points, monkeypatch):
    frame = points[0]
    first, second = (frame[frame["row"] == r].sort_values("seed")["path"] for r in ("classifier", "lift"))
    read, original = [], Run.predictions
    monkeypatch.setattr(Run, "predictions", lambda run, view="single": read.append(run.path) or original(run, view))
    paired([(Run(a), Run(b)) for a, b in zip(first, second, strict=True)])
    assert len(read) == len(set(read)) == 4


def test_holm_is_over_what_is_shown_together():
    frame = pd.DataFrame({"row": [*"abc"], "mean_p": [np.nan, 0.01, 0.04], "tail_p": [np.nan, 0.02, 0.5], "all_p": 0.001})
    found = corrected(frame, ("mean", "tail"))
    both = holm(np.array([0.01, 0.02, 0.04, 0.5]))
    assert found.loc[1:, ["mean_p_holm", "tail_p_holm"]].to_numpy().ravel().tolist() == pytest.approx(both.tolist())
    assert found.loc[0, ["mean_p_holm", "tail_p_holm"]].isna().all()
    assert "all_p_holm" not in found


def test_no_pairs_no_difference():
    assert paired([]).isna().all(axis=None)


def test_a_seed_that_is_there_twice_counts_once(points):
    """The first by path is taken, in the row itself and in its base."""
    frame = points[0]
    again = frame[frame["seed"] == 0].assign(path=lambda part: "~" + part["path"], all=0.0)  # sorts last, and is not on disk
    found = summary(pd.concat([again, frame]))
    pd.testing.assert_frame_equal(found, summary(frame))


@pytest.mark.parametrize(("key", "said"), [("sagekit", "sagekit 0.0.9, method 1"), ("method", r"sagekit \S+, method 0")])
def test_one_method_by_two_versions_is_no_table(points, tmp_path, key, said):
    """Also for whoever saves, and with the older run in the base's row or another seed; other methods have other versions."""
    frame = points[0].copy()
    old = Run(shutil.copytree(frame["path"].iloc[-1], tmp_path / "lift-old"))
    versions = {**old.metrics["versions"], key: {"sagekit": "0.0.9", "method": 0}[key]}
    old.write_metrics({**old.metrics, "versions": versions})
    frame.loc[frame.index[-1], "path"] = str(old.path)
    with pytest.raises(UserError, match=rf"^runs of 'lift' by two versions .*{said} \(row 'lift', .*lift-old\).*--runs\.$"):
        save(frame, tmp_path / "study")
    assert not (tmp_path / "study").exists()
    assert len(summary(frame[frame["path"].isin([str(old.path), *frame["path"][frame["row"] == "classifier"]])])) == 2


def test_save_writes_what_it_returns(points, tmp_path):
    found = save(points[0], tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "summary.csv").fillna({"base": ""}), found, check_dtype=False)
    assert len(pd.read_csv(tmp_path / "results.csv")) == len(points[0])


def test_crossed_agrees_with_resampling_seeds_and_images():
    """The counts of different columns are the resampling of images itself; Student's tails do little where images decide."""
    wins = null_wins(np.random.default_rng(3), share=0.5) + (np.arange(IMAGES) % 25 == 0)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(4000):
        seeds = wins[:, rng.integers(IMAGES, size=IMAGES)].mean(1)
        means.append(seeds.mean() + np.sqrt(SEEDS / (SEEDS - 1)) * (rng.choice(seeds, SEEDS).mean() - seeds.mean()))
    low, high, p = crossed(wins, 4000)
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.003)
    assert p == pytest.approx(2 * np.mean(np.array(means) <= 0), abs=0.02)


def null_wins(rng: np.random.Generator, share: float) -> np.ndarray:
    """D (SEEDS, IMAGES) without an effect; two seeds' entries of one image have the correlation ``share``."""
    common, own = (rng.choice(np.array([-1, 0, 1]), size, p=[0.1, 0.8, 0.1]) for size in (IMAGES, (SEEDS, IMAGES)))
    return np.where(rng.random((SEEDS, IMAGES)) < np.sqrt(share), common, own)


def nested(wins: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """The interval of a bootstrap that draws other images in each drawn seed."""
    rng = np.random.default_rng(seed)
    shares = np.stack([(wins == 1).mean(1), (wins == -1).mean(1), (wins == 0).mean(1)], axis=1)
    counts = rng.multinomial(IMAGES, shares[rng.integers(SEEDS, size=(draws, SEEDS))])
    low, high = np.quantile((counts[..., 0] - counts[..., 1]).mean(1) / IMAGES, [0.025, 0.975])
    return float(low), float(high)


SIZES = np.array([300, 150, 80, 40, 20, 10])
"""Test images of the classes of an unbalanced set of IMAGES."""


@pytest.mark.parametrize("effect", [0.0, 0.4])
def test_the_interval_of_the_mean_over_classes_covers(effect):
    """Two of six classes gain, two lose and the largest is as before: the mean over classes does not move, that over images
    does."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(len(SIZES)), SIZES)
    moved = effect * np.array([0, 1, 1, 0, -1, -1])[labels] / 2
    weights = over_classes(labels, labels)
    found = []
    for seed in range(REPETITIONS):
        wins = np.where(rng.random((SEEDS, IMAGES)) < np.abs(moved), np.sign(moved), null_wins(rng, 0.28)).astype(int)
        found.append(crossed(wins, DRAWS, seed, weights))
    assert np.mean([low <= 0 <= high for low, high, _ in found]) >= 0.93
    assert np.mean([p < 0.05 for _, _, p in found]) <= 0.07


@pytest.mark.parametrize("share", [0.28, 0.7])
def test_the_interval_covers(share):
    """Share 0.28 is LIFT against Sage on the mini world. A nested bootstrap takes images that seeds share for new ones."""
    rng = np.random.default_rng(1)
    worlds = [null_wins(rng, share) for _ in range(REPETITIONS)]
    ends = [crossed(wins, DRAWS, seed) for seed, wins in enumerate(worlds)]
    assert np.mean([low <= 0 <= high for low, high, _ in ends]) >= 0.93
    assert np.mean([p < 0.05 for _, _, p in ends]) <= 0.07
    if share == 0.7:
        assert np.mean([low <= 0 <= high for low, high in (nested(w, DRAWS, s) for s, w in enumerate(worlds))]) < 0.85
