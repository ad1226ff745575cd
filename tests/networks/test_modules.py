"""Table 9's modules and LIFT's others: their counts, their outputs in float64 against plain code, and what stays frozen."""

import copy
import math
import re

import open_clip
import pytest
import reference
import torch
from conftest import shaken, small
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import QuickGELU

from sagekit import SGAdapter, UserError, build_model, load_backbone
from sagekit.networks.backbone import Backbone
from sagekit.networks.modules import LowRank, default_share
from sagekit.networks.tuned import Tuned, tuned

NAMES = ["plain circle", "striped star", "dotted heart"]
IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GUIDANCE = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 11
D, R, P = 768, 4, 10
KINDS = ["bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "sg", "full", "layernorm", "ssf", "lora-mlp",
         "mask"]
MASKED = sum(int(n * (m + 1) * 0.001) for n, m in ((3 * D, D), (D, D), (4 * D, D), (D, 4 * D)))
"""Of three classes, which have the least share."""


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
    ("layernorm", 4 * D),
    ("ssf", 22 * D),
    ("lora-mlp", 2 * R * (D + 4 * D)),
    ("mask", MASKED),
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


@pytest.mark.parametrize("kind", ["bitfit", "lora", "full", "layernorm", "ssf", "lora-mlp", "mask"])
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


@pytest.mark.parametrize("kind", ["bitfit", "adapter", "lora", "adaptformer", "sg", "full", "layernorm", "lora-mlp", "mask"])
def test_training_starts_at_the_frozen_feature(kind):
    net = net_of(kind)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES.float(), GUIDANCE.float()).own, net.backbone.features(IMAGES.float()))


@pytest.mark.parametrize("kind", ["bitfit", "layernorm", "ssf", "lora-mlp", "mask"])
def test_a_twin_shares_what_it_does_not_train(kind):
    net = net_of(kind)
    apart = {id(p) for p in net.tuned.parameters()} - {id(p) for p in net.backbone.parameters()}
    assert apart == {id(p) for p in own(net).values()}


def test_a_stream_is_the_forward_in_either_branch(net):
    both = net(IMAGES, GUIDANCE, with_frozen=True)
    for frozen, branch, expected in ((False, net.tuned, both.own), (True, net.backbone, both.frozen)):
        *_, last = net.stream(IMAGES, GUIDANCE, frozen)
        assert last.block == branch.layers - 1
        torch.testing.assert_close(branch.pool(last.output), expected)


# --- SSF, LoRA on the MLP, mask -------------------------------------------------------------------------------------------


def quick(backbone):
    """``backbone`` with OpenAI's quick GELU, whose 1.702 goes into the weights, as if the model had been built so."""
    backbone = copy.deepcopy(backbone)
    for block in backbone.blocks:
        block.mlp.gelu = QuickGELU()
    backbone.quick_gelu = True
    return backbone


def ssf_features(net, image):
    """LIFT's forward: scale and shift written out behind each layer, one image."""
    f = net.backbone.embed(image[None])[0]
    for frozen, own in zip(net.backbone.blocks, net.tuned.blocks, strict=True):
        def shown(x, layer, name="bias"):
            change = layer.parametrizations[name][0]
            return x * change.scale + change.shift

        attn, mlp = frozen.attn, frozen.mlp
        x = shown(frozen.ln_1(f), own.ln_1)
        x = shown(x @ attn.in_proj_weight.T + attn.in_proj_bias, own.attn, "in_proj_bias")
        parts = []
        for q, k, v in zip(*(part.chunk(attn.num_heads, -1) for part in x.chunk(3, -1)), strict=True):
            parts.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1) @ v)
        f = f + shown(reference.affine(torch.cat(parts, 1), attn.out_proj), own.attn.out_proj)
        x = shown(frozen.ln_2(f), own.ln_2)
        x = mlp.gelu(shown(reference.affine(x, mlp.c_fc), own.mlp.c_fc))
        f = f + shown(reference.affine(x, mlp.c_proj), own.mlp.c_proj)
    return net.backbone.visual.ln_post(f[0])


def low_rank_features(net, image, scale):
    """LoRA's product beside both of the MLP's layers, one image."""
    f = net.backbone.embed(image[None])[0]
    for frozen, own in zip(net.backbone.blocks, net.tuned.blocks, strict=True):
        f = f + reference.attention(frozen, f)
        x = frozen.ln_2(f)
        for name in ("c_fc", "c_proj"):
            low = getattr(own.mlp, name).parametrizations.weight[0]
            x = reference.affine(x, getattr(frozen.mlp, name)) + scale * (x @ low.a.T) @ low.b.T
            x = frozen.mlp.gelu(x) if name == "c_fc" else x
        f = f + x
    return net.backbone.visual.ln_post(f[0])


