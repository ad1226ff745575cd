"""The cache of frozen features: what is in it, what its name depends on, and what it does when the disk plays tricks."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import Accelerator
from conftest import small

import sagekit as sk
from sagekit.datasets import Split
from sagekit.evaluate import predict
from sagekit.frozen import cache_folder
from sagekit.frozen import frozen_features as features
from sagekit.views import centre_view, five_crops

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def split(data):
    return Split(data.test.labels[:20], data.test.images[:20])


def test_they_are_the_backbone_s(folder, backbone, split):
    one = features(backbone, split, small(), CPU, False)
    five = features(backbone, split, small(), CPU, True)
    assert (one.shape, five.shape) == ((20, 1, 128), (20, 5, 128))
    torch.testing.assert_close(one[:, 0], backbone.features(centre_view(split.images, 48, small())))
    for v, crop in enumerate(five_crops(split.images, 48, small())):
        torch.testing.assert_close(five[:, v], backbone.features(crop))
    assert len(list(folder.iterdir())) == 2


def test_the_second_call_reads_the_file(folder, backbone, split, monkeypatch):
    first = features(backbone, split, small(), CPU, False)
    monkeypatch.setattr(type(backbone), "features", lambda *_: pytest.fail("computed again"))
    assert torch.equal(features(backbone, split, small("lift", seed=9, lr=1.0), CPU, False), first)


def test_another_image_view_or_weight_is_another_file(folder, backbone, split):
    features(backbone, split, small(), CPU, False)
    changed = Split(split.labels, split.images.clone())
    changed.images[3, 0, 5, 5] ^= 1
    features(backbone, changed, small(), CPU, False)
    features(backbone, split, small(test_resize=56), CPU, False)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        next(other.visual.parameters()).add_(1e-3)
    features(other, split, small(), CPU, False)
    assert len(list(folder.iterdir())) == 4


def test_a_damaged_file_is_made_again(folder, backbone, split):
    first = features(backbone, split, small(), CPU, False)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(features(backbone, split, small(), CPU, False), first)
    assert torch.equal(features(backbone, split, small(), CPU, False), first)
    assert file.stat().st_size > 100


def test_writers_may_race(folder, backbone, split):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: features(backbone, split, small(), CPU, False), range(4)))
    assert all(torch.equal(f, found[0]) for f in found)
    assert len(list(folder.iterdir())) == 1


def test_without_a_place_to_keep_them_they_are_computed(tmp_path, monkeypatch, backbone, split):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert features(backbone, split, small(), CPU, False).shape == (20, 1, 128)


@pytest.mark.parametrize("ensembling", [False, True])
@pytest.mark.parametrize("method", ["sage", "classifier", "zero-shot"])
def test_predictions_do_not_change_by_it(folder, runs, data, backbone, method, ensembling, monkeypatch):
    model = sk.load_model(runs[method], data.class_names, backbone)
    with_cache = predict(model, data.test, runs[method].config, Accelerator(cpu=True), ensembling, show=False)
    assert cache_folder().exists()
    monkeypatch.setattr(sys.modules["sagekit.evaluate"], "_frozen", lambda *_: None)
    without = predict(model, data.test, runs[method].config, Accelerator(cpu=True), ensembling, show=False)
    assert (with_cache.logits == without.logits).all()
