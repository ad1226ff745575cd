import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sagekit import UserError
from sagekit.data.names import leaves, named, readable, says_word


@pytest.mark.parametrize(("key", "name"), [
    ("stop_sign", "stop sign"), ("AnnualCrop", "Annual Crop"), ("crane-bird", "crane-bird"), ("crane_bird", "crane bird"),
    ("n02085620-Chihuahua", "Chihuahua"), ("004.Groove-billed_Ani", "Groove-billed Ani"), ("barn/indoor", "barn indoor"),
    ("McDonald", "McDonald"), ("iPhone", "iPhone"), ("HerbaceousVegetation", "Herbaceous Vegetation"), ("DVD", "DVD"),
    ("7477", "7477"), ("n01443537", "n01443537"), ("Äpfel_rot", "Äpfel rot"), ("猫", "猫")])
def test_readable_names(key, name):
    assert readable(key) == name


@pytest.mark.parametrize(("name", "true"), [("apple", True), ("7477", False), ("n01443537", False), ("A", False), ("猫", True),
                                            ("3d", False), ("öl", True), ("", False), ("X-ray", True)])
def test_what_says_a_word(name, true):
    assert says_word(name) == true


def test_inaturalist_s_numbers_are_no_names_whatever_stands_above_them(tmp_path):
    keys = ["Plantae/7477", "Aves/3"]
    assert named(tmp_path, keys, keys).wordless == keys
    species = [{"id": 3, "name": "Corvus corax"}, {"id": 7477, "name": "Rosa canina"}]
    (tmp_path / "categories.json").write_text(json.dumps(species))
    assert named(tmp_path, keys, keys).names == ["Rosa canina", "Corvus corax"]
    assert not named(tmp_path, keys, keys).wordless


def test_the_categories_of_a_training_list(tmp_path):
    (tmp_path / "train2018.json").write_text(json.dumps({"categories": [{"id": 3, "name": "Corvus corax"}], "images": []}))
    assert named(tmp_path, ["Aves/3"], ["Aves/3"]).names == ["Corvus corax"]


@pytest.mark.parametrize("text", [
    "stop_sign a stop sign\nbig dog a big dog\n", "stop_sign\ta stop sign\nbig dog\ta big dog\n",
    "stop_sign,a stop sign\nbig dog,a big dog\n", '"big dog" a big dog\nstop_sign "a stop sign"\n',
    "stop_sign: a stop sign\nbig dog: a big dog\n", "\ufeffstop_sign a stop sign\r\nbig dog a big dog\r\n",
    '"big dog","a big dog"\nstop_sign;a stop sign\n', "# names\n\nstop_sign a stop sign\nbig dog a big dog"])
def test_class_names_in_many_shapes(tmp_path, text):
    (tmp_path / "classnames.txt").write_text(text, encoding="utf-8", newline="")
    assert named(tmp_path, ["stop_sign", "big dog"], ["stop_sign", "big dog"]).names == ["a stop sign", "a big dog"]


def test_latin_1_is_read_and_said(tmp_path):
    (tmp_path / "classnames.txt").write_bytes("ant Ameise für\nbee Biene\n".encode("latin-1"))
    found = named(tmp_path, ["ant", "bee"], ["ant", "bee"])
    assert found.names == ["Ameise für", "Biene"]
    assert any("Latin-1" in note for note in found.notes)


def test_lines_of_other_classes_and_classes_without_a_line_are_said(tmp_path):
    (tmp_path / "classnames.txt").write_text("ant an ant\nwolf a wolf\n")
    found = named(tmp_path, ["ant", "stag_beetle"], ["ant", "stag_beetle"])
    assert found.names == ["an ant", "stag beetle"]
    assert any("of no class here, such as 'wolf" in note for note in found.notes)
    assert any("keep their folder's: stag_beetle" in note for note in found.notes)


def test_labels_or_places_name_the_classes_of_a_list(tmp_path):
    (tmp_path / "classnames.txt").write_text("1 bee\n0 ant\n")
    keys = ["label 0", "label 1"]
    assert named(tmp_path, keys, ["0", "1"], numbers=True).names == ["ant", "bee"]
    (tmp_path / "classnames.txt").write_text("ant\nbee\n")
    assert named(tmp_path, keys, ["0", "1"], numbers=True).names == ["ant", "bee"]


def test_where_folders_are_numbers_a_number_is_a_folder_and_no_label(tmp_path):
    (tmp_path / "classnames.txt").write_text("1 Rosa canina\n0 Corvus corax\n")
    keys = ["Plantae/1", "Aves/0"]
    assert named(tmp_path, keys, keys, numbers=True).names == ["Rosa canina", "Corvus corax"]


def test_imagenet_s_repeated_names_are_said(tmp_path):
    keys = [f"n{i:08d}" for i in range(1000)]
    found = named(tmp_path, keys, keys)
    assert found.names[:2] == ["tench", "goldfish"]
    assert not found.wordless
    repeated = {name for name in found.names if found.names.count(name) > 1}
    assert any("a prompt cannot tell apart" in note for note in found.notes) == bool(repeated)


@pytest.mark.parametrize(("file", "text", "message"), [
    ("classnames.txt", "ant\nbee a bee\n", "line 1: 'ant' has no name"),
    ("classnames.txt", "ant a\nant b\n", "line 2: 'ant' has a name already"),
    ("classnames.txt", "wolf a wolf\n", "no line starts with a class of this data"),
    ("classnames.txt", "a\0b", "is no text file"),
    ("categories.json", "{}", "is no list of categories"),
    ("categories.json", "[1, 2]", "is no list of categories"),
    ("categories.json", '[{"id": 1, "name": "7"}]', "names its categories by numbers")])
def test_files_that_cannot_be_understood(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        named(tmp_path, ["ant", "bee"], ["ant", "bee"])


words = st.text("abcXYZ09_-. ", min_size=1, max_size=12).filter(lambda text: text.strip("_ ."))


@given(words)
@example("0. ")
def test_a_readable_name_is_never_empty_and_stays_as_it_is(key):
    once = readable(key)
    assert once
    assert once == once.strip()


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=8, unique=True))
def test_leaves_tell_classes_apart(keys):
    found = leaves(keys)
    assert all(key == leaf or key.endswith(f"/{leaf}") for key, leaf in zip(keys, found, strict=True))
    assert len(set(found)) == len(keys) or any(key in other for key in keys for other in keys if key != other)
