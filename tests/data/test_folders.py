import numpy as np
import pytest
from conftest import own, tree, write_images
from hypothesis import given
from hypothesis import strategies as st

from sagekit import UserError, load_data
from sagekit.data import folders
from sagekit.data.names import natural


def test_a_folder_of_classes_is_split_and_said(tmp_path):
    data = load_data(own(tree(tmp_path, "big_dog/10", "cat/10")))
    assert data.class_names == ["big dog", "cat"]
    assert (data.class_counts.tolist(), len(data.test), data.val) == ([8, 8], 4, None)
    assert not set(data.train.paths) & set(data.test.paths)
    assert any("no test split: 20 % of each class" in note for note in data.notes)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "Valid", "TEST"), ("training", "validation", "testing"),
                                   ("TRAIN", "dev", "Test")])
def test_split_folders_are_splits_in_any_case_of_letters(tmp_path, names):
    tree(tmp_path, *(f"{split}/{c}/{n}" for split, n in zip(names, (4, 2, 3), strict=True) for c in ("ant", "bee")))
    data = load_data(own(tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert data.keys == ["ant", "bee"]


def test_without_a_test_the_validation_images_are_held_for_the_end(tmp_path):
    data = load_data(own(tree(tmp_path, "train/ant/3", "train/bee/3", "val/ant/2", "val/bee/2")))
    assert ({path.parent.parent.name for path in data.test.paths}, data.val) == ({"val"}, None)
    assert any("held for the end" in note for note in data.notes)


def test_what_lies_beside_the_splits_is_left_out_and_said(tmp_path):
    data = load_data(own(tree(tmp_path, "train/ant/3", "train/bee/3", "test/ant/2", "test/bee/2", "raw/ant/2", "1")))
    assert (len(data.train), len(data.test)) == (6, 4)
    assert "2 folder(s) or image(s) beside the splits left out: 0.jpg, raw" in data.notes


def test_a_test_folder_without_classes_is_left_out(tmp_path):
    data = load_data(own(tree(tmp_path, "train/ant/3", "train/bee/3", "val/ant/2", "val/bee/2", "test/4")))
    assert {path.parent.parent.name for path in data.test.paths} == {"val"}
    assert any("its 4 images have no labels and are left out" in note for note in data.notes)


def test_nested_folders_are_classes_and_the_leaf_is_the_name(tmp_path):
    data = load_data(own(tree(tmp_path, "Fruit/Apple/Golden-Delicious/3", "Fruit/Pear/Red/3", "Vegetables/Pepper/Red/3")))
    assert data.keys == ["Fruit/Apple/Golden-Delicious", "Fruit/Pear/Red", "Vegetables/Pepper/Red"]
    assert data.class_names == ["Golden-Delicious", "Pear Red", "Pepper Red"]
    assert any("folders of folders" in note for note in data.notes)


def test_hidden_and_system_entries_are_left_out_at_any_depth_and_counted(tmp_path):
    tree(tmp_path, "ant/3", "ant/.ipynb_checkpoints/2", "bee/3", "__MACOSX/ant/2", ".git/x/1")
    for name in ("ant/._0.jpg", "bee/Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"not an image")
    data = load_data(own(tmp_path))
    assert (len(data.train) + len(data.test), data.keys) == (6, ["ant", "bee"])
    assert any(note.startswith("6 hidden or system entries") for note in data.notes)


def test_what_pillow_reads_is_read_and_the_rest_is_counted(tmp_path):
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for suffix in ("tif", "TIFF", "gif", "jfif", "ppm", "jpg", "png"):
            Image.new("RGB", (20, 20), "red").save(tmp_path / name / f"a.{suffix}", "JPEG" if suffix == "jfif" else None)
    for name in ("a.heic", "b.heic", "notes.txt", "README"):
        (tmp_path / "ant" / name).write_bytes(b"x")
    data = load_data(own(tmp_path))
    assert len(data.train) + len(data.test) == 14
    assert any("4 file(s) of other kinds left out: 2 .heic, 1" in note for note in data.notes)


def test_numbers_stand_in_natural_order(tmp_path):
    data = load_data(own(tree(tmp_path, *(f"{c}/2" for c in ("10", "2", "1", "0")))))
    assert data.keys == ["0", "1", "2", "10"]
    assert data.wordless == data.keys


def test_equal_prompt_names_are_told_apart(tmp_path):
    data = load_data(own(tree(tmp_path, "crane bird/3", "crane_bird/3", "dog/3")))
    assert data.class_names == ["crane bird", "crane bird", "dog"]
    assert data.shown_names == ["crane bird (crane bird)", "crane bird (crane_bird)", "dog"]
    assert any("a prompt cannot tell apart" in note for note in data.notes)


def test_links_that_lead_back_end(tmp_path):
    tree(tmp_path, "ant/3", "bee/3")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert folders.look(tmp_path).classes.keys() == {"ant", "bee"}


def test_a_balanced_test_can_be_asked_for(tmp_path):
    data = load_data(own(tree(tmp_path, "ant/12", "bee/5"), test_per_class=2))
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert data.class_counts.tolist() == [10, 3]


def test_a_share_is_kept_for_validation(tmp_path):
    data = load_data(own(tree(tmp_path, "ant/10", "bee/5"), val_share=0.25))
    assert [np.bincount(split.labels).tolist() for split in data.splits.values()] == [[6, 3], [2, 1], [2, 1]]


def test_the_long_tail_starts_from_the_largest_class_and_says_what_it_reached(tmp_path):
    """The profile of ratio 4 from 16: 16, 8, 4; the second of size 6 gives what it has."""
    data = load_data(own(tree(tmp_path, "a_few/5", "many/20", "some/8"), imbalance_ratio=4.0))
    assert dict(zip(data.keys, data.class_counts.tolist(), strict=True)) == {"a_few": 4, "many": 16, "some": 6}
    assert any("ratio asked 4, reached 4" in note for note in data.notes)
    assert {"own", "beta100", "thirds"} == data.groups.keys()


def test_own_counts_have_no_groups_of_another_ratio(tmp_path):
    assert load_data(own(tree(tmp_path, "ant/3", "bee/3"))).groups.keys() == {"own", "thirds"}


@pytest.mark.parametrize(("rule", "keys", "counts"), [
    ("train", ["ant", "bee", "one"], [3, 3, 1]), ("leave_out", ["ant", "bee"], [3, 3])])
def test_a_class_of_one_image(tmp_path, rule, keys, counts):
    data = load_data(own(tree(tmp_path, "ant/4", "bee/4", "one/1"), thin_classes=rule))
    assert (data.keys, data.class_counts.tolist()) == (keys, counts)
    assert any("one" in note and "class(es)" in note for note in data.notes)


def test_a_long_tail_is_made_of_the_classes_that_stay(tmp_path):
    places = ("train/ant/8", "train/cat/8", "test/ant/2", "test/bee/2", "test/cat/2")
    data = load_data(own(tree(tmp_path, *places), thin_classes="leave_out", imbalance_ratio=4.0))
    assert (data.keys, data.class_counts.tolist()) == (["ant", "cat"], [8, 2])
    assert any("ratio asked 4, reached 4" in note for note in data.notes)


def test_a_class_in_the_test_alone_is_left_out_on_request(tmp_path):
    places = ("train/ant/2", "train/cat/2", "test/ant/2", "test/bee/2", "test/cat/2")
    data = load_data(own(tree(tmp_path, *places), thin_classes="train"))
    assert (data.keys, data.test.labels.tolist()) == (["ant", "cat"], [0, 0, 1, 1])


def test_bad_images_can_be_left_out(tmp_path):
    tree(tmp_path, "ant/4", "bee/4")
    (tmp_path / "ant" / "1.jpg").write_bytes((tmp_path / "ant" / "1.jpg").read_bytes()[:-400])
    (tmp_path / "bee" / "2.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"^2 of 8 files are damaged or no images: .*1\.jpg .*2\.jpg \(empty\)\. .*=skip"):
        load_data(own(tmp_path))
    data = load_data(own(tmp_path, bad_images="skip"))
    assert len(data.train) + len(data.test) == 6
    assert data.skipped == [str(tmp_path / "ant" / "1.jpg"), str(tmp_path / "bee" / "2.jpg")]
    assert any("2 of 8 files" in note and "left out" in note for note in data.notes)


def test_small_images_of_one_size_are_held_in_memory(tmp_path):
    data = load_data(own(tree(tmp_path, "ant/3", "bee/3")))
    assert data.train.images.shape == (4, 3, 40, 48)
    assert any("6 images of 48 x 40 pixels are held in memory" in note for note in data.notes)
    write_images(tmp_path / "bee", 1, size=41)
    assert load_data(own(tmp_path)).train.images is None


def test_large_images_stay_files(tmp_path):
    for name in ("ant", "bee"):
        write_images(tmp_path / name, 3, size=100)
    assert load_data(own(tmp_path)).train.images is None


def test_own_templates_and_sentences(tmp_path):
    root = tree(tmp_path / "data", "ant/3", "bee/3")
    templates, texts = tmp_path / "t.txt", tmp_path / "texts.json"
    templates.write_text("a photo of {}.\n\na [cls] in the grass.\n")
    assert load_data(own(root, templates_file=templates)).sentences[1] == ["a photo of bee.", "a bee in the grass."]
    texts.write_text('{"ant": ["six legs", "it crawls"], "Bee": "it stings", "cow": ["moo"]}')
    data = load_data(own(root, class_texts=texts))
    assert data.sentences == [["six legs", "it crawls"], ["it stings"]]
    assert any("1 class(es) that are not here: cow" in note for note in data.notes)
    (tmp_path / "texts.csv").write_text('class,text\nant,"small, black"\nbee,yellow\n')
    assert load_data(own(root, class_texts=tmp_path / "texts.csv")).sentences == [["small, black"], ["yellow"]]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {}, {"val_share": 0.3}, {"imbalance_ratio": 3.0, "val_share": 0.2}, {"test_per_class": 2}])
def test_no_image_is_in_two_splits_and_every_class_is_where_it_must_be(tmp_path, settings):
    rng = np.random.default_rng(0)
    for attempt in range(5):
        counts = rng.integers(4, 12, 4)
        root = tree(tmp_path / str(attempt), *(f"c{c}x/{n}" for c, n in enumerate(counts)))
        for seed in range(3):
            data = load_data(own(root, data_seed=seed, **settings))
            found = [set(split.paths) for split in data.splits.values()]
            assert sum(map(len, found)) == len(set().union(*found))
            for name in data.splits:
                assert set(data.splits[name].labels.tolist()) == {0, 1, 2, 3}, name
            assert np.array_equal(np.bincount(data.train.labels), data.class_counts)


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_names_have_an_order(names):
    assert sorted(sorted(names, key=natural, reverse=True), key=lambda n: (natural(n), n)) == sorted(
        names, key=lambda n: (natural(n), n))


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20))
def test_natural_order_is_that_of_the_numbers(numbers):
    assert sorted((f"class {n}" for n in numbers), key=natural) == [f"class {n}" for n in sorted(numbers)]
