import math

import torch
from conftest import small
from torchvision.transforms import v2

from sagekit.data import views

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


def test_centre_view_is_resize_and_centre_crop():
    config = small(test_resize=64)
    expected = v2.functional.center_crop(v2.functional.resize(IMAGES.float() / 255, [64], antialias=True), [48, 48])
    torch.testing.assert_close(views.centre_view(IMAGES, 48, config), expected.clamp(0, 1))


def test_centre_view_of_a_mini_image_is_the_image():
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(views.centre_view(image, 48, small()), image / 255)


def test_five_crops_are_the_corners_and_the_centre():
    config = small(ensemble_margin=6)
    image = torch.randint(0, 256, (2, 3, 54, 54), dtype=torch.uint8)
    crops = views.five_crops(image, 48, config)
    pixels = image / 255
    for crop, (top, left) in zip(crops, [(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)], strict=True):
        torch.testing.assert_close(crop, pixels[..., top : top + 48, left : left + 48])


def test_shifted_images_are_padded_with_black_and_cropped():
    images = torch.randint(1, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = views.draw_shifts(40, 32, 32, torch.Generator().manual_seed(0))
    assert set(boxes[:, :2].flatten().tolist()) == set(map(float, range(-4, 5)))
    ours = views.crop_and_resize(images, boxes, 32, torch.zeros(40, dtype=torch.bool))
    for image, (top, left, *_), result in zip(images, boxes.int().tolist(), ours, strict=True):
        padded = torch.nn.functional.pad(image.float(), (4, 4, 4, 4))
        torch.testing.assert_close(result, padded[:, 4 + top : 36 + top, 4 + left : 36 + left], atol=1e-3, rtol=0)


def test_halving_averages_two_by_two_pixels():
    image, whole = torch.rand(1, 3, 40, 40), torch.tensor([[0.0, 0, 40, 40]])
    half = views.crop_and_resize(image, whole, 20, torch.zeros(1, dtype=torch.bool))
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(image, 2), atol=1e-5, rtol=1e-4)


def test_the_training_view_is_chosen_by_the_configuration():
    padded, _ = views.draw_train_views(5, 32, 32, small(train_view="padded"), torch.Generator().manual_seed(0))
    resized, _ = views.draw_train_views(5, 32, 32, small(), torch.Generator().manual_seed(0))
    assert (padded[:, 2:] == 32).all()
    assert (resized[:, 2:] < 32).any()
