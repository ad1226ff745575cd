import dataclasses
import math

import pytest
import torch
from torchvision.transforms import v2

from sagekit.data import views
from sagekit.settings import ViewSettings

IMAGES = torch.randint(0, 256, (6, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crop_and_resize_is_torchvision_s_resized_crop():
    boxes = torch.tensor([[0, 0, 32, 40], [3, 5, 10, 14], [20, 30, 12, 10], [0, 0, 1, 1], [7, 0, 25, 33],
                          [1, 2, 30, 20]]).float()
    flip = torch.tensor([False, True, False, False, True, False])
    ours = views.crop_and_resize(IMAGES, boxes, 48, flip)
    for image, box, mirrored, result in zip(IMAGES.float(), boxes.int().tolist(), flip, ours, strict=True):
        expected = v2.functional.resized_crop(image, *box, [48, 48], antialias=False)
        torch.testing.assert_close(result, expected.flip(-1) if mirrored else expected, atol=2e-3, rtol=0)


def test_boxes_are_distributed_as_torchvision_s():
    """Mean and spread of area and aspect over many draws agree with RandomResizedCrop's own."""
    torch.manual_seed(0)
    boxes = views.draw_boxes(4000, 64, 64, (0.08, 1.0), torch.Generator().manual_seed(0))
    crop, image = v2.RandomResizedCrop(8), torch.zeros(3, 64, 64)
    draws = [crop.make_params([image]) for _ in range(4000)]
    theirs = torch.tensor([[d[k] for k in ("top", "left", "height", "width")] for d in draws]).float()
    for ours, other in ((boxes[:, 2] * boxes[:, 3] / 4096, theirs[:, 2] * theirs[:, 3] / 4096),
                        ((boxes[:, 3] / boxes[:, 2]).log(), (theirs[:, 3] / theirs[:, 2]).log()),
                        (boxes[:, 0] / 64, theirs[:, 0] / 64)):
        spread = other.std().item()
        assert abs(ours.mean() - other.mean()) < 5 * spread / math.sqrt(4000)
        assert abs(ours.std().item() - spread) < 0.05 * spread + 0.005


def test_boxes_stay_inside():
    boxes = views.draw_boxes(1000, 20, 90, (0.9, 1.0), torch.Generator().manual_seed(0))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 20).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 90).all()


@pytest.mark.parametrize(("shape", "box"), [((100, 1000), [0, 433, 100, 133]), ((1000, 100), [433, 0, 133, 100]),
                                           ((100, 120), [0, 0, 100, 120])])
def test_where_no_box_fits_the_aspect_stays_within_4_to_3(shape, box):
    """As torchvision's, whose ten tries fail too: no box has 1.6 times the image's area."""
    boxes = views.draw_boxes(3, *shape, (1.6, 1.6), torch.Generator().manual_seed(0))
    assert boxes.tolist() == [box] * 3
    assert list(v2.RandomResizedCrop(8, scale=(1.6, 1.6)).make_params([torch.zeros(3, *shape)]).values()) == box


@pytest.mark.parametrize(("size", "settings", "side", "margin"), [
    (224, ViewSettings(), 256, 24), (336, ViewSettings(), 384, 36), (48, ViewSettings(), 54, 5),
    (48, ViewSettings(test_resize=64, ensemble_margin=6), 64, 6)])
def test_the_test_views_follow_the_image_size(size, settings, side, margin):
    assert (views.test_side(settings, size), views.crop_margin(settings, size)) == (side, margin)


@pytest.mark.parametrize("settings", [ViewSettings(), ViewSettings(test_resize=256), ViewSettings(ensemble_margin=21),
                                      ViewSettings(ensemble="ten_crops"), ViewSettings(ensemble="random_crops")])
@pytest.mark.parametrize("size", [224, 336])
def test_no_test_view_is_padded(settings, size):
    """Images that are smaller than the view, and larger."""
    for height, width in ((300, 280), (200, 400), (500, 700)):
        white = torch.full((1, 3, height, width), 255, dtype=torch.uint8)
        assert all(shown.min() > 0.999 for ensembling in (False, True)
                   for shown in views.evaluation_views(white, size, settings, ensembling, draws=[torch.Generator()]))


def test_centre_view_is_resize_and_centre_crop():
    settings = ViewSettings(test_resize=64)
    expected = v2.functional.center_crop(v2.functional.resize(IMAGES.float() / 255, [64], antialias=True), [48, 48])
    torch.testing.assert_close(views.centre_view(IMAGES, 48, settings), expected.clamp(0, 1))


def test_centre_view_of_a_mini_image_is_the_image():
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(views.centre_view(image, 48, ViewSettings(test_resize=48)), image / 255)


