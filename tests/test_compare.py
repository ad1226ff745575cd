import shutil

import numpy as np
import pytest

from sagekit import Run, UserError
from sagekit.compare import check_comparable, differences, t_half_width, table


def test_table_is_in_percent_with_intervals(runs):
    frame = table([runs["lift"], runs["sage"]])
    assert frame["method"].tolist() == ["lift", "sage"]
    accuracy = runs["sage"].metrics["results"]["single"]["all"]["accuracy"]
    assert frame["all"].iloc[1] == pytest.approx(100 * accuracy)
    assert (frame["all_low"] <= frame["all"]).all()
    assert (frame["all"] <= frame["all_high"]).all()
    assert frame["head"].isna().all()  # no class has more than 30 images here


def test_differences_are_paired(runs):
    frame = differences(runs["zero-shot"], runs["sage"])
    a, b = runs["zero-shot"].predictions(), runs["sage"].predictions()
    assert frame["group"].tolist() == ["all", "medium", "tail"]
    assert frame["difference"].iloc[0] == pytest.approx(100 * (b.correct.mean() - a.correct.mean()))
    assert frame["images"].tolist()[0] == 192


def test_t_interval_by_hand():
    assert t_half_width(np.array([1.0, 3.0])) == pytest.approx(12.706, abs=1e-3)  # t(0.975, 1) * sqrt(2) / sqrt(2)


def test_t_interval_of_one_value_is_unknown():
    assert np.isnan(t_half_width(np.array([1.0])))


@pytest.mark.parametrize(("old", "new", "reason"), [
    ('"plain circle"', '"round thing"', "other classes"),
    ('"test_images": 192', '"test_images": 191', "another test set"),
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
