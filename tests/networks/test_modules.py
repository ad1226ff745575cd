"""Table 9's modules: their counts, their outputs in float64 against plain code, and what stays frozen."""

import open_clip
import pytest
import reference
import torch
from conftest import shaken, small
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from sagekit import build_model, load_backbone
from sagekit.networks.backbone import Backbone
from sagekit.networks.tuned import Model

NAMES = ["plain circle", "striped star", "dotted heart"]
IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
D, R, P = 768, 4, 10
KINDS = ["bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "sg", "full"]


@pytest.fixture(scope="module")
def wide():
    """Two blocks of ViT-B's width."""
    clip = CLIP(64, CLIPVisionCfg(layers=2, width=D, patch_size=32, image_size=64), CLIPTextCfg(width=64, heads=1, layers=1))
    return Backbone(clip, open_clip.get_tokenizer("ViT-B-16"), "wide", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(("kind", "count"), [
    ("bitfit", 11 * D),
    ("vpt-deep", P * D),
    ("adapter", (2 * R + 3) * D + R),
    ("lora", 4 * R * D),
    ("adaptformer", (2 * R + 3) * D + R + 1),
    ("sg", (5 * R + D + 4) * D + 3 * R + 2),
    ("none", 0),
])
def test_parameters_of_a_block_are_table_9_s(wide, kind, count):
    model = Model(wide, torch.eye(5, D), small("lift", module=kind, bottleneck=R, prompts=P))
    assert model.parameter_counts() == {"module": 2 * count, "classifier": 5 * D, "fit": 0}
    assert sum(p.numel() for p in model.trained().values()) == 2 * count + 5 * D


def test_shallow_prompts_are_p_tokens_once(wide):
    assert Model(wide, torch.eye(5, D), small("lift", module="vpt-shallow", prompts=P)).parameter_counts()["module"] == P * D


def test_full_is_the_whole_image_tower(wide):
    model = Model(wide, torch.eye(5, D), small("lift", module="full"))
    block = sum(p.numel() for p in wide.blocks[0].parameters())
    assert block == 12 * D * D + 13 * D
    assert model.parameter_counts()["module"] == sum(p.numel() for n, p in wide.visual.named_parameters() if n != "proj")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return shaken(build_model(small("sage", module=kind, prompts=3), NAMES, load_backbone(small())))


def test_the_frozen_branch_stays_clip_s(model):
    theirs = model.backbone.clip.encode_image((IMAGES - 0.5) / 0.5)
    torch.testing.assert_close(model.features(IMAGES)[1] @ model.backbone.visual.proj, theirs)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_a_known_frozen_feature_changes_nothing(model):
    both = model(IMAGES)
    again = model(IMAGES, model.features(IMAGES)[1])
    for a, b in zip(both[:4], again[:4], strict=True):
        torch.testing.assert_close(a, b)


def test_every_trained_tensor_gets_a_gradient_and_no_other(model):
    model(IMAGES).prediction.square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    assert all(p.grad.abs().max() > 0 for n, p in model.trained().items() if not n.endswith("in_proj_bias"))


def test_weights_survive_a_file(model, kind):
    other = build_model(small("sage", module=kind, prompts=3), NAMES, load_backbone(small())).double()
    other.load_trained(model.trained(), "a file")
    torch.testing.assert_close(other(IMAGES).prediction, model(IMAGES).prediction)


@pytest.mark.parametrize("kind", ["bitfit", "lora", "full"])
def test_a_twin_is_open_clip_s_own_encoder_with_its_tensors(kind):
    model = shaken(build_model(small("lift", module=kind), NAMES, load_backbone(small())))
    theirs = model.tuned.clip.encode_image((IMAGES - 0.5) / 0.5)
    torch.testing.assert_close(model.features(IMAGES)[0] @ model.backbone.visual.proj, theirs)


def test_lora_adds_to_q_and_v_alone():
    model = shaken(build_model(small("lift", module="lora"), NAMES, load_backbone(small())))
    d = model.backbone.width
    for frozen, tuned in zip(model.backbone.blocks, model.tuned.blocks, strict=True):
        low = tuned.attn.parametrizations.in_proj_weight[0]
        added = tuned.attn.in_proj_weight - frozen.attn.in_proj_weight
        torch.testing.assert_close(added[:d], low.b[0] @ low.a[0])
        assert added[d : 2 * d].abs().max() == 0
        torch.testing.assert_close(added[2 * d :], low.b[1] @ low.a[1])


def plain_features(model, image, deep=False):
    """Every token through every block, one image: Houlsby's adapter after the MLP, prompts after CLS."""
    net = model.backbone
    f = net.embed(image[None])[0]
    for i, block in enumerate(net.blocks):
        if model.prompts is not None and (deep or i == 0):
            old = 0 if i == 0 else model.prompts.tokens.shape[1]
            f = torch.cat([f[:1], model.prompts.tokens[i], f[1 + old :]])
        mid = reference.attention(block, f) + f
        h = block.mlp(block.ln_2(mid))
        f = mid + h
        if model.adapters is not None:
            a = model.adapters[i]
            hidden = torch.relu(reference.affine(reference.layer_norm(h, a.norm.weight, a.norm.bias), a.down))
            f = f + reference.affine(hidden, a.up)
    return net.visual.ln_post(f[0])


@pytest.mark.parametrize("kind", ["adapter", "vpt-shallow", "vpt-deep"])
def test_adapter_and_prompts_by_plain_code(kind):
    model = shaken(build_model(small("lift", module=kind, prompts=3), NAMES, load_backbone(small())))
    ours = model.features(IMAGES)[0]
    for row, image in zip(ours, IMAGES, strict=True):
        torch.testing.assert_close(row, plain_features(model, image, deep=kind == "vpt-deep"))


@pytest.mark.parametrize("kind", ["bitfit", "adapter", "lora", "adaptformer", "sg", "full"])
def test_training_starts_at_the_frozen_feature(kind):
    model = build_model(small("lift", module=kind), NAMES, load_backbone(small()))
    with torch.no_grad():
        torch.testing.assert_close(model.features(IMAGES.float())[0], model.backbone.features(IMAGES.float()))


def test_a_twin_shares_what_it_does_not_train():
    model = build_model(small("lift", module="bitfit"), NAMES, load_backbone(small()))
    own = {id(p) for p in model.tuned.parameters()} - {id(p) for p in model.backbone.parameters()}
    assert own == {id(p) for n, p in model.trained().items() if n != "classifier"}
