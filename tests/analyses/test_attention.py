"""Attention maps against attention itself, a planted pattern, and the eight terms of Eq 13."""

import pytest
import reference
import torch
from conftest import shaken, small

from sagekit import UserError, build_model, load_backbone
from sagekit.analyses import attention

IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NAMES = ["plain circle", "striped star"]


def model_of(method="sage", **changes):
    return shaken(build_model(small(method, **changes), NAMES, load_backbone(small().network)))


@pytest.mark.parametrize(("frozen", "method", "changes"), [
    (True, "sage", {}), (False, "sage", {}), (False, "lift", {"module": "vpt-deep", "prompts": 3})])
def test_weights_give_the_block_s_own_attention(frozen, method, changes):
    """Weights times values, joined and projected, is what the block computes without showing weights."""
    model = model_of(method, **changes)
    net, tokens = model.net.backbone, model.net.backbone.embed(IMAGES)
    weights = net.attention_weights(0, tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    attn, d = net.blocks[0].attn, net.width
    v = (net.blocks[0].ln_1(tokens) @ attn.in_proj_weight[2 * d :].T + attn.in_proj_bias[2 * d :])
    v = v.unflatten(-1, (net.heads, -1)).transpose(1, 2)
    mixed = reference.affine((weights @ v).transpose(1, 2).flatten(2), attn.out_proj)
    torch.testing.assert_close(tokens + mixed, net.attend(0, tokens))
    maps = attention.maps(model, IMAGES, frozen)
    assert maps.shape == (net.layers, 2, net.heads, 6, 6)
    assert (maps.sum((-1, -2)) < 1).all()
    if frozen:
        torch.testing.assert_close(maps[0].flatten(-2), weights[:, :, 0, 1:])


def test_the_tuned_branch_moves_from_block_2_on():
    model = model_of()
    tuned, frozen = attention.maps(model, IMAGES), attention.maps(model, IMAGES, frozen=True)
    torch.testing.assert_close(tuned[0], frozen[0])  # the first adapter enters after block 1's attention
    assert not torch.allclose(tuned[1], frozen[1])


def test_open_clip_s_own_weights():
    """The block's attention module, asked for its weights, gives the same maps."""
    net = load_backbone(small().network).double()
    tokens = net.embed(IMAGES)
    x = net.blocks[0].ln_1(tokens)
    theirs = net.blocks[0].attn(x, x, x, need_weights=True, average_attn_weights=False)[1]
    torch.testing.assert_close(net.attention_weights(0, tokens), theirs)


def test_a_planted_pattern_is_measured():
    maps = torch.zeros(1, 2, 1, 2, 2)
    maps[0, 0, 0] = torch.tensor([[0.6, 0.2], [0.0, 0.0]])  # does not sum to 1: CLS keeps the rest
    maps[0, 1, 0] = 0.1
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, :2, :2] = True  # the whole first patch
    masks[1, 0, 2] = True  # and a quarter of the second
    share = attention.on_object(maps, masks)
    assert share[0, :, 0].tolist() == pytest.approx([0.75, 1.25 / 4])


def test_even_attention_has_the_object_s_area():
    masks = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.3
    share = attention.on_object(torch.ones(1, 3, 1, 6, 6), masks)
    torch.testing.assert_close(share[0, :, 0], masks.float().mean((1, 2)))


def test_other_numbers_of_masks_are_refused():
    with pytest.raises(UserError, match="1 masks for 2 images"):
        attention.on_object(torch.ones(1, 2, 1, 2, 2), torch.ones(1, 4, 4, dtype=torch.bool))


def test_eq_13_is_an_identity_in_eight_terms():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(5, 8, dtype=torch.float64, generator=g)
    q, k, v = torch.randn(3, 8, 2, dtype=torch.float64, generator=g)
    terms = attention.expansion(f[:, :4], f[:, 4:], q, k, v)
    assert len(terms) == 8
    torch.testing.assert_close(sum(terms.values()), (f @ q) @ (f @ k).T @ (f @ v))
    assert [sum(part in key for key in terms) for part in (1, 2)] == [7, 7]
    torch.testing.assert_close(terms[1, 2, 1], f[:, :4] @ q[:4] @ (f[:, 4:] @ k[4:]).T @ f[:, :4] @ v[:4])