def test_five_crops_are_the_corners_and_the_centre():
    settings = ViewSettings(ensemble_margin=6)
    image = torch.randint(0, 256, (2, 3, 54, 54), dtype=torch.uint8)
    crops = views.five_crops(image, 48, settings)
    pixels = image / 255
    for crop, (top, left) in zip(crops, [(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)], strict=True):
        torch.testing.assert_close(crop, pixels[..., top : top + 48, left : left + 48])


def test_ten_crops_are_the_five_and_their_mirror_images():
    settings = ViewSettings(ensemble_margin=6, ensemble="ten_crops")
    ours = views.evaluation_views(IMAGES, 24, settings, True)
    larger = v2.functional.resize(IMAGES.float() / 255, [30], antialias=True).clamp(0, 1)
    assert len(ours) == 10
    for crop, expected in zip(ours, v2.functional.ten_crop(larger, [24, 24]), strict=True):
        torch.testing.assert_close(crop, expected)
    torch.testing.assert_close(ours[5], ours[1].flip(-1))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_random_crops_are_random_resized_crops_of_each_image():
    """Every image has its own boxes and flips, drawn from its own generator, whatever it is measured with."""
    settings = ViewSettings(ensemble="random_crops", random_crops=4, crop_scale=(0.3, 0.6))
    ours = torch.stack(views.evaluation_views(IMAGES, 48, settings, True, draws=generators(*range(6))), 1)
    assert ours.shape == (6, 4, 3, 48, 48)
    mirrored = []
    for k, image in enumerate(IMAGES):
        g = torch.Generator().manual_seed(k)
        boxes = views.draw_boxes(4, 32, 40, (0.3, 0.6), g)
        flips = torch.rand(4, generator=g) < 0.5
        mirrored += flips.tolist()
        for box, flip, shown in zip(boxes.int().tolist(), flips, ours[k], strict=True):
            cut = v2.functional.resized_crop(image.float() / 255, *box, [48, 48], antialias=False)
            torch.testing.assert_close(shown, cut.flip(-1) if flip else cut, atol=1e-4, rtol=0)
    assert set(mirrored) == {True, False}
    (alone, *_) = views.evaluation_views(IMAGES[2:3], 48, settings, True, draws=generators(2))
    assert torch.equal(alone[0], ours[2, 0])


def test_random_crops_are_mirrored_where_training_is():
    settings = ViewSettings(ensemble="random_crops", flip=False)
    draws = views.draw_test_crops(32, 40, settings, torch.Generator())
    assert len(draws.boxes) == 10
    assert not draws.flips.any()


def test_shifted_images_are_padded_with_black_and_cropped():
    images = torch.randint(1, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = views.draw_shifts(40, 32, 32, torch.Generator().manual_seed(0))
    assert set(boxes[:, :2].flatten().tolist()) == set(map(float, range(-4, 5)))
    ours = views.crop_and_resize(images, boxes, 32, torch.zeros(40, dtype=torch.bool))
    for image, (top, left, *_), result in zip(images, boxes.int().tolist(), ours, strict=True):
        padded = torch.nn.functional.pad(image.float(), (4, 4, 4, 4))
        torch.testing.assert_close(result, padded[:, 4 + top : 36 + top, 4 + left : 36 + left], atol=1e-3, rtol=0)


@pytest.mark.parametrize("bytes_", [True, False])
def test_a_bicubic_crop_is_torchvision_s_within_it(bytes_):
    """From two pixels and a half inside a crop's own edge on, as ours looks beyond it and torchvision's does not; half a pixel
    inside the image's, since ours repeats the outermost one there. What overshoots is cut off, in both."""
    boxes = torch.tensor([[0, 0, 32, 40], [3, 5, 16, 14], [8, 20, 20, 18], [2, 4, 24, 24]]).float()
    images, flip = IMAGES[:4] if bytes_ else IMAGES[:4] / 255, torch.tensor([False, True, False, True])
    most = 255 if bytes_ else 1
    ours = views.crop_and_resize(images, boxes, 96, flip, "bicubic")
    for image, box, mirrored, result in zip(images.float(), boxes.int().tolist(), flip, ours, strict=True):
        exact = v2.functional.resized_crop(image, *box, [96, 96], v2.InterpolationMode.BICUBIC, antialias=False)
        exact = (exact.flip(-1) if mirrored else exact).clamp(0, most)
        rows, columns = (math.ceil((0.5 if box == [0, 0, 32, 40] else 2.5) * 96 / side) for side in box[2:])
        ours_in, exact_in = (x[:, rows : 96 - rows, columns : 96 - columns] for x in (result, exact))
        torch.testing.assert_close(ours_in, exact_in, atol=2e-5 * most, rtol=1e-4)
    assert (ours.min(), ours.max()) == (0, most)


def test_bicubic_sees_beyond_the_crop_and_bilinear_does_not():
    """A bright left half next to a grey crop: the cubic undershoots where it meets it."""
    image = torch.full((1, 3, 20, 20), 0.5)
    image[..., :10] = 1
    box, flip = torch.tensor([[0.0, 10, 20, 10]]), torch.tensor([False])
    assert (views.crop_and_resize(image, box, 40, flip, "bilinear") - 0.5).abs().max() < 1e-6
    cubic = views.crop_and_resize(image, box, 40, flip, "bicubic")
    assert cubic[..., :6].min() < 0.49
    assert (cubic[..., 8:] - 0.5).abs().max() < 1e-6


def test_halving_averages_two_by_two_pixels():
    image, whole = torch.rand(1, 3, 40, 40), torch.tensor([[0.0, 0, 40, 40]])
    half = views.crop_and_resize(image, whole, 20, torch.zeros(1, dtype=torch.bool))
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(image, 2), atol=1e-5, rtol=1e-4)


