"""Decoding at reduced size: close to decoding all of it, and the same crop."""

from io import BytesIO

import numpy as np
import pytest
import torch
from open_clip import transform
from PIL import Image, ImageCms
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
    ours = photos.evaluation_views(large, 48, ViewSettings(test_resize=48, ensemble_margin=6), ensembling, "bilinear")
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


@pytest.mark.parametrize("view", [views.bicubic, views.half, views.minimal])
def test_a_small_photograph_s_bicubic_crop_is_torchvision_s(tmp_path, view):
    scene(60, 70).save(tmp_path / "a.png")
    for seed in range(4):
        (ours,) = photos.train_views(tmp_path / "a.png", 48, (view,), ViewSettings(), torch.Generator().manual_seed(seed), 0.5)
        (box,), flips, _ = views.draw_train_views(1, 60, 70, view, ViewSettings(), torch.Generator().manual_seed(seed), 0.5)
        exact, linear = (
            v2.functional.resized_crop(whole(tmp_path / "a.png"), *box.int().tolist(), [48, 48], kind, antialias=True)
            for kind in (v2.InterpolationMode.BICUBIC, v2.InterpolationMode.BILINEAR))
        assert torch.equal(ours, exact.flip(-1) if flips[0] else exact)
        assert not torch.equal(exact, linear)


def test_a_file_s_squares_widen_with_the_epochs(large):
    """In the last epoch the largest square, somewhere along the longer side."""
    view = views.View("a", "square", (0.08, 1.0), interpolation="bicubic", epochs=4)
    image = whole(large)
    for seed in range(3):
        (ours,) = photos.train_views(large, 48, (view,), ViewSettings(), torch.Generator().manual_seed(seed), 0.75)
        (box,), *_ = views.draw_train_views(1, 901, 1203, view, ViewSettings(), torch.Generator().manual_seed(seed), 0.75)
        assert box[2:].tolist() == [901, 901]
        exact = v2.functional.resized_crop(image, *box.int().tolist(), [48, 48], v2.InterpolationMode.BICUBIC, antialias=True)
        assert (ours.float() - exact.float()).abs().mean() < 4


def test_a_file_is_shown_in_several_views(large):
    """Each recipe draws after the one before it, and what it alters is bytes."""
    def shown(seed, *recipes):
        return photos.train_views(large, 48, recipes, ViewSettings(), torch.Generator().manual_seed(seed))

    several = shown(0, *views.RECIPES.values())
    assert [(tuple(view.shape), view.dtype) for view in several] == [((3, 48, 48), torch.uint8)] * len(views.RECIPES)
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


def test_random_crops_of_a_file_are_those_of_its_pixels(large):
    """Decoded once and no larger than the smallest crop needs."""
    settings = ViewSettings(ensemble="random_crops", random_crops=5, crop_scale=(0.4, 1.0))
    ours = photos.evaluation_views(large, 24, settings, True, "bilinear", torch.Generator().manual_seed(0))
    pixels = whole(large)
    draws = views.draw_test_crops(*pixels.shape[1:], settings, torch.Generator().manual_seed(0))
    assert len(ours) == 5
    for shown, box, flip in zip(ours, draws.boxes.int().tolist(), draws.flips, strict=True):
        exact = v2.functional.resized_crop(pixels, *box, [24, 24], antialias=True) / 255
        assert (shown - (exact.flip(-1) if flip else exact)).abs().mean() < 0.02


@pytest.mark.parametrize("ensembling", [False, True])
def test_a_model_above_256_pixels_sees_no_padding_in_a_file(tmp_path, ensembling):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.png")
    assert photos.evaluation_views(tmp_path / "a.png", 336, ViewSettings(), ensembling, "bilinear").min() == 1


