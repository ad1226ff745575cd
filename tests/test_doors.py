"""What people bring that cannot be used: one line that names the thing and the way out, exit 2, and nothing left behind."""

import json
import re

import pytest
from conftest import tree, write_images

from sagekit.cli import main

TWO = ("train/ant/3", "train/bee/3", "test/ant/1", "test/bee/1")


def call(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return end.value.code, shown.out, shown.err


def everything(root):
    return {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


def refused(arguments, line, root, capsys):
    before = everything(root)
    code, _, err = call(arguments, capsys)
    assert code == 2, err
    said = [text for text in err.splitlines() if text.startswith("sagekit: ")]
    assert len(said) == 1
    assert err.rstrip().endswith(said[0])
    assert re.search(line, said[0]), said[0]
    assert everything(root) == before


def damaged(root, name, content=b"no image"):
    (root / name).write_bytes(content)


def text(root, name, content, encoding="utf-8"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content.encode(encoding))


FOLDERS = {
    "no folder": ([], None, [], r"no folder at .*data \(it is not there\); name the folder of images with --data-root"),
    "a file": ([], lambda r: text(r.parent, "data", "x"), [], r"no folder at .*data \(it is a file\)"),
    "nothing in it": ([], lambda r: r.mkdir(), [], r"has 0 class folder\(s\) with images, and at least 2 are needed"),
    "one class": (["ant/3"], None, [], r"has 1 class folder\(s\) with images"),
    "images alone": (["3"], None, [], r"found: 3 images without a class folder"),
    "zips alone": ([], lambda r: text(r, "x.zip", "x"), [], r"has 0 class folder\(s\).*1 \.zip"),
    "images and folders": (["2", "ant/3", "bee/3"], None, [], r"mixes images \(0\.jpg, \.\.\.\) and class folders \(ant"),
    "a class in a class": (["ant/2", "ant/red/2", "bee/3"], None, [],
                           r"data/ant mixes images \(0\.jpg, \.\.\.\) and folders of images"),
    "images beside classes in a split": ([*TWO, "train/2"], None, [], r"data/train mixes images"),
    "the folder above": ([f"photos/{place}" for place in TWO], None, [],
                         r"has splits; name it with --data-root .*data/photos\."),
    "the folder far above": ([f"a/b/{place}" for place in TWO], None, [], r"--data-root .*data/a/b\."),
    "a test without a train": (["test/ant/1", "test/bee/1", "ant/3", "bee/3"], None, [], r"has test/ but no train folder"),
    "two validations": ([*TWO, "val/ant/1", "Valid/ant/1"], None, [], r"has two folders for val: Valid and val; keep one"),
    "a split's own name": (["train/3", "ant/3", "bee/3"], None, [],
                           r"is named as a split and holds images, but no class folders"),
    "an empty class": (["ant/3", "bee/3"], lambda r: (r / "cat").mkdir(), [],
                       r"class folder cat has no images that can be read"),
    "a class of another kind": (["ant/3", "bee/3"], lambda r: text(r, "cat/a.heic", "x"), [],
                                r"class folder cat has no images"),
    "a class of one": (["ant/3", "bee/3", "cat/1"], None, [], r"class 'cat' has 1 image\(s\) and none of them for the test"),
    "a class in training alone": ([*TWO, "train/cat/4"], None, [],
                                  r"class 'cat' has 4 image\(s\) and none.*thin_classes=train"),
    "a class in the test alone": ([*TWO, "test/cat/4"], None, [], r"class 'cat' has no training images \(and 4 in the test\)"),
    "a test that takes all": (["ant/3", "bee/9"], None, ["test_per_class=3"], r"class 'ant' has 3 image\(s\) and none of them"),
    "one class is left": (["ant/3", "bee/1"], None, ["thin_classes=leave_out"], r"only 1 class\(es\) would be left"),
    "a ratio too far": (["ant/9", "bee/9"], None, ["imbalance_ratio=50"], r"imbalance_ratio 50 leaves .* at most 7 goes"),
    "no images in a jpg": (["ant/3", "bee/3"], lambda r: damaged(r, "ant/1.jpg"), [],
                           r"^sagekit: 1 of 6 files .*1\.jpg \(no image\)"),
    "an empty file": (["ant/3", "bee/3"], lambda r: damaged(r, "bee/1.jpg", b""), [], r"bee/1\.jpg \(empty\)\. Mend them"),
    "a program in a jpg": (["ant/3", "bee/3"], lambda r: damaged(r, "ant/1.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n"), [],
                           r"no image"),
    "a damaged test image": (TWO, lambda r: damaged(r, "test/ant/0.jpg"), [], r"1 of 2 files of test are damaged"),
    "names for nobody": (["ant/3", "bee/3"], lambda r: text(r, "classnames.txt", "wolf a wolf\n"), [],
                         r"no line starts with a class"),
    "half a name": (["ant/3", "bee/3"], lambda r: text(r, "classnames.txt", "ant\nbee b\n"), [], r"line 1: 'ant' has no name"),
    "no templates": (["ant/3", "bee/3"], None, ["templates_file=none.txt"], r"there is no file none\.txt"),
    "a template without a class": (["ant/3", "bee/3"], lambda r: text(r, "t.txt", "a photo\n"), ["templates_file={root}/t.txt"],
                                   r"line 1: 'a photo' does not say where the class stands"),
    "an empty template file": (["ant/3", "bee/3"], lambda r: text(r, "t.txt", "\n"), ["templates_file={root}/t.txt"],
                               r"holds no prompt"),
    "texts for some": (["ant/3", "bee/3"], lambda r: text(r, "t.json", '{"ant": ["x"]}'), ["class_texts={root}/t.json"],
                       r"has no sentence for 1 class\(es\): bee"),
    "texts that are a list": (["ant/3", "bee/3"], lambda r: text(r, "t.json", "[1]"), ["class_texts={root}/t.json"],
                              r"it must be"),
    "texts that are numbers": (["ant/3", "bee/3"], lambda r: text(r, "t.json", '{"ant": [1]}'), ["class_texts={root}/t.json"],
                               r"it must be"),
    "texts that are no JSON": (["ant/3", "bee/3"], lambda r: text(r, "t.json", "{"), ["class_texts={root}/t.json"],
                               r"is not valid JSON"),
    "a table without columns": (["ant/3", "bee/3"], lambda r: text(r, "t.csv", "a,b\n1,2\n"), ["class_texts={root}/t.csv"],
                                r"must name the columns class,text"),
    "too large a batch": (["ant/3", "bee/3"], None, ["batch_size=99"], r"batch_size is 99 and the training set has 4 images"),
    "a share of all": (["ant/3", "bee/3"], None, ["test_share=1"], r"setting 'test_share'"),
    "thresholds that cross": (["ant/3", "bee/3"], None, ["tail_below=50", "head_above=20"],
                              r"tail_below 50 is above head_above 20"),
    "an unknown rule": (["ant/3", "bee/3"], None, ["thin_classes=drop"],
                        r"setting 'thin_classes': .*'refuse', 'train' or 'leave_out'"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_used(case, tmp_path, capsys):
    places, more, sets, line = FOLDERS[case]
    root = tmp_path / "data"
    if places:
        tree(root, *places)
    if more is not None:
        more(root)
    sets = [part for change in ["batch_size=2", *sets] for part in ("--set", change.format(root=root))]
    refused(["train", "--preset", "folder", "--method", "scratch", "--data-root", root, "--out", tmp_path / "run", *sets], line,
            tmp_path, capsys)
    if case not in ("no folder", "a file", "too large a batch"):  # which are no folder, or no matter of the data
        refused(["data", root, *(sets[2:])], line.lstrip("^").removeprefix("sagekit: "), tmp_path, capsys)


LISTS = {
    "no list": (None, "data/a/0.jpg 0\n", [], r"no image list at .*train\.txt; name the folder that holds it with --data-root"),
    "empty": ("", "x 0\n", [], r"train\.txt lists no images"),
    "blank lines": ("\n \n", "x 0\n", [], r"train\.txt lists no images"),
    "words for labels": ("a/0.jpg 0\na/1.jpg ant\n", "", [], r"line 2: 'a/1\.jpg ant' is not 'path label'"),
    "a word for the first label": ("a/0.jpg ant\na/1.jpg 0\n", "", [], r"line 1: 'a/0\.jpg ant' is not 'path label'"),
    "labels below 0": ("a/0.jpg -1\n", "", [], r"line 1: 'a/0\.jpg -1' is not 'path label'"),
    "labels with a fraction": ("a/0.jpg 0.5\n", "", [], r"is not 'path label' with a label of 0 or more"),
    "no labels": ("a/0.jpg\n", "", [], r"line 1: 'a/0\.jpg' is not 'path label'"),
    "a header in the middle": ("a/0.jpg 0\npath label\n", "", [], r"line 2: 'path label' is not 'path label'"),
    "files that are not there": ("a/0.jpg 0\nb/7.jpg 1\nb/8.jpg 1\n", "a/0.jpg 0\n", [],
                                 r"train\.txt: 2 of 3 files are not there: .*7\.jpg"),
    "a hole in the labels": ("a/0.jpg 0\nb/0.jpg 2\n", "a/1.jpg 0\nb/1.jpg 2\n", [], r"class 'label 1' has no training images"),
    "a class without a test": ("a/0.jpg 0\nb/0.jpg 1\n", "a/1.jpg 0\n", [],
                               r"class 'b' has 1 image\(s\) and none of them for the test"),
    "one class": ("a/0.jpg 0\n", "a/1.jpg 0\n", [], r"has one class; at least 2 are needed"),
    "not a text": ("a/0.jpg 0\n\0", "a/0.jpg 0\n", [], r"train\.txt is no text file"),
    "no validation list": ("a/0.jpg 0\nb/0.jpg 1\n", "a/1.jpg 0\nb/1.jpg 1\n", ["val_list=val.txt"],
                           r"no image list at .*val\.txt; .*val_list="),
    "a folder for a file": ("a 0\nb/0.jpg 1\n", "a/1.jpg 0\nb/1.jpg 1\n", [], r"1 of 2 files are not there: .*/a"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_that_cannot_be_used(case, tmp_path, capsys):
    train, test, sets, line = LISTS[case]
    for folder in "ab":
        write_images(tmp_path / "data" / folder, 2)
    for name, content in (("train.txt", train), ("test.txt", test)):
        if content is not None:
            text(tmp_path / "data", name, content)
    changes = ["batch_size=2", "train_list=train.txt", "test_list=test.txt", *sets]
    refused(["train", "--preset", "list", "--method", "scratch", "--data-root", tmp_path / "data", "--out", tmp_path / "run",
             *(part for change in changes for part in ("--set", change))], line, tmp_path, capsys)


def test_names_without_words_are_refused_by_methods_that_read_text_alone(tmp_path, capsys):
    root = tree(tmp_path / "data", "1/3", "2/3")
    arguments = ["train", "--preset", "folder", "--data-root", root, "--out", tmp_path / "run", "--set", "batch_size=2"]
    line = (r"2 class\(es\) have no name that a text can say, such as '1', and \w+ reads names; write .*classnames\.txt, a "
            r"line 'folder name' for each")
    for method in ("zero_shot", "lift", "sage"):
        changes = ["--set", "backbone=mini", "--set", "pretrained=", "--method", method]
        refused([*(arguments[:-2] if method == "zero_shot" else arguments), *changes], line, tmp_path, capsys)
    assert call(["data", root], capsys)[0] == 0


@pytest.mark.parametrize(("place", "line"), [
    ("nowhere", "there is no folder, list or preset 'nowhere'"), ("inat2019", "Did you mean 'inat2018'"),
    ("places-lt", "no image list at")])
def test_places_that_are_none(place, line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(["data", place], line, tmp_path, capsys)


def test_data_says_what_it_understood(tmp_path, capsys):
    root = tree(tmp_path / "my photos", "train/big_ant/6", "train/bee/3", "Test/big_ant/2", "Test/bee/2", "train/.git/1")
    text(root, "train/bee/notes.txt", "x")
    code, out, _ = call(["data", root, "--plot", tmp_path / "curve.html"], capsys)
    shown = " ".join(out.split())
    assert code == 0
    for part in ("my photos: 2 classes of 6 to 3 training images; train 9, test 4 (no validation images)", "big ant 6 2",
                 "Test/ is test", "1 hidden or system entry left out", "1 file(s) of other kinds left out: 1 .txt",
                 "big_ant -> big ant", "13 files opened: 13 JPEG; 13 of 48 x 40", "thirds: head 1, medium 1, tail 0"):
        assert part in shown, part
    assert "plotly" in (tmp_path / "curve.html").read_text(encoding="utf-8")
    told = json.loads(call(["data", root, "--json"], capsys)[1])
    assert [row["name"] for row in told["classes"]] == ["big ant", "bee"]


def test_a_list_is_a_place_and_its_sisters_are_found(tmp_path, capsys):
    for split in ("train", "val", "test"):
        paths = [write_images(tmp_path / split / name, 2)[0] for name in ("ant", "bee")]
        text(tmp_path, f"x_{split}.txt", "".join(f"{path.relative_to(tmp_path)} {i}\n" for i, path in enumerate(paths)))
    code, out, _ = call(["data", tmp_path / "x_train.txt"], capsys)
    assert code == 0
    assert "train 2, val 2, test 2" in " ".join(out.split())


def test_damaged_files_are_all_listed_and_training_would_refuse(tmp_path, capsys):
    root = tree(tmp_path / "data", *TWO)
    for name in ("train/ant/0.jpg", "test/bee/0.jpg"):
        damaged(root, name)
    code, out, err = call(["data", root], capsys)
    assert code == 2
    assert "damaged: 2" in out
    assert all(name in out for name in ("train/ant/0.jpg", "test/bee/0.jpg"))
    assert "training would refuse: 1 of 6 files of train are damaged" in err
    assert call(["data", root, "--set", "bad_images=skip", "--set", "thin_classes=train"], capsys)[0] == 0


@pytest.mark.slow
def test_an_own_folder_from_end_to_end(tmp_path, capsys):
    """A folder with val and nested classes and one damaged file: look, train, measure on validation, predict."""
    places = [f"{split}/insects/{name}/{n}" for split, n in (("train", 8), ("val", 2), ("test", 3)) for name in ("ant", "bee")]
    root = tree(tmp_path / "data", *places)
    damaged(root, "train/insects/ant/0.jpg")
    skip = ["--set", "bad_images=skip"]
    assert call(["data", root, *skip], capsys)[0] == 0
    run = tmp_path / "run"
    sets = ["--set", "epochs=1", "--set", "batch_size=4", "--set", "warmup_epochs=0", "--set", "workers=0", *skip]
    arguments = ["train", "--preset", "folder", "--method", "scratch", "--data-root", root, "--out", run, *sets]
    code, _, err = call(arguments, capsys)
    assert code == 0, err
    assert "data: 2 classes of 8 to 7 training images; train 15, val 4, test 6" in err
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["class_names"], metrics["test_images"]) == (["ant", "bee"], 6)
    assert any("damaged" in note for note in metrics["notes"])
    assert [name.removeprefix(f"{root}/") for name in metrics["skipped_files"]] == ["train/insects/ant/0.jpg"]
    assert json.loads((run / "metrics-val.json").read_text())["images"] == 4
