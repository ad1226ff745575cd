"""BBN's traps: the factor 2, the weight a, the reversed sampler, a trunk that sees two batches, its own schedule."""

import math

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit.data.batches import Batch
from sagekit.data.samplers import every_image, reverse
from sagekit.methods import Now

G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 24, 24, generator=G)
A, B = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 0])


@pytest.fixture
def model():
    config = sk.Config.preset("mini", "bbn", epochs=10)
    return sk.build_model(config, ["plain circle", "striped star", "dotted heart"], class_counts=[5, 3, 2])


def pair(first=IMAGES, second=IMAGES):
    return Batch((first,), A, torch.arange(4)), Batch((second,), B, torch.arange(4))


def at(epoch):
    return Now(0, epoch, epoch / 10, G)


def test_at_half_the_training_logits_are_the_tests(model):
    """The factor 2: with a = 1/2 and one image in both branches, z = W [f_a ; f_b] + bias."""
    model.eval()
    terms, z = model(pair(), at(10 * math.sqrt(0.5))), model.logits(IMAGES).prediction
    torch.testing.assert_close(terms["natural"], F.cross_entropy(z, A))
    torch.testing.assert_close(terms["reversed"], F.cross_entropy(z, B))
    torch.testing.assert_close(terms["loss"], (terms["natural"] + terms["reversed"]) / 2)


@pytest.mark.parametrize(("epoch", "a"), [(0, 1.0), (5, 0.75), (9, 0.19)])
def test_a_falls_as_a_parabola(model, epoch, a):
    terms = model.eval()(pair(), at(epoch))
    torch.testing.assert_close(terms["loss"], a * terms["natural"] + (1 - a) * terms["reversed"])


def test_the_first_epoch_trains_the_first_branch_alone(model):
    model.train()(pair(), at(0))["loss"].backward()
    assert all(p.grad.abs().max() == 0 for p in model.branch_b.parameters())
    assert all(p.grad.abs().max() > 0 for p in model.branch_a.parameters())
    assert model.head.weight.grad[:, 64:].abs().max() == 0


def test_each_branch_sees_its_own_batch_and_the_trunk_both_one_after_the_other(model):
    other = torch.rand(4, 3, 24, 24, generator=G)
    model.train()(pair(IMAGES, other), at(5))
    assert model.trunk.norm.num_batches_tracked == 2
    assert model.branch_a.norm1.num_batches_tracked == model.branch_b.norm1.num_batches_tracked == 1
    means = [F.conv2d((x - 0.5) / 0.25, model.trunk.stem.weight, padding=1).mean((0, 2, 3)) for x in (IMAGES, other)]
    torch.testing.assert_close(model.trunk.norm.running_mean, 0.9 * 0.1 * means[0] + 0.1 * means[1], atol=1e-5, rtol=1e-4)


def test_the_last_block_exists_twice(model):
    assert len(model.trunk.blocks) == 14
    assert sum(block.conv1.out_channels == 64 for block in model.trunk.blocks) == 4
    assert not torch.equal(model.branch_a.conv1.weight, model.branch_b.conv1.weight)
    assert model.features(IMAGES).own.shape == (4, 128)


def test_its_schedule_and_samplers():
    (stage,) = sk.Config.preset("cifar100-lt-100", "bbn").stages
    rates = [stage.rate(e, 0.0, 200) for e in (0, 4, 119, 120, 159, 160)]
    assert rates == pytest.approx([1 / 3 + 2 / 15, 1, 1, 1e-2, 1e-2, 1e-4])
    assert stage.samplers == (every_image, reverse)
    assert stage.optimizer.nesterov
    assert stage.drop_last