def test_the_mini_model_sees_the_same_in_a_reduced_photograph(tmp_path, backbone):
    """Test images of the mini world enlarged to 480 px: features of the reduced ones point where those of the full ones do."""
    images = load_data(DataSettings(largest_class=10, imbalance_ratio=2, test_per_class=4)).test.images
    settings, shown, full = ViewSettings(test_resize=48), [], []
    for number, image in enumerate(images[::12]):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((480, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        shown.append(photos.evaluation_views(path, 48, settings, False, "bilinear")[0])
        full.append(views.centre_view(whole(path), 48, settings))
    a, b = (backbone.features(torch.stack(pixels)) for pixels in (shown, full))
    assert torch.cosine_similarity(a, b).min() > 0.999


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match="damaged or not an image"):
        photos.evaluation_views(tmp_path / "a.jpg", 48, ViewSettings(), False, "bilinear")


def test_an_upload_is_checked(tmp_path):
    def content(kind: str, size: tuple[int, int] = (20, 30)) -> bytes:
        file = BytesIO()
        Image.new("RGB", size, "red").save(file, kind)
        return file.getvalue()

    for kind in photos.UPLOAD_FORMATS:
        assert decode_upload(content(kind), "a").shape == (3, 30, 20)
    for bad, reason in ((b"no image", "not an image"), (content("PNG")[:40], "damaged"), (content("PPM"), "not an image"),
                        (bytes(10_000_001), "at most 10 MB"), (content("PNG", (8000, 8000)), "8000 x 8000 pixels")):
        with pytest.raises(UserError, match=reason):
            decode_upload(bad, "a.png")


def saved(path, pixels, **options):
    """``pixels`` (H, W), (H, W, 2), (H, W, 3) or (H, W, 4), or a PIL image, as a file."""
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))).save(path, **options)
    return path


def grey(path):
    """The file's grey levels as rows."""
    found = photos.decoded(path)
    assert found.dtype == torch.uint8
    assert found.shape[0] == 3
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    return found[0].tolist()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_by_65535(tmp_path, suffix):
    values = np.array([[0, 257, 25700], [32768, 65278, 65535]], dtype=np.uint16)
    assert grey(saved(tmp_path / f"a.{suffix}", values)) == [[0, 1, 100], [128, 254, 255]]


def test_16_bit_big_endian_grey(tmp_path):
    image = Image.frombytes("I;16B", (3, 1), np.array([0, 25700, 65535], dtype=">u2").tobytes())
    assert grey(saved(tmp_path / "a.tiff", image)) == [[0, 100, 255]]


@pytest.mark.parametrize(("values", "levels"), [
    (np.array([[0, 25700, 65535]], dtype=np.int32), [0, 100, 255]),
    (np.array([[-100, 0, 155]], dtype=np.int32), [0, 100, 255]),
    (np.array([[1_000_000, 1_200_000, 1_500_000]], dtype=np.int32), [0, 102, 255]),
    (np.array([[0, 0.2, 1]], dtype=np.float32), [0, 51, 255]),
    (np.array([[0.2, 0.2, 0.2]], dtype=np.float32), [51, 51, 51]),
    (np.array([[-5, 0, 5]], dtype=np.float32), [0, 128, 255]),
    (np.array([[100, 180, 300]], dtype=np.float32), [0, 102, 255]),
    (np.array([[float("nan"), 0.4, 1]], dtype=np.float32), [0, 102, 255]),
    (np.array([[float("inf"), 0.4, -float("inf")]], dtype=np.float32), [0, 102, 0]),
    (np.array([[7, 7, 7]], dtype=np.float32), [0, 0, 0]),
])
def test_whole_numbers_and_floats_are_scaled_by_their_range(tmp_path, values, levels):
    assert grey(saved(tmp_path / "a.tiff", values)) == [levels]


UPRIGHT = np.zeros((16, 32, 3), dtype=np.uint8)
UPRIGHT[:8, :16], UPRIGHT[:8, 16:], UPRIGHT[8:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LIES = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90, 7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1)}
"""How a camera stores what is upright, by the orientation that it writes."""


