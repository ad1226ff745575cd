"""CLIP-Adapter's traps: what is mixed, the first epoch's rate, and how much is trained."""

import math

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit.data.views import bicubic
from sagekit.networks.heads import Features

CLASSES = ["plain circle", "striped star", "dotted heart", "dotted star"]


def build(backbone, **changes):
    return sk.build_model(sk.Config.preset("mini", "clip_adapter", **changes), CLASSES, backbone, class_counts=[9, 5, 3, 2])


def images(n=3):
    return torch.rand(n, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_four_fifths_of_the_feature_stay(backbone):
    model = build(backbone)
    f = backbone.shared(backbone.features(images()))
    first, _, second, _ = model.adapter
    hidden = (f @ first.weight.T).clamp(min=0)
    expected = 0.2 * (hidden @ second.weight.T).clamp(min=0) + 0.8 * f
    torch.testing.assert_close(model.features(images()).own, expected)
    assert torch.equal(model.features(images()).frozen, backbone.features(images()))


def test_an_adapter_that_says_nothing_leaves_zero_shot_clip(backbone):
    """In the shared space, with CLIP's own scale, which no length of the feature changes."""
    model = build(backbone)
    with torch.no_grad():
        model.adapter[2].weight.zero_()
        z = model.logits(images()).z
        texts = backbone.text_features(CLASSES, ["a photo of a [cls]."]) @ torch.linalg.pinv(backbone.visual.proj).T
        f = F.normalize(backbone.shared(backbone.features(images())), dim=1)
        shared = backbone.text_rows([[f"a photo of a {name}."] for name in CLASSES], shared=True)
    torch.testing.assert_close(z, 43.7 * f @ shared.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(F.normalize(texts, dim=1), shared, atol=1e-3, rtol=1e-3)  # the same texts, not mapped back


def test_texts_are_not_trained(backbone):
    model = build(backbone)
    assert set(model.trained()) == {"adapter.0.weight", "adapter.2.weight"}
    assert model.classify(Features(torch.rand(2, 96))).z.requires_grad is False


@pytest.mark.slow
def test_it_has_131_072_parameters_in_a_space_of_512():
    config = sk.Config.preset("cifar100-lt-100", "clip_adapter", backbone="ViT-B-32-quickgelu", pretrained="random")
    model = sk.build_model(config, CLASSES)
    assert model.parameter_counts() == {"adapter": 131_072}


def test_coops_line_of_training():
    (stage,) = sk.Config.preset("imagenet-lt", "clip_adapter").stages
    assert (stage.epochs, stage.batch_size, stage.optimizer.lr, stage.views) == (50, 32, 0.002, (bicubic,))
    rates = [stage.optimizer.lr * stage.rate(epoch, share, 50) for epoch, share in ((0, 0.0), (0, 0.9), (1, 0.0), (25, 0.5))]
    assert rates == pytest.approx([1e-5, 1e-5, 0.001 * (1 + math.cos(math.pi / 50)), 0.001])


def test_the_first_epochs_rate_is_1e_5_whatever_the_rate():
    for lr in (0.002, 0.1):
        (stage,) = sk.Config.preset("mini", "clip_adapter", lr=lr).stages
        assert stage.optimizer.lr * stage.rate(0, 0.5, 10) == pytest.approx(1e-5)


@pytest.mark.parametrize(("key", "value"), [("lr", 0), ("logit_scale", 0), ("templates", 7), ("schedule", "step")])
def test_bad_settings_are_named(key, value):
    with pytest.raises(sk.UserError, match=f"setting '{key}'"):
        sk.Config.preset("mini", "clip_adapter", **{key: value})
