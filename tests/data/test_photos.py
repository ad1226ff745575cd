"""Decoding at reduced size: close to decoding all of it, and the same crop."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from sagekit import UserError, load_data
from sagekit.data import photos, views
from sagekit.data.photos import decode_upload
from sagekit.settings import DataSettings, ViewSettings


def scene(height, width):
    """A smooth gradient with sharp discs: more edges than most photographs have."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x / width, y / height, (x + y) / (width + height)], -1) * 255
    for _ in range(40):
        place, radius = rng.uniform(0, (height, width)), rng.uniform(height / 60, height / 8)
        pixels[(y - place[0]) ** 2 + (x - place[1]) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A photograph of odd sides, large enough that a view of 48 needs an eighth of it."""
    path = tmp_path_factory.mktemp("photos") / "large.jpg"
    scene(901, 1203).save(path, quality=90)
    return path


def whole(path):
    return v2.functional.pil_to_tensor(Image.open(path).convert("RGB"))


@pytest.fixture
def decoded(monkeypatch):
    """The sizes that were decoded."""
    seen, real = [], v2.functional.pil_to_tensor
    monkeypatch.setattr(v2.functional, "pil_to_tensor", lambda image: seen.append(image.size) or real(image))
    return seen


@pytest.mark.parametrize(("found", "wanted", "k"), [(500, 256, 1), (1023, 256, 1), (1024, 256, 2), (3000, 256, 4),
                                                    (9000, 256, 8), (50, 256, 1)])
def test_what_is_decoded_is_at_least_twice_the_view(found, wanted, k):
    assert photos.reduction(found, wanted) == k


@pytest.mark.parametrize("ensembling", [False, True])
def test_a_reduced_evaluation_view_is_nearly_the_full_one(large, ensembling, decoded):
    ours = photos.evaluation_views(large, 48, ViewSettings(test_resize=48, ensemble_margin=6), ensembling)
    assert decoded == [(151, 113)]
    exact = torch.stack(views.evaluation_views(whole(large), 48, ViewSettings(test_resize=48, ensemble_margin=6), ensembling))
    assert ours.shape == exact.shape
    assert 255 * (ours - exact).abs().mean() < 2  # 48 pixels with forty edges; a photograph at 256 has half a level


@pytest.mark.parametrize("seed", range(8))
def test_a_reduced_training_view_is_the_same_crop(large, seed, decoded):
    settings = ViewSettings(crop_scale=(0.2, 1.0))
    (ours,) = photos.train_views(large, 48, (views.crop,), settings, torch.Generator().manual_seed(seed))
    (box,), flips, _ = views.draw_train_views(1, 901, 1203, views.crop, settings, torch.Generator().manual_seed(seed))
    exact = v2.functional.resized_crop(whole(large), *box.int().tolist(), [48, 48], antialias=True)
    assert decoded[0][0] < 1203
    assert (ours.float() - (exact.flip(-1) if flips[0] else exact).float()).abs().mean() < 4  # half a small pixel's shift


def test_a_small_photograph_is_cropped_exactly(tmp_path):
    scene(60, 70).save(tmp_path / "a.png")
    settings = ViewSettings(crop_scale=(0.6, 1.0))
    for seed in range(4):
        (ours,) = photos.train_views(tmp_path / "a.png", 48, (views.crop,), settings, torch.Generator().manual_seed(seed))
        (box,), flips, _ = views.draw_train_views(1, 60, 70, views.crop, settings, torch.Generator().manual_seed(seed))
        exact = v2.functional.resized_crop(whole(tmp_path / "a.png"), *box.int().tolist(), [48, 48], antialias=True)
        assert torch.equal(ours, exact.flip(-1) if flips[0] else exact)


def test_a_file_is_shown_in_several_views(large):
    """Each recipe draws after the one before it, and what it alters is bytes."""
    def shown(seed, *recipes):
        return photos.train_views(large, 48, recipes, ViewSettings(), torch.Generator().manual_seed(seed))

    several = shown(0, *views.RECIPES.values())
    assert [(tuple(view.shape), view.dtype) for view in several] == [((3, 48, 48), torch.uint8)] * 5
    assert all(torch.equal(a, b) for a, b in zip(several, shown(0, *views.RECIPES.values()), strict=True))
    assert torch.equal(several[0], shown(0, views.crop)[0])
    assert not torch.equal(*shown(0, views.crop, views.crop))


def test_a_shifted_file_is_its_centre_shifted(tmp_path):
    scene(96, 130).save(tmp_path / "a.png")
    centre = v2.functional.center_crop(v2.functional.resize(whole(tmp_path / "a.png"), [48], antialias=True), [48, 48])
    padded = torch.nn.functional.pad(centre, (6, 6, 6, 6))
    for seed in range(4):
        (ours,) = photos.train_views(tmp_path / "a.png", 48, (views.shift,), ViewSettings(flip=False),
                                     torch.Generator().manual_seed(seed))
        top, left = views.draw_shifts(1, 48, 48, torch.Generator().manual_seed(seed))[0, :2].int().tolist()
        assert torch.equal(ours, padded[:, 6 + top : 54 + top, 6 + left : 54 + left])


@pytest.mark.parametrize("ensembling", [False, True])
def test_a_model_above_256_pixels_sees_no_padding_in_a_file(tmp_path, ensembling):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.png")
    assert photos.evaluation_views(tmp_path / "a.png", 336, ViewSettings(), ensembling).min() == 1


def test_the_mini_model_sees_the_same_in_a_reduced_photograph(tmp_path, backbone):
    """Test images of the mini world enlarged to 480 px: features of the reduced ones point where those of the full ones do."""
    images = load_data(DataSettings(largest_class=10, imbalance_ratio=2, test_per_class=4)).test.images
    settings, shown, full = ViewSettings(test_resize=48), [], []
    for number, image in enumerate(images[::12]):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((480, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        shown.append(photos.evaluation_views(path, 48, settings, False)[0])
        full.append(views.centre_view(whole(path), 48, settings))
    a, b = (backbone.features(torch.stack(pixels)) for pixels in (shown, full))
    assert torch.cosine_similarity(a, b).min() > 0.999


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match="damaged or not an image"):
        photos.evaluation_views(tmp_path / "a.jpg", 48, ViewSettings(), False)


def test_an_upload_is_checked(tmp_path):
    def content(kind: str, size: tuple[int, int] = (20, 30)) -> bytes:
        file = BytesIO()
        Image.new("RGB", size, "red").save(file, kind)
        return file.getvalue()

    assert decode_upload(content("PNG"), "a.png").shape == (3, 30, 20)
    for bad, reason in ((b"no image", "not an image"), (content("PNG")[:40], "damaged"), (content("TIFF"), "not an image"),
                        (bytes(10_000_001), "at most 10 MB"), (content("PNG", (8000, 8000)), "8000 x 8000 pixels")):
        with pytest.raises(UserError, match=reason):
            decode_upload(bad, "a.png")
