"""What writes docs/results, on a tenth of the mini world: the files, what made them, and the page's sections."""

import json
import subprocess

import measure
import pandas as pd
import pytest
import results
from conftest import SMALL

from sagekit import UserError
from sagekit.studies import choose, study

pytestmark = pytest.mark.slow
TINY = {**SMALL, "largest_class": 10, "val_per_class": 4, "share_stages": False}


@pytest.fixture
def out(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setitem(measure.STUDIES, "fit", measure.Study("fit", 2, TINY))
    monkeypatch.setattr(measure, "OUT", folder)
    monkeypatch.setattr(measure, "MADE", folder / "made.json")
    monkeypatch.setattr(measure, "commit", lambda: "abc1234")
    monkeypatch.setattr(results, "FOLDER", folder)
    return folder


def test_a_study_is_measured_and_shown(out, tmp_path):
    measure.study("fit", tmp_path / "runs")
    made = json.loads((out / "made.json").read_text())["fit"]
    assert made["command"].startswith("sagekit study fit --seeds 2 --set largest_class=10")
    assert (made["commit"], made["seeds"], made["test_images"]) == ("abc1234", 2, 192)
    text = results.section("fit", made)
    assert "commit abc1234" in text
    for row in pd.read_csv(out / "fit.csv").to_dict("records"):
        assert f"| {row['row']} | " in text
        assert f"{row['mean']:.1f} ± {row['mean_half']:.1f}" in text
    assert "8 comparisons" in text
    after = pd.read_csv(out / "fit-afterwards.csv")
    assert len(after) == 8
    assert all(text.count(f"| {reading} |") >= 2 for reading in after["reading"])


def test_what_validation_chose_and_the_contrast_are_shown(out, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "TAUS", (0.5, 1.1, 1.5))
    monkeypatch.setattr(study, "RATIOS", (10.0,))
    monkeypatch.setattr(choose, "SEEDS", 1)
    monkeypatch.setitem(measure.STUDIES, "mismatch", measure.Study("mismatch", 1, TINY))
    measure.study("mismatch", tmp_path / "runs")
    tried = pd.read_csv(out / "mismatch-choices.csv")
    text = results.section("mismatch", json.loads((out / "made.json").read_text())["mismatch"])
    for row in tried[tried["chosen"]].to_dict("records"):
        assert f"| {row['row']} | {row['candidate']} |" in text
    contrast = pd.read_csv(out / "mismatch-contrast.csv").set_index("row")
    assert len(contrast) == 3
    found = pd.read_csv(out / "mismatch.csv").set_index("row")
    gain = {world: found.loc[f"10, mismatch {world}: CF", "mean_difference"] for world in ("on", "off")}
    assert contrast.loc["10, mismatch on: CF", "mean_difference"] == pytest.approx(gain["on"] - gain["off"], abs=0.002)


def test_numbers_that_no_commit_has_are_refused(monkeypatch):
    def changed(*arguments, **options):
        return subprocess.CompletedProcess(arguments, 0, stdout=" M sagekit/paper.py\n")

    monkeypatch.setattr(measure.subprocess, "run", changed)
    with pytest.raises(UserError, match="differs from its last commit"):
        measure.commit()
