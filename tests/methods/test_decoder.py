"""Decoder's traps: which tokens it gets, how much is new, and its rate."""

import math

import pytest
import torch

import sagekit as sk
from sagekit import UserError
from sagekit.methods import decoder
from sagekit.methods.decoder import Blocks

CLASSES = ["plain circle", "striped star", "dotted heart", "dotted star"]
IMAGES = {"cifar100-lt-100": 10_847, "cifar100-lt-50": 12_608, "cifar100-lt-10": 19_573, "places-lt": 62_500,
          "imagenet-lt": 115_846, "inat2018": 437_513}


def build(backbone, **changes):
    return sk.build_model(sk.Config.preset("mini", "decoder", **changes), CLASSES, backbone, class_counts=[9, 5, 3, 2])


def images(n=2):
    return torch.rand(n, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_new_blocks_have_the_printed_21_26m_parameters():
    assert sum(p.numel() for p in Blocks(768, 12).parameters()) == 21_263_616


def test_its_tokens_are_before_the_last_norm(backbone):
    model, given = build(backbone), []
    model.decoder.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    model.features(images())
    assert given[0].shape == (2, 37, 128)
    torch.testing.assert_close(backbone.visual.ln_post(given[0][:, 0]), backbone.features(images()), atol=1e-5, rtol=1e-5)


def test_the_last_block_says_of_cls_what_it_would_beside_all_tokens():
    torch.manual_seed(0)
    blocks, tokens = Blocks(32, 4), torch.randn(3, 7, 32)
    expected = tokens
    for block in blocks.blocks:
        expected = block(expected)
    torch.testing.assert_close(blocks(tokens), expected[:, 0], atol=1e-5, rtol=1e-5)


def test_no_norm_comes_at_the_end(backbone):
    """What is added to the last block's MLP arrives as it is."""
    model = build(backbone)
    with torch.no_grad():
        before = model.features(images()).own
        model.decoder.blocks[-1].mlp.c_proj.bias += 7
        torch.testing.assert_close(model.features(images()).own, before + 7, atol=1e-5, rtol=1e-5)


def test_clip_keeps_no_graph_and_nothing_of_it_is_trained(backbone):
    model, given = build(backbone), []
    model.decoder.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    for p in model.trained().values():
        p.requires_grad_(True)
    assert model.features(images()).own.requires_grad
    assert not given[0].requires_grad
    assert model.parameter_counts() == {"decoder": 3 * (12 * 128**2 + 13 * 128), "head": 4 * 128 + 4}
    assert model.frozen_backbone() is None


def test_the_rate_warms_up_and_ends_at_a_fifth():
    (stage,) = sk.Config.preset("imagenet-lt", "decoder").stages
    assert [stage.rate(0, 0.0, 16), stage.rate(0, 0.5, 16), stage.rate(1, 0.0, 16)] == pytest.approx([0, 0.5, 1])
    assert stage.rate(15, 1.0, 16) == pytest.approx(math.cos(7 * math.pi / 16)) == pytest.approx(0.195, abs=1e-3)
    assert stage.rate(8, 0.5, 16) == pytest.approx(math.cos(7 * math.pi / 32))  # half of what the warm-up left


def test_nesterov_and_no_decay_of_vectors(backbone):
    (stage,) = sk.Config.preset("imagenet-lt", "decoder").stages
    groups = stage.optimizer(build(backbone).trained()).param_groups
    assert {(group["nesterov"], group["momentum"], group["lr"]) for group in groups} == {(True, 0.9, 0.03)}
    assert {group["weight_decay"]: {p.ndim for p in group["params"]} for group in groups} == {5e-4: {2}, 0.0: {1}}


@pytest.mark.parametrize("preset", list(decoder.PUBLISHED))
def test_epochs_are_8192_steps_rounded(preset):
    assert sk.Config.preset(preset, "decoder").settings.epochs == round(8192 * 256 / IMAGES[preset])


@pytest.mark.parametrize(("key", "value"), [("loss", "ldam"), ("loss", "kps"), ("momentum", 0), ("schedule", "epoch")])
def test_bad_settings_are_named(key, value):
    """Margin losses need a cosine classifier, and Nesterov's momentum is one."""
    with pytest.raises(UserError, match=f"setting '{key}'"):
        sk.Config.preset("mini", "decoder", **{key: value})


@pytest.mark.parametrize("loss", ["ce", "cdb", "lade", "ddc"])
def test_other_losses_are_one_setting_away(backbone, loss):
    from sagekit.data.batches import Batch
    from sagekit.methods import Now

    model = build(backbone, loss=loss)
    labels = torch.tensor([0, 1])
    terms = model((Batch((images(),), labels, labels),), Now(0, 0, 0.0, torch.Generator()))
    assert torch.isfinite(terms["loss"])
    assert sk.Config.preset("mini", "decoder", loss=loss).stages[0].looks == (("val",) if loss == "cdb" else ())
