import pytest
from conftest import write_images
from hypothesis import given
from hypothesis import strategies as st

from sagekit import UserError, load_data
from sagekit.data import lists
from sagekit.settings import DataSettings


@pytest.fixture
def places(tmp_path):
    """A small data set in the format of the community's lists."""
    lines = {"train": [], "test": []}
    for label, (folder, train) in enumerate({"a/airfield": 3, "b/barn/indoor": 2, "b/barn/outdoor": 1}.items()):
        for split, count in (("train", train), ("test", 1)):
            for path in write_images(tmp_path / split / folder, count, seed=label):
                lines[split].append(f"{path.relative_to(tmp_path)} {label}")
    for split in lines:
        (tmp_path / f"Places_LT_{split}.txt").write_text("\n".join(lines[split]) + "\n")
    return tmp_path


def listed(root, name="Places_LT", **changes):
    return DataSettings(**{"dataset": "list", "data_root": root, "train_list": f"{name}_train.txt",
                           "test_list": f"{name}_test.txt", "imbalance_ratio": None, **changes})


def test_lists_are_read(places):
    data = load_data(listed(places))
    assert data.class_counts.tolist() == [3, 2, 1]
    assert data.class_names == ["airfield", "barn indoor", "barn outdoor"]
    assert (len(data.test), data.name, data.val) == (3, "Places_LT_train", None)


