"""Table 9's modules: their counts, their outputs in float64 against plain code, and what stays frozen."""

import math

import open_clip
import pytest
import reference
import torch
from conftest import shaken, small
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from sagekit import SGAdapter, build_model, load_backbone
from sagekit.networks.backbone import Backbone
from sagekit.networks.modules import LowRank
from sagekit.networks.tuned import Tuned, tuned

NAMES = ["plain circle", "striped star", "dotted heart"]
IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GUIDANCE = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 11
D, R, P = 768, 4, 10
KINDS = ["bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "sg", "full"]


@pytest.fixture(scope="module")
def wide():
    """Two blocks of ViT-B's width."""
    clip = CLIP(64, CLIPVisionCfg(layers=2, width=D, patch_size=32, image_size=64), CLIPTextCfg(width=64, heads=1, layers=1))
    return Backbone(clip, open_clip.get_tokenizer("ViT-B-16"), "wide", (0.5,) * 3, (0.5,) * 3)


def method_of(kind, backbone, **changes):
    """LIFT with the module, or Sage, for three classes."""
    config = small("sage", **changes) if kind == "sg" else small("lift", module=kind, prompts=P, **changes)
    return build_model(config, NAMES, backbone)


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
    model = method_of(kind, wide, bottleneck=R)
    counts = model.parameter_counts()
    assert counts.pop("net", 0) == 2 * count
    assert counts == {"head": 3 * D} | ({"s_v": 1, "s_t": 1} if kind == "sg" else {})
    assert sum(p.numel() for p in model.trained().values()) == 2 * count + sum(counts.values())


def test_shallow_prompts_are_p_tokens_once(wide):
    assert method_of("vpt-shallow", wide).parameter_counts()["net"] == P * D


def test_full_is_the_whole_image_tower(wide):
    block = sum(p.numel() for p in wide.blocks[0].parameters())
    assert block == 12 * D * D + 13 * D
    every = sum(p.numel() for n, p in wide.visual.named_parameters() if n != "proj")
    assert method_of("full", wide).parameter_counts()["net"] == every


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def net_of(kind):
    """The module in a fresh mini CLIP."""
    backbone = load_backbone(small().network)
    if kind == "sg":
        return Tuned(backbone, [SGAdapter(backbone.width, R) for _ in range(backbone.layers)])
    return tuned(backbone, kind, R, 3)


@pytest.fixture
def net(kind):
    return shaken(net_of(kind))


def own(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def test_the_frozen_branch_stays_clip_s(net):
    theirs = net.backbone.clip.encode_image((IMAGES - 0.5) / 0.5)
    torch.testing.assert_close(net(IMAGES, GUIDANCE, with_frozen=True).frozen @ net.backbone.visual.proj, theirs)
    assert not any(p.requires_grad for p in net.backbone.parameters())


def test_a_known_frozen_feature_changes_nothing(net):
    both = net(IMAGES, GUIDANCE, with_frozen=True)
    again = net(IMAGES, GUIDANCE, both.frozen, with_frozen=True)
    torch.testing.assert_close(again.own, both.own)
    assert again.frozen is both.frozen
    alone = net(IMAGES, GUIDANCE)
    torch.testing.assert_close(alone.own, both.own)
    assert alone.frozen is None


def test_every_trained_tensor_gets_a_gradient_and_no_other(net):
    net(IMAGES, GUIDANCE, with_frozen=True).own.square().sum().backward()
    for name, p in net.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    assert all(p.grad.abs().max() > 0 for n, p in own(net).items() if not n.endswith("in_proj_bias"))


def test_every_trained_tensor_of_a_method_gets_a_gradient_and_no_other(kind):
    model = shaken(method_of(kind, load_backbone(small().network)))
    model.logits(IMAGES).prediction.square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (name in model.trained()) == p.requires_grad, name


def test_weights_survive_a_file(kind):
    model = shaken(method_of(kind, load_backbone(small().network)))
    other = method_of(kind, load_backbone(small().network)).double()
    other.load_trained(model.trained(), "a file")
    torch.testing.assert_close(other.logits(IMAGES).prediction, model.logits(IMAGES).prediction)


@pytest.mark.parametrize("kind", ["bitfit", "lora", "full"])
def test_a_twin_is_open_clip_s_own_encoder_with_its_tensors(net):
    theirs = net.tuned.clip.encode_image((IMAGES - 0.5) / 0.5)
    torch.testing.assert_close(net(IMAGES).own @ net.backbone.visual.proj, theirs)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_lora_adds_to_q_and_v_alone(scale):
    net = shaken(tuned(load_backbone(small().network), "lora", R, lora_scale=scale))
    d = net.backbone.width
    for frozen, changed in zip(net.backbone.blocks, net.tuned.blocks, strict=True):
        low = changed.attn.parametrizations.in_proj_weight[0]
        added = changed.attn.in_proj_weight - frozen.attn.in_proj_weight
        torch.testing.assert_close(added[:d], scale * low.b[0] @ low.a[0])
        assert added[d : 2 * d].abs().max() == 0
        torch.testing.assert_close(added[2 * d :], scale * low.b[1] @ low.a[1])


def test_lora_alpha_over_r_scales_the_product(backbone):
    for alpha, scale in ((None, 1.0), (1.0, 1 / R), (2.0 * R, 2.0)):
        model = method_of("lora", backbone, bottleneck=R, lora_alpha=alpha)
        assert model.net.tuned.blocks[0].attn.parametrizations.in_proj_weight[0].scale == scale


@pytest.mark.parametrize("rank", [1, 4, 64])
def test_lora_s_a_starts_uniform_within_one_over_the_root_of_d(rank):
    """Hu et al.'s: its fan-in is d, whatever the rank."""
    torch.manual_seed(0)
    low = LowRank(D, rank)
    assert low.b.abs().max() == 0
    for a in low.a * math.sqrt(D):
        assert 0.99 < a.abs().max() <= 1
        assert a.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.04)


def plain_features(net, image, deep=False):
    """Every token through every block, one image: Houlsby's adapter after the MLP, prompts after CLS."""
    frozen = net.backbone
    f = frozen.embed(image[None])[0]
    for i, block in enumerate(frozen.blocks):
        if net.prompts is not None and (deep or i == 0):
            old = 0 if i == 0 else net.prompts.tokens.shape[1]
            f = torch.cat([f[:1], net.prompts.tokens[i], f[1 + old :]])
        mid = reference.attention(block, f) + f
        h = block.mlp(block.ln_2(mid))
        f = mid + h
        if net.adapters is not None:
            a = net.adapters[i]
            hidden = torch.relu(reference.affine(reference.layer_norm(h, a.norm.weight, a.norm.bias), a.down))
            f = f + reference.affine(hidden, a.up)
    return frozen.visual.ln_post(f[0])


@pytest.mark.parametrize("kind", ["adapter", "vpt-shallow", "vpt-deep"])
def test_adapter_and_prompts_by_plain_code(net, kind):
    for row, image in zip(net(IMAGES).own, IMAGES, strict=True):
        torch.testing.assert_close(row, plain_features(net, image, deep=kind == "vpt-deep"))


@pytest.mark.parametrize("kind", ["bitfit", "adapter", "lora", "adaptformer", "sg", "full"])
def test_training_starts_at_the_frozen_feature(kind):
    net = net_of(kind)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES.float(), GUIDANCE.float()).own, net.backbone.features(IMAGES.float()))


def test_a_twin_shares_what_it_does_not_train():
    net = net_of("bitfit")
    apart = {id(p) for p in net.tuned.parameters()} - {id(p) for p in net.backbone.parameters()}
    assert apart == {id(p) for p in own(net).values()}


def test_a_stream_is_the_forward_in_either_branch(net):
    both = net(IMAGES, GUIDANCE, with_frozen=True)
    for frozen, branch, expected in ((False, net.tuned, both.own), (True, net.backbone, both.frozen)):
        *_, last = net.stream(IMAGES, GUIDANCE, frozen)
        assert last.block == branch.layers - 1
        torch.testing.assert_close(branch.pool(last.output), expected)
