import json

import numpy as np
import pytest
from conftest import own, tree, write_images
from PIL import Image

from sagekit.data import check, heads
from sagekit.data.longtail import GROUPS
from sagekit.settings import DataSettings


@pytest.fixture
def odd(tmp_path):
    """Two classes with one file of each kind of trouble."""
    root = tree(tmp_path / "photos", "train/ant/6", "train/bee/6", "test/ant/3", "test/bee/3")
    ant = root / "train" / "ant"
    (ant / "1.jpg").write_bytes((ant / "1.jpg").read_bytes()[:-300])
    (ant / "2.jpg").write_bytes(b"")
    (ant / "3.jpg").write_bytes(b"<html>not found</html>")
    Image.new("RGB", (40, 30), "red").save(ant / "4.jpg", "PNG")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(ant / "5.tif")
    Image.new("RGB", (8, 40)).save(root / "train" / "bee" / "thin.png")
    (root / "test" / "ant" / "copy.jpg").write_bytes((root / "train" / "bee" / "0.jpg").read_bytes())
    return root


def test_every_file_is_opened_and_what_is_wrong_is_listed(odd):
    report = check.look(own(odd), workers=1, show=False)
    assert report.files == 21
    damaged = dict(zip(report.damaged["file"], report.damaged["why"], strict=True))
    assert damaged.keys() == {"train/ant/1.jpg", "train/ant/2.jpg", "train/ant/3.jpg"}
    assert (damaged["train/ant/2.jpg"], damaged["train/ant/3.jpg"]) == ("empty", "no image")
    strange = dict(zip(report.odd["file"], report.odd["why"], strict=True))
    assert "is PNG, not JPEG as its name says" in strange["train/ant/4.jpg"]
    assert "16-bit" in strange["train/ant/5.tif"]
    assert "8 x 40 pixels" in strange["train/bee/thin.png"]
    assert report.duplicates.to_dict("records") == [
        {"first": "train/bee/0.jpg", "second": "test/ant/copy.jpg", "where": "splits train and test, classes bee and ant"}]
    assert report.formats == {"JPEG": 15, "PNG": 2, "TIFF": 1}
    assert report.refusal.startswith("3 of 14 files of train are damaged")


def test_bad_files_that_may_be_skipped_are_no_refusal(odd):
    report = check.look(own(odd, bad_images="skip"), workers=1, show=False)
    assert report.refusal == ""
    assert report.data.class_counts.tolist() == [4, 7]


def test_files_that_are_damaged_inside_are_a_refusal_even_where_bad_ones_are_skipped(tmp_path):
    """Training would find them in the middle."""
    root = tree(tmp_path, "train/ant/3", "train/bee/3", "test/ant/1", "test/bee/1")
    file = root / "train" / "ant" / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 4, (90, 90, 3), dtype=np.uint8)).save(file)
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT")
    content[start - 4 : start] = (16).to_bytes(4, "big")  # the pixels' chunk says that it ends early: no chunk follows
    file.write_bytes(content)
    assert not heads.bad_files([file])
    report = check.look(own(root, bad_images="skip"), workers=1, show=False)
    assert report.refusal.startswith("1 file(s) begin and end well but are damaged inside, where training would stop: ")
    assert "x.png. Mend or remove them" in report.refusal


def test_the_first_look_and_the_whole_one_agree(odd):
    """Heads and ends find what decoding finds, in these files."""
    paths = sorted(odd.rglob("*.*"))
    opened = list(check.opened(paths, 1, False))
    assert list(heads.bad_files(paths)) == [place for place, one in enumerate(opened) if one.problem]
    good = [place for place, one in enumerate(opened) if not one.problem]
    assert list(heads.sizes([paths[i] for i in good])) == [(opened[i].width, opened[i].height) for i in good]


def test_a_picture_that_is_cut_anywhere_is_found(tmp_path):
    (path,) = write_images(tmp_path, 1, size=80)
    whole = path.read_bytes()
    for kept in np.linspace(0, len(whole) - 1, 30).astype(int):
        path.write_bytes(whole[:kept])
        assert heads.bad_files([path]), kept


def test_many_processes_see_the_same(odd):
    paths = sorted(odd.rglob("*.*"))
    assert list(check.opened(paths, 1, False)) == list(check.opened(paths, 2, False))


def test_classes_have_names_counts_and_groups(tmp_path):
    tree(tmp_path, "train/ant/4", "train/stag_beetle/9", "test/ant/1", "test/stag_beetle/1")
    report = check.look(own(tmp_path, head_above=8, tail_below=5), workers=1, show=False)
    assert check.classes(report.data).to_dict("records") == [
        {"key": "stag_beetle", "name": "stag beetle", "train": 9, "test": 1, "group": "head"},
        {"key": "ant", "name": "ant", "train": 4, "test": 1, "group": "tail"}]


def test_a_report_is_plain_json(odd):
    told = json.loads(json.dumps(check.look(own(odd, bad_images="skip"), workers=1, show=False).plain()))
    assert told["splits"] == {"train": 11, "test": 7}
    assert told["groups"]["own"].keys() == set(GROUPS)
    assert len(told["classes"]) == 2
    assert len(told["damaged"]) == 3


@pytest.mark.slow
def test_sets_without_files_are_told_too():
    report = check.look(DataSettings(largest_class=30, imbalance_ratio=10, test_per_class=1, val_per_class=1), show=False)
    assert (report.files, report.refusal, len(check.classes(report.data))) == (0, "", 48)
