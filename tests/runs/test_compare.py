import shutil

import numpy as np
import pytest
from scipy.stats import binomtest

from sagekit import Predictions, Run, UserError
from sagekit.runs.compare import (
    MEASURES,
    by_setting,
    check_comparable,
    confusions,
    differences,
    measures,
    per_class,
    said,
    t_half_width,
    table,
    won_and_lost,
)
from sagekit.runs.metrics import group_names, measure
from sagekit.runs.paired import EXACT, SIGNS, holm


def test_table_is_in_percent_with_intervals(runs):
    frame = table([runs["lift"], runs["sage"]])
    assert frame["method"].tolist() == ["lift", "sage"]
    accuracy = runs["sage"].metrics["results"]["single"]["all"]["accuracy"]
    assert frame["all"].iloc[1] == frame["mean"].iloc[1] == pytest.approx(100 * accuracy)
    assert frame["balanced"].all()
    for name in ("mean", "all"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    assert frame["head"].isna().all()  # no class has more than 30 images here


def test_differences_are_paired(runs):
    frame = differences(runs["zero_shot"], runs["sage"])
    a, b = runs["zero_shot"].predictions(), runs["sage"].predictions()
    assert frame["group"].tolist() == ["mean", "all", "medium", "tail"]
    assert frame["difference"].iloc[0] == pytest.approx(100 * (b.correct.mean() - a.correct.mean()))
    assert frame["images"].tolist()[0] == 192
    won, lost = (b.correct & ~a.correct).sum(), (a.correct & ~b.correct).sum()
    assert frame["p"].iloc[0] == pytest.approx(binomtest(won, won + lost).pvalue)
    assert frame["p_holm"].tolist()[1:] == pytest.approx(holm(frame["p"].to_numpy()[1:]).tolist())
    assert frame.drop(columns="group").iloc[0].equals(frame.drop(columns="group").iloc[1])  # one comparison, counted once
    assert set(frame["test"]) == {EXACT}


def test_t_interval_by_hand():
    assert t_half_width(np.array([1.0, 3.0])) == pytest.approx(12.706, abs=1e-3)  # t(0.975, 1) * sqrt(2) / sqrt(2)


def test_t_interval_of_one_value_is_unknown():
    assert np.isnan(t_half_width(np.array([1.0])))


@pytest.mark.parametrize(("old", "new", "reason"), [
    ('"plain circle"', '"round thing"', "other classes"),
    ('"test_digest": "', '"test_digest": "0', "their test images differ"),
])
def test_runs_that_cannot_be_compared_say_why(runs, tmp_path, old, new, reason):
    other = Run(shutil.copytree(runs["lift"].path, tmp_path / "other"))
    file = other.path / "metrics.json"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=reason):
        check_comparable([runs["sage"], other])


def test_unknown_view_or_groups(runs):
    with pytest.raises(UserError, match="unknown view or groups"):
        table([runs["sage"]], definition="mine")
    with pytest.raises(UserError, match="without five crops"):
        table([runs["sage"]], view="five_crops")


@pytest.fixture
def unbalanced(runs, tmp_path):
    """Two runs whose test set has lost half of the even classes' images."""
    found = []
    for name in ("zero_shot", "sage"):
        run = Run(shutil.copytree(runs[name].path, tmp_path / name))
        p = run.predictions()
        kept = (p.labels % 2 == 1) | (np.arange(len(p.labels)) % 2 == 0)
        run.write_predictions({"single": Predictions(*(None if x is None else x[kept] for x in (p.labels, p.z, p.z_v, p.z_t)),
                                                     p.s_v, p.s_t)})
        metrics = run.metrics
        results = {"single": measure(run.predictions(), 48, {g: run.groups(g) for g in metrics["groups"]})}
        run.write_metrics({**metrics, "results": results, "test_images": int(kept.sum())})
        found.append(run)
    return found


