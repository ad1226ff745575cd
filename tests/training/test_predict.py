"""A run names the classes of images that it was never told about, a row an image."""

import copy
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_images
from PIL import Image

import sagekit as sk
from sagekit import Run, UserError
from sagekit.cli import main
from sagekit.data import photos
from sagekit.training import predict as using


def called(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, words)])
    return stopped.value.code


@pytest.fixture
def here(tmp_path):
    """Five images at three depths, and what is none."""
    write_images(tmp_path / "photos", 3)
    write_images(tmp_path / "photos" / "a" / "b", 2, seed=1)
    for name in (".ipynb_checkpoints/0.jpg", "a/._0.jpg", "__MACOSX/0.jpg", "notes.txt", "Thumbs.db"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "photos" / "0.jpg", file)
    Image.new("L", (50, 40)).save(tmp_path / "photos" / "a" / "grey.TIFF")
    return tmp_path / "photos"


@pytest.fixture
def in_twos(monkeypatch):
    """Several batches."""
    monkeypatch.setattr(using, "BATCH", 2)


@pytest.mark.parametrize("method", ["sage", "zero_shot"])
def test_a_folder_becomes_a_table(method, runs, here, tmp_path, data, backbone, in_twos, capsys):
    out = ("--out", tmp_path / "new" / "t.csv", "--embeddings", tmp_path / "e.npz")
    assert called(runs[method].path, here, "--top", 3, *out) == 0
    table = pd.read_csv(tmp_path / "new" / "t.csv", keep_default_na=False)
    files = [here / name for name in ("0.jpg", "1.jpg", "2.jpg", "a/grey.TIFF", "a/b/0.jpg", "a/b/1.jpg")]
    assert table["file"].tolist() == [str(f.absolute()) for f in files]
    assert list(table) == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3", "error"]
    model = sk.load_model(runs[method], data.class_names, backbone).eval()
    with torch.no_grad():
        pixels = torch.cat([photos.evaluation_views(f, 48, runs[method].config.views, False, "bilinear") for f in files])
        found = model.logits(pixels).prediction.softmax(-1).topk(3)
        features = model.features(pixels).own
    assert table["class_3"].tolist() == [data.class_names[c] for c in found.indices[:, 2]]
    np.testing.assert_allclose(table[["probability", "probability_2", "probability_3"]], found.values, atol=1e-4)
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["features"].dtype == np.float32
        np.testing.assert_allclose(stored["features"], features, atol=1e-4)
        assert stored["files"].tolist() == table["file"].tolist()
    assert "6 rows" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"t.csv"}


def test_images_are_resized_as_the_model_was_trained(runs, here, backbone, monkeypatch):
    cubic = copy.deepcopy(backbone)
    cubic.interpolation = "bicubic"
    monkeypatch.setattr("sagekit.training.build.load_backbone", lambda _: cubic)
    (part,) = using.predict(runs["lift"], here / "0.jpg", show=False)
    model, features = sk.load_model(runs["lift"], runs["lift"].metrics["prompt_names"]).eval(), {}
    for kind in ("bicubic", "bilinear"):
        pixels = photos.evaluation_views(here / "0.jpg", 48, runs["lift"].config.views, False, kind)
        with torch.no_grad():
            features[kind] = model.features(pixels).own.numpy()
    np.testing.assert_allclose(part.features, features["bicubic"], atol=1e-5)
    assert abs(features["bicubic"] - features["bilinear"]).max() > 1e-3


def test_a_damaged_file_is_a_row_and_a_line(runs, here, tmp_path, in_twos, capsys):
    whole = (here / "1.jpg").read_bytes()
    (here / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (here / "a" / "b" / "0.jpg").write_text("no image")
    assert called(runs["lift"].path, here, "--out", tmp_path / "t.csv", "--embeddings", tmp_path / "e.npz") == 0
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False).set_index("file")
    bad = [str(here / "1.jpg"), str(here / "a" / "b" / "0.jpg")]
    assert table.index[table["error"] != ""].tolist() == bad
    assert table.loc[bad, ["class", "probability", "class_5"]].eq("").all(axis=None)
    assert (table.drop(bad)["class"] != "").all()
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("sagekit: ")]
    assert [line.count(name) for line, name in zip(lines, bad, strict=True)] == [1, 1]
    assert "2 of 6 files could not be read" in printed.out
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["features"].shape == (4, 128)
        assert np.isfinite(stored["features"]).all()
        assert not set(bad) & set(stored["files"].tolist())