def real(root, name, lines):
    """Files of the names in the community's lists, and the lists themselves."""
    made = write_images(root / "made", 1)[0]
    for line in lines:
        file = root / line.rsplit(" ", 1)[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.symlink_to(made)
    (root / name).write_text("\n".join(lines) + "\n")


def test_imagenet_s_lines(tmp_path):
    lines = ["train/n01440764/n01440764_190.JPEG 0", "train/n01440764/n01440764_191.JPEG 0",
             "train/n01443537/n01443537_2.JPEG 1"]
    real(tmp_path, "ImageNet_LT_train.txt", lines)
    real(tmp_path, "ImageNet_LT_val.txt", ["val/n01440764/ILSVRC2012_val_00000293.JPEG 0", "val/n01443537/x.JPEG 1"])
    real(tmp_path, "ImageNet_LT_test.txt", ["val/n01440764/ILSVRC2012_val_00002138.JPEG 0", "val/n01443537/y.JPEG 1"])
    data = load_data(listed(tmp_path, "ImageNet_LT", val_list="ImageNet_LT_val.txt"))
    assert data.keys == data.wordless == ["n01440764", "n01443537"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 2, "test": 2}


def test_places_lines(tmp_path):
    lines = ["data_256/a/airfield/00000001.jpg 0", "data_256/b/barn/indoor/1.jpg 1", "data_256/t/track/out-door_1/1.jpg 2"]
    for split in ("train", "test"):
        real(tmp_path, f"Places_LT_{split}.txt", lines)
    data = load_data(listed(tmp_path))
    assert data.class_names == ["airfield", "barn indoor", "track out-door 1"]
    assert any("3 file(s) are in both train and test" in note for note in data.notes)


def test_inaturalist_s_lines(tmp_path):
    lines = ["train_val2018/Plantae/7477/3b60c9486db1d2ee875f11a669fbde4a.jpg 1", "train_val2018/Plantae/3/a.jpg 0",
             "train_val2018/Aves/25/b.jpg 2"]
    for split in ("train", "val"):
        real(tmp_path, f"iNaturalist18_{split}.txt", lines)
    settings = listed(tmp_path, "iNaturalist18", test_list="iNaturalist18_val.txt")
    data = load_data(settings)
    assert data.keys == data.wordless == ["Plantae/3", "Plantae/7477", "Aves/25"]
    (tmp_path / "categories.json").write_text(
        '[{"id": 7477, "name": "Rosa canina"}, {"id": 3, "name": "Acer rubrum"}, {"id": 25, "name": "Corvus corax"}]')
    data = load_data(settings)
    assert (data.class_names, data.wordless) == (["Acer rubrum", "Rosa canina", "Corvus corax"], [])


@pytest.mark.parametrize(("rows", "said"), [
    ("train/0.jpg\t0\ntrain/1.jpg\t1", ""), ("train/0.jpg,0\ntrain/1.jpg,1", ""), ("train/0.jpg; 0\ntrain/1.jpg; 1", ""),
    ('"train/0.jpg" 0\n"train/1.jpg" "1"', ""), ("train/0.jpg 0\r\ntrain/1.jpg 1\r\n", ""),
    ("\ufefftrain/0.jpg 0\ntrain/1.jpg 1", ""), ("train\\0.jpg 0\ntrain\\1.jpg 1", "2 path(s) with Windows' separators"),
    ("path label\ntrain/0.jpg 0\ntrain/1.jpg 1", "a header"),
    ("filename,class\ntrain/0.jpg,0\ntrain/1.jpg,1", "a header"), ("train/0.jpg 0.0\ntrain/1.jpg 1.0", ""),
    ("./train/0.jpg 0\n\n\ntrain/../train/1.jpg 1\n", "")])
def test_lists_in_many_shapes(tmp_path, rows, said):
    write_images(tmp_path / "train", 2)
    (tmp_path / "list.txt").write_text(rows, encoding="utf-8", newline="")
    split, notes = lists.read_list(tmp_path / "list.txt", tmp_path)
    assert ([path.name for path in split.paths], split.labels.tolist()) == (["0.jpg", "1.jpg"], [0, 1])
    assert said in " ".join(notes)


def test_labels_that_start_at_1_are_moved(tmp_path):
    for name in ("train", "test"):
        paths = [write_images(tmp_path / name / folder, 1)[0].relative_to(tmp_path) for folder in ("ant", "bee")]
        (tmp_path / f"x_{name}.txt").write_text("".join(f"{path} {label}\n" for label, path in enumerate(paths, 1)))
    data = load_data(listed(tmp_path, "x"))
    assert (data.train.labels.tolist(), data.class_names, data.labels) == ([0, 1], ["ant", "bee"], [1, 2])
    assert any("labels start at 1" in note for note in data.notes)


def test_absolute_paths_outside_the_root(tmp_path):
    root = tmp_path / "lists"
    root.mkdir()
    for name in ("train", "test"):
        paths = [write_images(tmp_path / "photos" / name / folder, 2)[0] for folder in ("ant", "bee")]
        (root / f"x_{name}.txt").write_text("".join(f"{path} {label}\n" for label, path in enumerate(paths)))
    data = load_data(listed(root, "x"))
    assert data.class_names == ["ant", "bee"]
    assert data.test.names(root)[0].endswith("photos/test/ant/0.jpg")


def test_a_folder_of_many_classes_names_none_of_them(tmp_path):
    paths = write_images(tmp_path / "images", 4)
    for name in ("train", "test"):
        (tmp_path / f"x_{name}.txt").write_text("".join(f"images/{path.name} {i % 2}\n" for i, path in enumerate(paths)))
    assert load_data(listed(tmp_path, "x")).keys == ["label 0", "label 1"]


def test_a_list_without_a_test_list_is_split(places):
    data = load_data(listed(places, test_list="", thin_classes="train"))
    assert (len(data.train), len(data.test)) == (4, 2)


def test_missing_files_are_counted_and_the_first_three_named(places):
    with (places / "Places_LT_train.txt").open("a") as file:
        file.writelines(f"train/a/airfield/{n}.jpg 0\n" for n in range(7, 12))
    with pytest.raises(UserError, match=r"train.txt: 5 of 11 files are not there: \S*7\.jpg, \S*8\.jpg, \S*9\.jpg, \.\.\."):
        load_data(listed(places))


paths = st.text("abc /._-", min_size=1, max_size=12).map(str.strip)


@given(st.lists(st.tuples(paths, st.integers(0, 9)), min_size=1, max_size=6), st.sampled_from([" ", "\t", ",", " ; "]))
def test_what_is_written_is_read(tmp_path_factory, rows, separator):
    file = tmp_path_factory.mktemp("list") / "list.txt"
    file.write_text("".join(f"x{path}.jpg{separator}{label}\n" for path, label in rows))
    found = lists.parse(file)
    assert (found.paths, found.labels) == ([f"x{path}.jpg" for path, _ in rows], [label for _, label in rows])
