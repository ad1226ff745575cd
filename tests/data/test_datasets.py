
import numpy as np
import pytest
import torch
from conftest import write_images

from sagekit import UserError, load_data
from sagekit.settings import DataSettings


def small(**changes):
    return DataSettings(**{"largest_class": 30, "imbalance_ratio": 10.0, "test_per_class": 4, "val_per_class": 2, **changes})


# --- the world ---


@pytest.mark.slow
def test_world_is_long_tailed_and_tested_balanced():
    data = load_data(DataSettings())
    assert (data.class_counts.max(), data.class_counts.min()) == (500, 5)
    assert np.bincount(data.test.labels).tolist() == [50] * 48
    assert np.array_equal(np.bincount(data.train.labels), data.class_counts)
    assert data.train.masks.shape == (len(data.train), 48, 48)


def test_world_changes_with_the_data_s_seed_alone():
    first, again, other = (load_data(small(data_seed=seed)).train.images for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first[:50], other[:50])


@pytest.mark.slow
def test_world_groups_by_both_definitions():
    data = load_data(small(largest_class=500, imbalance_ratio=10, test_per_class=1))
    assert len(data.groups["own"]["tail"]) == 0
    assert len(data.groups["beta100"]["tail"]) > 0


def test_a_world_class_without_images():
    with pytest.raises(UserError, match="leaves classes without images"):
        load_data(small(largest_class=5, imbalance_ratio=100))


def test_a_class_without_training_images(cifar):
    """20 images at the head and a ratio of 100 leave the tail without any."""
    with pytest.raises(UserError, match=r"^class \d+ \('thing \d+'\) has no training images; [^\n]*$"):
        load_data(DataSettings(dataset="cifar100", data_root=cifar, imbalance_ratio=100.0))


def test_a_set_can_be_given_a_name():
    assert (load_data(small()).name, load_data(small(data_name="toy")).name) == ("mini world", "toy")


# --- CIFAR-100 ---


def test_cifar_is_read_and_made_long_tailed(cifar):
    data = load_data(DataSettings(dataset="cifar100", data_root=cifar, imbalance_ratio=10))
    assert data.class_counts[0] == 20
    assert data.class_counts[-1] == 2
    assert data.class_names[7] == "thing 7"
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert len(data.test) == 200
    assert data.groups.keys() == {"own", "beta100", "thirds"}


def test_cifar_that_is_missing_says_so(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(UserError, match=r"CIFAR-100 is not under .* could not be downloaded .*--data-root"):
        load_data(DataSettings(dataset="cifar100", data_root=tmp_path))


# --- image lists ---


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


def listed(root, name="Places_LT"):
    return DataSettings(dataset="list", data_root=root, train_list=f"{name}_train.txt", test_list=f"{name}_test.txt")


def test_lists_are_read(places):
    data = load_data(listed(places))
    assert data.class_counts.tolist() == [3, 2, 1]
    assert data.class_names == ["airfield", "barn indoor", "barn outdoor"]
    assert len(data.test) == 3
    assert data.name == "Places_LT_train"


def test_classnames_txt_names_the_classes(places):
    (places / "classnames.txt").write_text("airfield an airfield\nbarn/indoor inside a barn\nbarn/outdoor a barn\n")
    assert load_data(listed(places)).class_names == ["an airfield", "inside a barn", "a barn"]


def test_imagenet_names_come_from_open_clip(tmp_path):
    wnids = [f"n{i:08d}" for i in range(1000)]
    path = write_images(tmp_path / "one", 1)[0]
    for split in ("train", "test"):
        rows = []
        for label, wnid in enumerate(wnids):
            target = tmp_path / split / wnid
            target.mkdir(parents=True)
            (target / "x.jpg").symlink_to(path)
            rows.append(f"{split}/{wnid}/x.jpg {label}")
        (tmp_path / f"ImageNet_LT_{split}.txt").write_text("\n".join(rows))
    names = load_data(listed(tmp_path, "ImageNet_LT")).class_names
    assert (names[0], names[1]) == ("tench", "goldfish")


def test_numbered_folders_need_classnames_txt(tmp_path):
    for split in ("train", "test"):
        rows = [f"{write_images(tmp_path / split / str(c), 1)[0].relative_to(tmp_path)} {c}" for c in (10, 11)]
        rows = [f"{row.rsplit(' ', 1)[0]} {i}" for i, row in enumerate(rows)]
        (tmp_path / f"iNaturalist18_{split}.txt").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"says no class name; write .*classnames.txt"):
        load_data(listed(tmp_path, "iNaturalist18"))


@pytest.mark.parametrize(("line", "message"), [
    ("train/a/airfield/9.jpg 0", "there is no file"),
    ("train/a/airfield/0.jpg x", "line 7.*is not 'path label'"),
    ("train/a/airfield/0.jpg -1", "line 7.*is not 'path label'"),
    ("train/a/airfield/0.jpg 5", "no image of class 3"),
])
def test_bad_list_lines(places, line, message):
    with (places / "Places_LT_train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        load_data(listed(places))


def test_missing_list_names_the_data_root(tmp_path):
    with pytest.raises(UserError, match=r"no image list at .*Places_LT_train.txt.*--data-root"):
        load_data(listed(tmp_path))


def test_empty_list(places):
    (places / "Places_LT_test.txt").write_text("\n")
    with pytest.raises(UserError, match="lists no images"):
        load_data(listed(places))


# --- own folders ---


@pytest.fixture
def folder(tmp_path):
    for c, name in enumerate(["big_dog", "cat"]):
        write_images(tmp_path / "mine" / name, 10, seed=c)
    return tmp_path / "mine"


def own(root, ratio=None):
    return DataSettings(dataset="folder", data_root=root, imbalance_ratio=ratio)


def test_folder_is_split_and_named(folder):
    data = load_data(own(folder))
    assert data.class_names == ["big dog", "cat"]
    assert (data.class_counts.tolist(), len(data.test)) == ([8, 8], 4)
    assert not set(data.train.paths) & set(data.test.paths)


def test_classnames_txt_names_some_folders(folder):
    (folder / "classnames.txt").write_text("\nbig_dog a large  dog \n")
    assert load_data(own(folder)).class_names == ["a large  dog", "cat"]


def test_folder_can_be_made_long_tailed(folder):
    assert load_data(own(folder, 4)).class_counts.tolist() == [8, 2]


def test_folder_with_train_and_test(folder, tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_images(tmp_path / "two" / split / name, 3)
    data = load_data(own(tmp_path / "two"))
    assert (len(data.train), len(data.test)) == (6, 6)


def test_class_folder_without_images(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no images"):
        load_data(own(folder))


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        load_data(own(tmp_path / "none"))