@pytest.mark.parametrize("orientation", LIES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_as_exif_says(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[photos.ORIENTATION] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    path = saved(tmp_path / f"a.{kind}", np.ascontiguousarray(LIES[orientation](UPRIGHT)), format=kind, exif=exif, **options)
    upright = torch.from_numpy(UPRIGHT).permute(2, 0, 1)
    shown = [photos.decoded(path), decode_upload(path.read_bytes(), "a")]
    shown += [(255 * photos.evaluation_views(path, 16, ViewSettings(test_resize=16), False, "bilinear")[0]).byte()]
    for found, exact in zip(shown, (upright, upright, upright[:, :, 8:24]), strict=True):
        assert found.shape == exact.shape
        assert (found.int() - exact.int()).abs().max() <= 3


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_training_crops_are_drawn_from_the_upright_picture(tmp_path, orientation, decoded):
    """The same draws of a large photograph, stored upright and stored turned (and decoded at an eighth)."""
    stored, exif = scene(901, 1203), Image.Exif()
    exif[photos.ORIENTATION] = orientation
    saved(tmp_path / "turned.jpg", np.ascontiguousarray(LIES[orientation](np.asarray(stored))), quality=95, exif=exif)
    saved(tmp_path / "upright.jpg", stored, quality=95)
    for seed in range(3):
        a, b = (photos.train_views(tmp_path / name, 48, (views.crop,), ViewSettings(), torch.Generator().manual_seed(seed))[0]
                for name in ("turned.jpg", "upright.jpg"))
        assert (a.float() - b.float()).abs().mean() < 3
    assert all(min(size) < 901 for size in decoded)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path):
    saved(tmp_path / "a.jpg", UPRIGHT, quality=95, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert photos.decoded(tmp_path / "a.jpg").shape == (3, 16, 32)


def test_transparency_is_composed_onto_white(tmp_path):
    alpha = np.array([[0, 51, 255]], dtype=np.uint8)
    rgba = np.dstack([np.full((1, 3), v, dtype=np.uint8) for v in (200, 100, 0)] + [alpha])
    shown = photos.decoded(saved(tmp_path / "rgba.png", rgba))[:, 0]
    assert shown.tolist() == [[255, 244, 200], [255, 224, 100], [255, 204, 0]]
    assert grey(saved(tmp_path / "la.png", np.dstack([np.full((1, 3), 100, dtype=np.uint8), alpha]))) == [[255, 224, 100]]
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 0, 0, 0, 70, 80, 90])
    opaque = [[10, 0, 70], [20, 0, 80], [30, 0, 90]]
    seen = [[10, 255, 70], [20, 255, 80], [30, 255, 90]]
    assert photos.decoded(saved(tmp_path / "p.png", palette))[:, 0].tolist() == opaque
    for name in ("hole.png", "hole.gif"):
        assert photos.decoded(saved(tmp_path / name, palette, transparency=1))[:, 0].tolist() == seen
    assert photos.decoded(saved(tmp_path / "many.png", palette, transparency=bytes([255, 0, 255])))[:, 0].tolist() == seen
    black = saved(tmp_path / "rgb.png", np.array([[[0, 0, 0], [9, 9, 9]]], dtype=np.uint8), transparency=(0, 0, 0))
    assert grey(black) == [[255, 9]]
    assert grey(saved(tmp_path / "16.png", np.array([[0, 25700]], dtype=np.uint16), transparency=0)) == [[255, 100]]


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as file:
            assert file.n_frames == 3
        assert photos.decoded(tmp_path / name)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_colour_profile_changes_nothing(tmp_path):
    pixels = np.full((4, 4, 3), (200, 100, 50), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert torch.equal(photos.decoded(saved(tmp_path / "a.png", pixels, icc_profile=profile)),
                       photos.decoded(saved(tmp_path / "b.png", pixels)))


def test_all_doors_see_the_same_picture(tmp_path):
    """16-bit grey in training, test and upload."""
    path = saved(tmp_path / "a.png", np.full((48, 48), 25700, dtype=np.uint16))
    (train,) = photos.train_views(path, 48, (views.crop,), ViewSettings(), torch.Generator().manual_seed(0))
    (shift,) = photos.train_views(path, 48, (views.shift,), ViewSettings(), torch.Generator().manual_seed(0))
    assert train.unique().tolist() == [100]
    assert shift.max() == 100
    assert (255 * photos.evaluation_views(path, 48, ViewSettings(), True, "bilinear")).round().unique().tolist() == [100]
    assert decode_upload(path.read_bytes(), "a.png").unique().tolist() == [100]


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "half.png"
    saved(path, scene(60, 70))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"half\.png is damaged") as error:
        photos.decoded(path)
    assert "\n" not in str(error.value)


def test_bicubic_test_views_are_open_clip_s(tmp_path):
    """open_clip's own transform of the same file, which Pillow resizes; ours is within a level."""
    for height, width in ((60, 70), (30, 41)):
        path = saved(tmp_path / "a.png", scene(height, width))
        theirs = transform.image_transform_v2(transform.PreprocessCfg(48, mean=(0,) * 3, std=(1,) * 3), is_train=False)
        exact = theirs(Image.open(path))
        settings = ViewSettings(test_resize=48)
        cubic, linear = (photos.evaluation_views(path, 48, settings, False, kind)[0] for kind in ("bicubic", "bilinear"))
        memory = views.centre_view(whole(path)[None], 48, settings, "bicubic")[0]
        assert 255 * (cubic - exact).abs().max() < 1.5
        assert 255 * (memory - exact).abs().mean() < 0.5  # at an edge Pillow cuts off what overshoots between its two passes
        assert 255 * (linear - exact).abs().max() > 5
