"""Every run of a folder is listed, and a broken one with its reason."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from sagekit import UserError
from sagekit.runs import listing
from sagekit.runs.compare import table


@pytest.fixture
def folder(runs, tmp_path):
    for name in ("lift", "sage"):
        shutil.copytree(runs[name].path, tmp_path / name)
    return tmp_path


def test_a_line_says_what_the_table_says(folder, runs):
    lines = pd.DataFrame([listing.row(path) for path in listing.run_paths(folder)])
    assert lines[["run", "status", "problem"]].to_numpy().tolist() == [["lift", "finished", ""], ["sage", "finished", ""]]
    shown = listing.shown(lines, "single", "own")
    expected = table([runs["lift"], runs["sage"]])
    columns = ["mean", "balanced", "all", "all_low", "all_high", "medium", "tail", "parameters", "seconds", "seed", "method"]
    pd.testing.assert_frame_equal(shown[columns], expected[columns])
    assert listing.shown(lines, "five_crops", "own").empty


def _replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def _json(change):
    def write(path):
        metrics = json.loads((path / "metrics.json").read_text())
        change(metrics)
        (path / "metrics.json").write_text(json.dumps(metrics))
    return write


def _arrays(**arrays):
    return lambda path: np.savez(path / "predictions.npz", **arrays)


WHOLE = {"labels": np.zeros(192, int), "scalars": np.zeros(2), "z": np.zeros((192, 48), np.float16)}


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda p: (p / "config.yaml").unlink(), "no config.yaml"),
    (lambda p: (p / "config.yaml").write_text("a: ["), "not valid YAML"),
    (lambda p: (p / "config.yaml").write_text("nonsense: 1"), "is not a list of 'key: value' settings with a method"),
    (lambda p: (p / "config.yaml").open("a").write("nonsense: 1\n"), "no setting 'nonsense'"),
    (lambda p: _replace(p / "config.yaml", "format: 3\n", ""), "run format 1 and this sagekit reads 3"),
    (lambda p: _replace(p / "config.yaml", "preset_name: mini\n", "preset_name: foo\n"), "no preset 'foo'"),
    (lambda p: (p / "metrics.json").write_text('{"results": {'), "damaged"),
    (_json(lambda m: m["results"].clear()), "without five crops|not the record|measured"),
    (_json(lambda m: m.pop("groups") and m["results"]["single"].pop("groups")), "not the record of a run"),
    (_json(lambda m: m["class_counts"].pop()), "47 counts for 48 classes"),
    (lambda p: (p / "predictions.npz").unlink(), "no predictions.npz"),
    (lambda p: (p / "predictions.npz").write_bytes((p / "predictions.npz").read_bytes()[:-400]), "damaged"),
    (_arrays(**{**WHOLE, "z": np.zeros((192, 47), np.float16)}), r"'z' has the shape \(192, 47\)"),
    (_arrays(**{**WHOLE, "labels": np.zeros(5, int)}), r"'labels' has the shape \(5,\)"),
    (_arrays(**{**WHOLE, "z_t": np.zeros((1, 48), np.float16)}), "'z_t' has the shape"),
    (_arrays(labels=WHOLE["labels"]), "'scalars' has the shape None"),
    (lambda p: (p / "history.csv").write_text("a,b\n1,2\n"), "columns are missing"),
])
def test_a_broken_run_is_listed_with_its_reason(folder, damage, reason):
    damage(folder / "sage")
    lines = pd.DataFrame([listing.row(path) for path in listing.run_paths(folder)])
    assert lines["status"].tolist() == ["finished", "broken"]
    assert pd.Series([lines["problem"].iloc[1]]).str.contains(reason).all(), lines["problem"].iloc[1]
    assert "\n" not in lines["problem"].iloc[1]


def test_an_unfinished_run_says_how_far_it_is(folder):
    for name in ("metrics.json", "predictions.npz", "weights.safetensors"):
        (folder / "sage" / name).unlink()
    line = listing.row(folder / "sage")
    assert (line["status"], line["done"], line["epochs"]) == ("unfinished", 1, 1)
    (folder / "sage" / "error.txt").write_text("UserError: no\n")
    assert listing.row(folder / "sage")["problem"] == "UserError: no"


def test_the_stamp_changes_with_a_file(folder):
    before = listing.stamp(folder / "sage")
    assert listing.stamp(folder / "sage") == before
    (folder / "sage" / "error.txt").write_text("x")
    assert listing.stamp(folder / "sage") != before


def test_folders_and_sweeps_are_found(folder, runs):
    assert listing.folders(folder / "nothing") == []
    (folder / "points").mkdir()
    shutil.copytree(runs["lift"].path, folder / "points" / "a")
    (folder / "study").mkdir()
    (folder / "study" / "results.csv").write_text("row,seed,path,error,status\na,0,p,,open\n")
    assert listing.folders(folder) == [folder, folder / "points"]
    assert listing.sweeps(folder) == [folder / "study"]
    assert listing.read_sweep(folder / "study")["status"].tolist() == ["open"]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "row,seed\n\"x"])
def test_a_damaged_sweep_is_one_line(tmp_path, content):
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        listing.read_sweep(tmp_path)
