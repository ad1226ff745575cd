"""The cache of what is frozen: what is in it, what its name depends on, and what it does when the disk plays tricks."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import Accelerator
from conftest import small, write_images

import sagekit as sk
from sagekit.data.batches import single_views
from sagekit.data.prompts import fill
from sagekit.data.splits import Split
from sagekit.data.views import centre_view, five_crops
from sagekit.networks import frozen
from sagekit.training.evaluate import predict

CPU = torch.device("cpu")
SPLIT = Split(torch.zeros(1, dtype=torch.long), torch.zeros(1, 3, 48, 48, dtype=torch.uint8))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def split(data):
    return Split(data.test.labels[:20], data.test.images[:20])


@pytest.fixture
def photos(tmp_path):
    return Split(torch.arange(6) % 2, paths=write_images(tmp_path / "photos", 6))


def predicted(backbone, split, ensembling=False, method="classifier", **settings):
    """A prediction of an untrained model, which fills the cache or reads it."""
    config = small(method, **settings)
    return predict(sk.build_model(config, None, backbone), split, config, Accelerator(cpu=True), ensembling, show=False)


def place(backbone, split, ensembling=False, **settings):
    """Where it is kept."""
    config = small(**settings)
    return frozen.place(backbone, split, config.views, backbone.interpolation, config.machine, CPU, ensembling)


def features(backbone, split, ensembling=False, method="classifier", **settings):
    """What is kept of ``split``."""
    predicted(backbone, split, ensembling, method, **settings)
    return frozen.read(place(backbone, split, ensembling, **settings), len(split))


def test_they_are_the_backbone_s(folder, backbone, split):
    one, five = (features(backbone, split, ensembling) for ensembling in (False, True))
    assert (one.shape, five.shape) == ((20, 1, 128), (20, 5, 128))
    torch.testing.assert_close(one[:, 0], backbone.features(centre_view(split.images, 48, small().views)))
    for v, crop in enumerate(five_crops(split.images, 48, small().views)):
        torch.testing.assert_close(five[:, v], backbone.features(crop))
    assert len(list(folder.glob("images-*"))) == 2


def test_every_ensemble_has_a_file_of_its_own(folder, backbone, split):
    """And every number of random crops, and what they are drawn by; none of it matters to the others."""
    how = [{"ensemble": "five_crops"}, {"ensemble": "ten_crops"}, {"ensemble": "random_crops", "random_crops": 3},
           {"ensemble": "random_crops", "random_crops": 4}, {"ensemble": "random_crops", "random_crops": 3, "flip": False},
           {"ensemble": "random_crops", "random_crops": 3, "crop_scale": (0.5, 1.0)}]
    found = [features(backbone, split, True, **settings) for settings in how]
    assert [one.shape[1] for one in found] == [5, 10, 3, 4, 3, 3]
    assert len(list(folder.glob("images-*"))) == 6
    assert torch.equal(found[1][:, :5], found[0])
    assert not torch.equal(found[5], found[2])
    assert place(backbone, split, True, random_crops=7) == place(backbone, split, True)
    assert place(backbone, split, ensemble="ten_crops") == place(backbone, split)


def test_of_image_files_too(folder, backbone, photos):
    pixels, _ = single_views(photos, small().views, 48, "bilinear")
    torch.testing.assert_close(features(backbone, photos)[:, 0], backbone.features(pixels))


def test_sage_and_the_zero_shot_model_keep_the_same(folder, backbone, split):
    first = features(backbone, split, method="sage")
    (file,) = folder.glob("images-*")
    file.unlink()
    torch.testing.assert_close(features(backbone, split, method="zero_shot"), first)


def test_the_second_call_reads_the_file(folder, backbone, split, photos, monkeypatch):
    for images in (split, photos):
        first = features(backbone, images)
        with monkeypatch.context() as patch:
            patch.setattr(type(backbone), "features", lambda *_: pytest.fail("computed again"))
            assert torch.equal(features(backbone, images, seed=9, lr=1.0), first)


def test_another_image_view_or_weight_is_another_file(folder, backbone, split, photos):
    features(backbone, split)
    changed = Split(split.labels, split.images.clone())
    changed.images[3, 0, 5, 5] ^= 1
    features(backbone, changed)
    features(backbone, split, test_resize=56)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        next(other.visual.parameters()).add_(1e-3)
    features(other, split)
    assert len(list(folder.glob("images-*"))) == 4
    features(backbone, photos)
    photos.paths[0].write_bytes(photos.paths[1].read_bytes())
    features(backbone, photos)
    assert len(list(folder.glob("images-*"))) == 6


@pytest.mark.parametrize("attribute", ["mean", "std"])
def test_another_normalisation_of_pixels_is_another_file(folder, backbone, attribute):
    other = copy.deepcopy(backbone)
    getattr(other, attribute).add_(0.1)
    assert place(other, SPLIT) != place(backbone, SPLIT)


def test_another_resizing_of_test_images_is_another_file(folder, backbone, split):
    """And what is computed is of the images so resized."""
    cubic = copy.deepcopy(backbone)
    cubic.interpolation = "bicubic"
    views = small(test_resize=56).views
    linear_f, cubic_f = (features(net, split, test_resize=56)[:, 0].clone() for net in (backbone, cubic))
    assert len(list(folder.glob("images-*"))) == 2
    assert not torch.allclose(linear_f, cubic_f, atol=1e-3)
    torch.testing.assert_close(cubic_f, backbone.features(centre_view(split.images, 48, views, "bicubic")))


def test_the_same_weights_under_another_activation_are_another_file(folder, backbone):
    other = copy.deepcopy(backbone)
    other.quick_gelu = True
    assert place(other, SPLIT) != place(backbone, SPLIT)


def test_a_damaged_file_is_made_again(folder, backbone, split):
    first = features(backbone, split).clone()  # it is mapped from the file
    (file,) = folder.glob("images-*")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(features(backbone, split), first)
    assert file.stat().st_size > 100


def test_writers_may_race(folder, backbone, split):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: features(backbone, split), range(4)))
    assert all(torch.equal(f, found[0]) for f in found)
    assert len(list(folder.glob("images-*"))) == 1


def test_without_a_place_to_keep_them_they_are_computed(tmp_path, monkeypatch, backbone, split):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert len(predicted(backbone, split).labels) == 20


def texts(names, templates):
    return [fill(templates, name) for name in names]


def test_texts_are_the_backbone_s_and_are_kept(folder, backbone, monkeypatch):
    names, templates = ["plain ring", "striped star"], ["a photo of a [cls].", "the toy [cls]."]
    exact = backbone.text_features(names, templates)
    assert torch.equal(frozen.text_rows(backbone, texts(names, templates), True), exact)
    with monkeypatch.context() as patch:
        patch.setattr(type(backbone), "text_rows", lambda *_: pytest.fail("computed again"))
        assert torch.equal(frozen.text_rows(backbone, texts(names, templates), True), exact)
    frozen.text_rows(backbone, texts(names[::-1], templates), True)
    frozen.text_rows(backbone, texts(names, templates[:1]), True)
    frozen.text_rows(backbone, texts(names, templates), False)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        other.clip.token_embedding.weight.add_(1e-3)
    assert not torch.equal(frozen.text_rows(other, texts(names, templates), True), exact)
    twin = copy.deepcopy(backbone)
    twin.name = "mini-quickgelu"  # the same weights under another activation
    frozen.text_rows(twin, texts(names, templates), True)
    assert len(list(folder.glob("text-*"))) == 6
    assert place(twin, SPLIT) != place(backbone, SPLIT)


def test_half_of_the_images_is_not_kept(folder, split):
    """Where another process read its share from the cache, there is nothing whole to write."""
    index = torch.arange(20)
    frozen.write(folder / "a.safetensors", [(index[::2], torch.zeros(10, 1, 4)), (index[1::2], None)])
    assert not folder.exists()
    frozen.write(folder / "a.safetensors", [(index[::2], torch.zeros(10, 1, 4)), (index[1::2], torch.ones(10, 1, 4))])
    assert frozen.read(folder / "a.safetensors", 20)[:, 0, 0].tolist() == [0, 1] * 10
    assert frozen.read(folder / "a.safetensors", 19) is None


def test_a_missing_photo_is_one_line(folder, backbone, photos):
    photos.paths[2].unlink()
    with pytest.raises(sk.UserError, match=r"2\.jpg"):
        predicted(backbone, photos, method="sage", workers=0)


@pytest.mark.slow
@pytest.mark.parametrize("ensembling", [False, True])
@pytest.mark.parametrize("method", ["sage", "classifier", "zero_shot"])
def test_predictions_do_not_change_by_it(folder, runs, data, backbone, method, ensembling):
    model = sk.load_model(runs[method], data.class_names, backbone)
    computed, found = (predict(model, data.test, runs[method].config, Accelerator(cpu=True), ensembling, show=False)
                       for _ in range(2))
    assert len(list(folder.glob("images-*"))) == 1
    assert (computed.logits == found.logits).all()
