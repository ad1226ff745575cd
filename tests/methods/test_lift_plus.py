"""LIFT+'s traps: crops that widen with the epoch, no flip, bicubic throughout, one epoch."""

import math

import pytest
import torch
from accelerate import Accelerator
from conftest import small
from torchvision.transforms import v2

import sagekit as sk
from sagekit.data import views
from sagekit.data.batches import evaluation_batches, train_batches
from sagekit.data.splits import Split
from sagekit.training.evaluate import predict

NAMES = ["plain circle", "striped star", "dotted heart"]


def shares(config, epoch):
    """Area shares of an epoch's crops of 400 square images."""
    (stage,) = config.stages
    draws = views.draw_train_views(400, 200, 200, stage.views[0], config.views, torch.Generator().manual_seed(epoch),
                                   epoch / stage.epochs)
    assert not draws.flips.any()
    assert torch.equal(draws.boxes[:, 2], draws.boxes[:, 3])
    return draws.boxes[:, 2] ** 2 / 200**2


def test_crops_widen_over_the_run_s_own_epochs():
    for preset, epochs in (("places-lt", 5), ("inat2018", 15)):
        config = sk.Config.preset(preset, "lift_plus")
        assert config.epochs == epochs
        for epoch in range(epochs):
            least = 0.08 + 0.92 * (1 - math.sqrt(1 - (epoch / (epochs - 1)) ** 2))
            found = shares(config, epoch)
            assert found.min().item() == pytest.approx(least, abs=0.012)
            assert found.max().item() == pytest.approx(1, abs=0.012)


def test_the_last_epoch_shows_the_whole_square_and_one_epoch_is_the_last():
    assert shares(small("lift_plus", epochs=5), 4).min() == 1
    assert shares(small("lift_plus", epochs=1), 0).min() == 1


def test_batches_of_a_later_epoch_are_wider(data):
    """The share reaches the views through the batches: what training sees in its last epoch is the image itself."""
    config = small("lift_plus", epochs=5)
    (stage,) = config.stages
    first, last = (next(train_batches(data.train, stage, config.views, 48, 0, epoch, torch.device("cpu"), done=epoch / 5))[0]
                   for epoch in (0, 4))
    exact = data.train.images[last.places] / 255
    assert (last.views[0] - exact).abs().max() < 1e-5
    assert (first.views[0] - data.train.images[first.places] / 255).abs().mean() > 0.02


@pytest.mark.parametrize("method", ["lift", "lift_plus"])
def test_test_views_are_bicubic_on_the_mini_world_too(method, backbone):
    image = torch.randint(256, (1, 3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = sk.build_model(small(method), NAMES, backbone)
    split = Split(torch.zeros(1, dtype=torch.long), image)
    (((found,), _),) = evaluation_batches(split, small(method).views, 48, torch.device("cpu"), False,
                                          interpolation=model.interpolation)
    kind = v2.InterpolationMode.BICUBIC if method == "lift_plus" else v2.InterpolationMode.BILINEAR
    exact = v2.functional.center_crop(v2.functional.resize(image / 255, [48], kind, antialias=True), [48, 48]).clamp(0, 1)
    torch.testing.assert_close(found, exact)


def test_frozen_features_of_other_views_are_not_taken_from_the_cache(data, backbone):
    """``classifier`` and ``lift_plus`` with nothing in the blocks see the same five crops, resized in another way."""
    split = Split(data.test.labels[:8], data.test.images[:8])
    found = []
    for method in ("classifier", "lift_plus"):
        config = small(method, module="none")
        model = sk.build_model(config, None, backbone)
        crops = views.five_crops(split.images, 48, config.views, model.interpolation)
        with torch.no_grad():
            exact = torch.stack([model.logits(crop).z for crop in crops]).mean(0)
        found.append(torch.from_numpy(predict(model, split, config, Accelerator(cpu=True), True, show=False).z))
        torch.testing.assert_close(found[-1], exact, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(*found, atol=1e-3)


def test_the_down_projection_starts_uniform(backbone):
    for method, within in (("lift", False), ("lift_plus", True)):
        model = sk.build_model(small(method, bottleneck=64), NAMES, backbone)
        for adapter in model.net.adapters:
            weight = adapter.down.weight * math.sqrt(128)
            assert (weight.abs().max() <= 1) == within
            assert weight.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.03)
            assert adapter.down.bias.abs().max() == 0


def test_its_settings_are_the_authors():
    s = sk.Config.preset("places-lt", "lift_plus").settings
    assert (s.epochs, s.lr, s.batch_size, s.weight_decay, s.start, s.shots, s.templates, s.logit_scale) == (
        5, 0.02, 128, 5e-4, "text", 100, 1, 25)


def test_class_means_of_at_most_a_hundred_images(backbone):
    model = sk.build_model(small("lift_plus", start="class_mean"), NAMES, backbone, class_counts=[900, 100, 99])
    (line,) = model.beforehand(10**9)
    assert line.startswith("1 of 3 classes have fewer than shots=100")