def drawn(view, seed=0, flip=True):
    return views.draw_train_views(6, 32, 40, view, ViewSettings(flip=flip), torch.Generator().manual_seed(seed))


def test_a_view_draws_as_its_recipe_says():
    shifted, cropped, narrow = (drawn(view).boxes for view in (views.shift, views.crop, views.View("a", "crop", (0.5, 0.6))))
    assert (shifted[:, 2:] == torch.tensor([32, 40])).all()
    assert (cropped[:, 2] < 32).any()
    assert (narrow[:, 2] * narrow[:, 3] / 1280).sub(0.55).abs().max() < 0.1
    assert not drawn(views.crop, flip=False).flips.any()


def test_only_views_that_alter_pixels_draw_seeds():
    """So the boxes and flips of the others stay what they were before there were alterations."""
    assert [name for name in views.RECIPES if drawn(views.RECIPES[name]).seeds is None] == ["crop", "shift", "half", "bicubic",
                                                                                            "minimal"]
    plain, altered = drawn(views.shift), drawn(views.strong)
    assert torch.equal(plain.boxes, altered.boxes)
    assert torch.equal(plain.flips, altered.flips)


@pytest.mark.parametrize("name", list(views.RECIPES))
def test_a_view_is_a_function_of_its_generator(name):
    view = views.RECIPES[name]
    before = torch.random.get_rng_state()
    first, again, other = (views.train_view(IMAGES, 32, view, drawn(view, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.shape, first.dtype) == ((6, 3, 32, 32), torch.float32)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(torch.random.get_rng_state(), before)  # the user's own random numbers go on as if nothing had been
    part = views.train_view(IMAGES[2:4], 32, view, drawn(view, seed=3).take(slice(2, 4)))
    torch.testing.assert_close(part, first[2:4])


def test_recipes_have_stable_names_and_hashes():
    assert len({hash(view) for view in views.RECIPES.values()}) == 11
    assert repr(views.sim) == ("View(name='sim', draw='crop', scale=(0.08, 1.0), alter=('colour', 'grey'), "
                               "interpolation='bilinear', epochs=1)")


# --- LIFT+'s squares ------------------------------------------------------------------------------------------------------


def squares(done, shape=(100, 100), epochs=5, scale=(0.08, 1.0), n=3000):
    return views.draw_squares(n, *shape, scale, epochs, done, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("epoch", range(5))
def test_a_square_s_area_is_uniform_above_what_the_epoch_allows(epoch):
    """a + (b - a) s, s = 1 - sqrt(1 - t^2): 0.08 at first, then 0.11, 0.20, 0.39, and 1 in the last of five epochs."""
    boxes = squares(epoch / 5, (1000, 1000))
    least = 0.08 + 0.92 * (1 - math.sqrt(1 - (epoch / 4) ** 2))
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    assert area.min().item() == pytest.approx(least, abs=0.003)
    assert area.max().item() == pytest.approx(1, abs=0.003)
    assert area.mean().item() == pytest.approx((least + 1) / 2, abs=0.02)
    assert area.std(unbiased=False).item() == pytest.approx((1 - least) / math.sqrt(12), abs=0.01)  # a uniform law's


def test_a_square_lies_anywhere_in_the_image():
    boxes = squares(0.0, (60, 90), n=20_000)
    assert torch.equal(boxes[:, 2], boxes[:, 3])
    assert (boxes[:, :2] >= 0).all()
    room = torch.stack([60 - boxes[:, 2], 90 - boxes[:, 3]], 1)
    assert (boxes[:, :2] <= room).all()
    for side in (0, 1):
        for edge in (boxes[:, side] == 0, boxes[:, side] == room[:, side]):  # both ends are reached
            assert edge.any()
    share = (boxes[:, :2] / room.clamp(min=1))[room.min(1).values > 20]
    assert (share.mean(0) - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("shape", [(40, 160), (160, 40)])
def test_no_square_is_larger_than_the_image_is_narrow(shape):
    """Both ends are the largest square's at most: a quarter of the area here, which is the whole choice from its epoch on."""
    sides = squares(0.0, shape)[:, 2]
    assert sides.max() == 40
    assert sides.min().item() == pytest.approx(math.sqrt(0.08 * 6400), abs=1)
    wide = squares(4 / 5, shape)
    assert (wide[:, 2:] == 40).all()
    assert wide[:, :2].max() > 60  # it moves along the longer side
    assert (squares(3 / 5, shape)[:, 2] == 40).all()  # 0.39 of the area is more than there is


def test_one_epoch_shows_the_whole_square():
    assert (squares(0.0, epochs=1) == torch.tensor([0.0, 0, 100, 100])).all()


def test_a_tiny_image_has_a_square_of_a_pixel():
    boxes = squares(0.0, (2, 1), n=50)
    assert (boxes[:, 2:] == 1).all()
    assert set(boxes[:, 0].tolist()) == {0, 1}


def test_squares_keep_what_the_settings_say_as_crops_do():
    settings = ViewSettings(crop_scale=(0.5, 0.6))
    for view, least in ((views.minimal, 0.5), (views.View("a", "square", (0.9, 1.0)), 0.9)):
        view = dataclasses.replace(view, epochs=3)
        boxes = views.draw_train_views(500, 400, 400, view, settings, torch.Generator().manual_seed(0)).boxes
        assert (boxes[:, 2] ** 2 / 400**2).min().item() == pytest.approx(least, abs=0.005)
        assert (boxes[:, 2] ** 2 / 400**2).max().item() == pytest.approx(least + 0.1, abs=0.005)


def test_squares_are_not_flipped():
    """Though the settings say flip, and the draws of the boxes go on as they were."""
    draws = drawn(views.minimal)
    assert not draws.flips.any()
    assert drawn(views.bicubic).flips.any()


def altered(alteration, image, n=400):
    view = views.View("a", "crop", alter=(alteration,))
    return torch.stack([views.alter(image, view, seed) for seed in range(n)])


def test_cutout_is_a_black_square_of_half_the_side():
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    black = (altered("cutout", white, 4000) == 0).all(1)
    assert white.min() == 255  # the image itself is left alone
    sides = torch.stack([black.any(1).sum(1), black.any(2).sum(1)], 1)
    assert torch.equal(sides.prod(1), black.sum((1, 2)))
    assert (sides.min(), sides.max()) == (8, 16)
    assert (sides == 16).float().mean().item() == pytest.approx(17 / 32, abs=0.03)  # centres 8..24 of 0..31


def test_autoaugment_fills_with_grey():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    found = altered("autoaugment", red)
    grey = (found == 128).all(1).flatten(1).any(1)
    assert 0.05 < grey.float().mean() < 0.6  # rotated, sheared, or moved


def test_colours_are_altered_as_often_as_the_recipes_say():
    image = IMAGES[0, :, :32, :32]
    for alteration, share in (("colour", 0.8), ("blur", 0.5), ("grey", 0.2)):
        changed = (altered(alteration, image) != image).flatten(1).any(1).float().mean().item()
        assert changed == pytest.approx(share, abs=0.08)
    greyed = [one for one in altered("grey", image, 40) if not torch.equal(one, image)]
    assert all(torch.equal(one[0], one[1]) for one in greyed)


def test_jitter_alters_every_image_and_keeps_grey_grey():
    """Brightness, contrast and saturation, but no hue."""
    image = IMAGES[0, :, :32, :32]
    assert (altered("jitter", image, 40) != image).flatten(1).any(1).all()
    grey = image[:1].expand(3, 32, 32)
    found = altered("jitter", grey, 40).int()
    assert (found.max(1).values - found.min(1).values).max() <= 1


def test_randaugment_is_two_operations():
    """Few images stay as they are."""
    image = IMAGES[0, :, :32, :32]
    changed = (altered("randaugment", image, 200) != image).flatten(1).any(1).float().mean().item()
    assert 0.8 < changed < 1  # "identity" twice, or an operation without effect, is rare