@pytest.mark.parametrize("gelu", [lambda backbone: backbone, quick], ids=["gelu", "quick gelu"])
@pytest.mark.parametrize(("kind", "literal"), [("ssf", ssf_features), ("lora-mlp", lambda n, x: low_rank_features(n, x, 0.25))])
def test_weights_that_are_changed_by_plain_code(kind, literal, gelu):
    """Values, and the gradients of all that is trained."""
    net = shaken(tuned(gelu(load_backbone(small().network)), kind, R, lora_scale=0.25))
    other = copy.deepcopy(net)
    ours, theirs = net(IMAGES).own, torch.stack([literal(other, image) for image in IMAGES])
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    for found in (ours, theirs):
        found.square().sum().backward()
    for (name, a), b in zip(own(net).items(), own(other).values(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-7, msg=name)


def test_ssf_starts_near_the_frozen_model_and_not_at_it(wide):
    torch.manual_seed(0)
    net = tuned(wide, "ssf", R)
    assert not torch.allclose(net.tuned.blocks[0].mlp.c_fc.weight, wide.blocks[0].mlp.c_fc.weight)
    found = own(net)
    for ending, mean in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([p.detach() for name, p in found.items() if name.endswith(ending)])
        assert values.mean().item() == pytest.approx(mean, abs=1e-3)
        assert values.std().item() == pytest.approx(0.02, rel=0.03)


def test_a_mask_leaves_all_other_weights_where_they_are():
    """Biases are drawn with the weights, out of [W | b], as LIFT draws them; the draw is the same whatever the run's seed."""
    backbone = load_backbone(small().network)
    torch.manual_seed(5)
    net, again = (shaken(tuned(copy.deepcopy(backbone), "mask", R, mask_share=0.03), seed=seed) for seed in (0, 1))
    moved = []
    for frozen, one, two in zip(net.backbone.blocks, net.tuned.blocks, again.tuned.blocks, strict=True):
        for part in (lambda b: (b.attn.in_proj_weight, b.attn.in_proj_bias), *(
                lambda b, get=get: (get(b).weight, get(b).bias)
                for get in (lambda b: b.attn.out_proj, lambda b: b.mlp.c_fc, lambda b: b.mlp.c_proj))):
            still, here, there = (torch.cat([w.detach(), b.detach()[:, None]], 1) for w, b in map(part, (frozen, one, two)))
            assert torch.equal(here != still, there != still)
            assert int((here != still).sum()) == int(0.03 * still.numel())
            moved.append(here != still)
    assert sum(int(m[:, -1].sum()) for m in moved) > 0
    g = torch.Generator().manual_seed(0)
    for mask in moved:
        expected = torch.zeros(mask.numel(), dtype=torch.bool)
        expected[torch.randperm(mask.numel(), generator=g)[: int(0.03 * mask.numel())]] = True
        assert torch.equal(mask.flatten(), expected)


def test_a_mask_of_everything_is_the_whole_layer():
    net = tuned(load_backbone(small().network), "mask", R, mask_share=1.0)
    d = net.backbone.width
    assert sum(p.numel() for p in own(net).values()) == net.backbone.layers * (12 * d * d + 9 * d)


def test_a_mask_s_places_are_in_no_file():
    model = method_of("mask", load_backbone(small().network))
    assert {name.rpartition(".")[2] for name in model.trained()} == {"values", "rows"}


@pytest.mark.parametrize(("classes", "layers", "width", "share"), [
    (100, 12, 768, 0.001), (365, 12, 768, 0.003), (1000, 12, 768, 0.009), (8142, 12, 768, 0.073), (3, 6, 128, 0.001)])
def test_the_default_share_is_lift_s(classes, layers, width, share):
    assert default_share(classes, layers, width) == share


# --- the last blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("vpt-shallow", "sg")])
def test_a_module_of_the_last_blocks_leaves_the_first_alone(kind):
    backbone = load_backbone(small().network)
    net = shaken(tuned(backbone, kind, R, 3, last_blocks=2))
    blocks = backbone.layers
    for step, frozen in zip(net.stream(IMAGES), net.stream(IMAGES, frozen=True), strict=True):
        if step.block < blocks - 2:
            assert torch.equal(step.output, frozen.output)
        else:
            assert not torch.allclose(step.output[:, 0], frozen.output[:, 0])
    assert {int(n) for name in own(net) for n in re.findall(r"(?:resblocks|adapters)\.(\d+)", name)} <= {blocks - 2, blocks - 1}
    every, some = (sum(p.numel() for p in own(tuned(backbone, kind, R, 3, last_blocks=k)).values()) for k in (blocks, 2))
    assert every == some * blocks // 2


@pytest.mark.parametrize("kind", ["adapter", "adaptformer", "lora", "mask", "full", "vpt-deep"])
def test_all_blocks_are_the_last_of_them(kind):
    """But for full, which then leaves the embedding and the last norm, as LIFT's does."""
    backbone = load_backbone(small().network)
    nets = []
    for last in (None, backbone.layers):
        torch.manual_seed(0)
        nets.append(tuned(backbone, kind, R, 3, last_blocks=last))
    if kind == "full":
        assert {name.removeprefix("tuned.visual.").split(".")[0] for name in own(nets[1])} == {"transformer"}
        return
    assert own(nets[0]).keys() == own(nets[1]).keys()
    torch.testing.assert_close(nets[0](IMAGES.float()).own, nets[1](IMAGES.float()).own)


def test_no_more_blocks_than_there_are(backbone):
    with pytest.raises(UserError, match=r"^last_blocks is 9 and mini has 6 blocks; choose 1 to 6\.$"):
        tuned(backbone, "lora", R, last_blocks=9)


@pytest.mark.parametrize("module", ["none", "vpt-shallow"])
def test_modules_that_are_in_no_block_have_no_last_blocks(module):
    with pytest.raises(UserError, match=f"^settings: module {module} is in no block .*leave out last_blocks"):
        small("lift", module=module, last_blocks=2)
