"""Deep prompts with a pool: what an image takes, what learns from what, and that images do not mix."""

import copy

import pytest
import torch
from conftest import shaken
from twins import deep_prompted

from sagekit.networks.prompted import Pool, Pooled, Prompted

IMAGES = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Holder:
    def __init__(self, net):
        self.net = net


@pytest.fixture
def net(backbone):
    torch.manual_seed(0)
    net = shaken(Pooled(copy.deepcopy(backbone), prompts=3, groups=5, chosen=2))
    net.second = True
    return net


def test_an_image_takes_the_mean_of_its_nearest_groups():
    pool = Pool(4, blocks=2, prompts=3, width=6, chosen=2)
    with torch.no_grad():
        pool.keys.copy_(torch.eye(6)[:4] * torch.tensor([9.0, 1, 1, 0.01])[:, None])  # lengths say nothing
    own, likeness = pool(torch.tensor([[0.0, 4, 3, 0, 0, 0], [0.6, 0, 0, 0.8, 0, 0], [-1, -1, -1, 0, 0, 0]]))
    torch.testing.assert_close(own[0], (pool.prompts[1] + pool.prompts[2]) / 2)
    torch.testing.assert_close(own[1], (pool.prompts[0] + pool.prompts[3]) / 2)
    torch.testing.assert_close(likeness[:2], torch.tensor([1.4, 1.4]))
    assert own.shape == (3, 2, 3, 6)


def test_rounded_products_choose_no_other_group():
    pool, q = Pool(20, 1, 1, 64, 2), torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pool(q)
    assert torch.equal(rounded[1], pool(q)[1])


def test_the_query_is_the_network_without_the_pool_and_pass_2_is_literal(net):
    _, q = net.query(IMAGES)
    net.second = False
    torch.testing.assert_close(q, net(IMAGES).own)
    net.second = True
    own, likeness = net.pool(q)
    for image, mine, f in zip(IMAGES, own, net(IMAGES).own, strict=True):
        torch.testing.assert_close(f, deep_prompted(Holder(net), image, mine)[0])
    assert torch.equal(net.asked(IMAGES)[1], likeness)
    assert (net(IMAGES).own - q).abs().max() > 0.01


def test_one_image_alone_is_the_image_among_many(net):
    _, q = net.query(IMAGES)
    with torch.no_grad():
        net.pool.keys[:3] = q - q.mean(0)  # so that they take different groups
    own, _ = net.pool(q)
    assert not torch.equal(own[0], own[1])
    for image, f in zip(IMAGES, net(IMAGES).own, strict=True):
        torch.testing.assert_close(net(image[None]).own[0], f)


def test_the_mean_feature_is_literal(net):
    for image, f in zip(IMAGES, net.mean_feature(IMAGES), strict=True):
        cls, prompts = deep_prompted(Holder(net), image)
        torch.testing.assert_close(f, (cls + prompts.mean(0)) / 2)


@pytest.mark.parametrize("second", [False, True])
def test_a_stream_is_the_forward(net, second):
    net.second = second
    *_, last = net.stream(IMAGES)
    torch.testing.assert_close(net.tuned.pool(last.output), net(IMAGES).own)
    steps = [step.tokens.shape[1] for step in net.stream(IMAGES)]
    plain = 1 + 3 + net.backbone.patches
    assert steps == [plain] * 3 + [plain + 3 * second] * 3
    *_, frozen = net.stream(IMAGES, frozen=True)
    torch.testing.assert_close(net.backbone.pool(frozen.output), net.backbone.features(IMAGES))


def test_gradients(net):
    """Keys learn from their cosines alone, prompts of the pool where they were taken, the deep ones not in pass 2's query."""
    f, likeness = net.asked(IMAGES[:1])
    f.sum().backward(retain_graph=True)
    assert net.pool.keys.grad is None
    taken = net.pool.prompts.grad.abs().amax((1, 2, 3)) > 0
    assert int(taken.sum()) == 2
    likeness.sum().backward()
    assert ((net.pool.keys.grad.abs().amax(1) > 0) == taken).all()
    early = net.prompts.tokens.grad[: net.early]
    assert early.abs().max() == 0


@pytest.mark.parametrize("second", [False, True])
def test_blocks_computed_again_are_the_same(net, second):
    grads = []
    for checkpointing in (False, True):
        net.second, net.checkpointing = second, checkpointing
        net.zero_grad()
        net(IMAGES).own.square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [Prompted, Pooled])
def test_prompts_start_small_and_random(kind, backbone):
    torch.manual_seed(0)
    net = kind(backbone, 10, *((20, 2) if kind is Pooled else ()))
    own = [net.prompts.tokens, *([net.pool.prompts, net.pool.keys] if kind is Pooled else [])]
    for p in own:
        assert p.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(p.mean().item()) < 0.002