def test_a_list_and_a_single_image(runs, here, tmp_path):
    (here / "list.txt").write_text("\ufeff2.jpg\n\na/b/1.jpg\ngone.jpg\n", encoding="utf-8")
    found = pd.concat(part.rows for part in sk.predict(runs["lift"], here / "list.txt", show=False))
    assert found["file"].tolist() == [str(here / name) for name in ("2.jpg", "a/b/1.jpg", "gone.jpg")]
    assert (found["error"] != "").tolist() == [False, False, True]
    (tmp_path / "elsewhere.txt").write_text("2.jpg\n")
    (rows, _), = sk.predict(runs["lift"], tmp_path / "elsewhere.txt", show=False, data_root=here)
    (alone, features), = sk.predict(runs["lift"], here / "2.jpg", top=99, show=False)
    assert rows["class"].tolist() == alone["class"].tolist()
    assert features.shape == (1, 128)
    chances = alone[[c for c in alone if c.startswith("probability")]]
    assert chances.shape == (1, 48)
    assert chances.to_numpy().sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("split", ["test", "val"])
def test_own_images_say_which_are_wrong(split, runs, tmp_path):
    assert called(runs["sage"].path, "--split", split, "--out", tmp_path / "t.csv") == 0
    table = pd.read_csv(tmp_path / "t.csv")
    stored = runs["sage"].predictions(split=split)
    names = runs["sage"].metrics["class_names"]
    assert table["true_class"].tolist() == [names[c] for c in stored.labels]
    assert table["class"].tolist() == [names[c] for c in stored.predicted]
    assert (table["right"] == stored.correct).all()
    assert table["file"].tolist() == list(range(len(table)))


def test_predicting_reads_no_data_set(runs, here, tmp_path, monkeypatch):
    """Class names come from the record: the run's data may be gone."""
    copy = Run(shutil.copytree(runs["lift"].path, tmp_path / "copy"))
    monkeypatch.setattr(using, "load_data", lambda *_: pytest.fail("the data were read"))
    (copy.path / "config.yaml").write_text((copy.path / "config.yaml").read_text() + f"data_root: {tmp_path / 'gone'}\n")
    assert len(next(sk.predict(copy, here, show=False)).rows) == 6


def test_without_a_file_the_first_rows_are_shown(runs, tmp_path, in_twos, capsys):
    write_images(tmp_path / "many", 12)
    before = set(tmp_path.rglob("*"))
    assert called(runs["lift"].path, tmp_path / "many") == 0
    said = capsys.readouterr().out
    assert "--out FILE.csv" in said
    assert "probability" in said
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "there is no folder, list or image nowhere"),
    (["empty"], "there are no images in empty"),
    (["gone.txt"], "gone.txt names 2 files and none of them is there (first: a.jpg); --data-root"),
    ([], "name either images"),
    (["empty", "--split", "val"], "name either images"),
    (["--split", "vall"], "there is no split 'vall'; splits are train, val, test"),
    (["empty", "--embeddings", "e.csv"], "must be a name that ends in .npz"),
])
def test_mistakes_are_one_line(words, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone.txt").write_text("a.jpg\nb.jpg\n")
    assert called(runs["lift"].path, *words, "--out", "t.csv") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "t.csv").exists()


def test_a_stopped_prediction_leaves_the_old_table(runs, here, tmp_path, in_twos):
    (tmp_path / "t.csv").write_text("old")

    def stopped():
        yield from using.predict(runs["lift"], here, show=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        using.save(stopped(), tmp_path / "t.csv", tmp_path / "e.npz")
    assert (tmp_path / "t.csv").read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "t.csv"}


def test_a_run_that_is_not_finished_is_one_line(runs, here, tmp_path):
    path = shutil.copytree(runs["lift"].path, tmp_path / "copy")
    (path / "metrics.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        sk.predict(path, here)