def test_on_an_unbalanced_test_set_mean_and_all_differ(unbalanced):
    base, other = unbalanced
    shown = table([base, other])
    assert not shown["balanced"].any()
    assert shown["mean"].iloc[1] == pytest.approx(100 * np.mean(other.metrics["results"]["single"]["per_class"]))
    assert shown["mean"].iloc[1] != shown["all"].iloc[1]
    frame = differences(base, other).set_index("group")
    assert frame.loc["mean", "difference"] == pytest.approx(shown["mean"].iloc[1] - shown["mean"].iloc[0])
    assert frame.loc["tail", "difference"] == pytest.approx(shown["tail"].iloc[1] - shown["tail"].iloc[0])
    assert frame["test"].to_dict() == {"mean": SIGNS, "all": EXACT, "medium": SIGNS, "tail": SIGNS}
    assert frame["p_holm"].tolist() == pytest.approx(holm(frame["p"].to_numpy()).tolist())
    assert per_class(base, other)["difference"].mean() == pytest.approx(frame.loc["mean", "difference"])


def test_all_measures_are_a_row_a_run(runs):
    frame = measures([runs["lift"], runs["sage"]])
    result = runs["sage"].metrics["results"]["single"]
    row = frame.iloc[1]
    assert list(frame) == ["run", "balanced", *group_names(), *MEASURES]
    assert row["mean"] == pytest.approx(100 * result["mean"]["accuracy"])
    assert row["top5"] == pytest.approx(100 * result["top5"])
    assert row["negative_log_likelihood"] == result["negative_log_likelihood"]
    assert row["mean"] <= row["top5"] <= 100


def test_what_numbers_are_of_is_said_with_the_thresholds(runs):
    text = said(runs["sage"], "single", "own")
    assert "192 test images, single view" in text
    assert "head > 100, tail < 20 training images" in text
    assert "thirds of the classes" in said(runs["sage"], "single", "thirds")
    assert ">" not in said(runs["sage"], "single", "thirds")


def test_classes_one_by_one(runs):
    frame = per_class(runs["zero_shot"], runs["sage"])
    a, b = runs["zero_shot"].predictions(), runs["sage"].predictions()
    assert len(frame) == 48
    assert frame["images"].is_monotonic_decreasing
    assert (frame["tested"] == 4).all()
    row = frame.iloc[7]
    own = a.labels == row["label"]
    assert row["base"] == pytest.approx(100 * a.correct[own].mean())
    assert row["difference"] == pytest.approx(100 * (b.correct[own].mean() - a.correct[own].mean()))
    assert frame["p_holm"].tolist() == pytest.approx(holm(frame["p"].to_numpy()).tolist())
    assert frame["p_holm"].min() <= 48 * frame["p"].min()
    assert row["group"] == ("medium" if row["images"] >= 20 else "tail")
    assert frame["difference"].mean() == pytest.approx(differences(runs["zero_shot"], runs["sage"])["difference"].iloc[0])


def test_confusions_are_counted(runs):
    frame = confusions(runs["zero_shot"], runs["sage"])
    a, b = runs["zero_shot"].predictions(), runs["sage"].predictions()
    names = runs["sage"].metrics["class_names"]
    row = frame.iloc[0]
    pair = names.index(row["true"]), names.index(row["taken_for"])
    for run, column in ((a, "base"), (b, "other")):
        assert row[column] == ((run.labels == pair[0]) & (run.logits.argmax(1) == pair[1])).sum()
    assert frame["change"].abs().is_monotonic_decreasing
    assert (frame["true"] != frame["taken_for"]).all()
    assert frame["change"].sum() == (~b.correct).sum() - (~a.correct).sum()


def test_won_and_lost_images(runs):
    won, lost = won_and_lost(runs["zero_shot"], runs["sage"])
    a, b = runs["zero_shot"].predictions().correct, runs["sage"].predictions().correct
    assert len(won) - len(lost) == b.sum() - a.sum()
    assert b[won].all()
    assert not b[lost].any()


def test_runs_of_one_setting_are_together(runs, tmp_path):
    for name, old, new in (("again", "seed: 0\n", "seed: 4\n"), ("other", "gamma: 0.05", "gamma: 0.2")):
        shutil.copytree(runs["sage"].path, tmp_path / name)
        text = (tmp_path / name / "config.yaml").read_text()
        (tmp_path / name / "config.yaml").write_text(text.replace(f"\n{old}", f"\n{new}"))
    found = by_setting([Run(tmp_path / "again"), Run(tmp_path / "other"), runs["sage"], runs["lift"]])
    assert {tuple(run.name for run in group) for group in found.values()} == {("lift",), ("sage", "again"), ("other",)}
    names = {group[0].name: name for name, group in found.items()}
    assert names["lift"].startswith("mini lift, ")
    assert "gamma=0.2" in names["other"]
    assert "gamma" not in names["sage"]
