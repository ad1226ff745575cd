"""OLTR's traps: what the memory starts as, what moves it and how fast, and what a length means to the classifier."""

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit.data.batches import Batch, step_generator
from sagekit.data.samplers import class_aware, every_image
from sagekit.methods import Now, Seen
from sagekit.methods.oltr import feature_loss, memory_step
from sagekit.networks.heads import Features

NAMES = ["plain circle", "striped star", "dotted heart", "dotted star"]
LABELS = torch.tensor([0, 1, 0, 2, 0])  # class 3 is not in the batch


def build(**changes):
    torch.manual_seed(0)
    model = sk.build_model(sk.Config.preset("mini", "oltr", **changes), NAMES, class_counts=[9, 5, 3, 2])
    model.start_stage(1)
    return model.double()


def drawn(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def now(stage=1):
    return Now(stage, 0, 0.0, step_generator(0, 0, 0))


def test_the_memory_starts_as_the_class_means():
    model, features = build(), drawn(5, 64).float()
    model.look({"train": Seen(features, LABELS)}, now())
    expected = [features[LABELS.eq(k)].mean(0) if k < 3 else torch.zeros(64) for k in range(4)]
    torch.testing.assert_close(model.memory.detach().float(), torch.stack(expected))
    assert model.memory.requires_grad


def test_the_memory_moves_by_the_authors_rule_without_the_losss_weight():
    """(n_j M_j - sum f) / (1 + n_j) / B, where the gradient of 0.01 A would be 0.01 (n_j M_j - sum f) / B."""
    f, memory = drawn(5, 64), drawn(4, 64, seed=1).requires_grad_()
    memory_step(f, LABELS, memory).backward()
    for k, n in ((0, 3), (1, 1), (2, 1)):
        expected = (n * memory[k] - f[LABELS.eq(k)].sum(0)) / (1 + n) / 5
        torch.testing.assert_close(memory.grad[k], expected.detach())
    assert memory.grad[3].abs().max() == 0


def test_only_the_feature_loss_moves_the_memory():
    """The classifier sees the memory as a constant; beyond the margin nothing but ``memory_step`` is left."""
    model = build()
    with torch.no_grad():
        model.memory.copy_(drawn(4, 64))  # some 100 from the features, squared
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.eval()  # the same features again below
    terms = model((Batch((images,), LABELS, torch.arange(5)),), now())
    terms["loss"].backward()
    f, memory = model.features(images).own.detach(), model.memory.detach().clone().requires_grad_()
    memory_step(f, LABELS, memory).backward()
    torch.testing.assert_close(model.memory.grad, memory.grad)
    value = terms["z"] + 0.01 * terms["feature"]
    assert terms["loss"].item() == pytest.approx(value.item(), abs=1e-12)  # the step itself adds nothing


@pytest.mark.parametrize(("scale", "repels"), [(0.1, True), (1.0, False)])
def test_repulsion_is_on_below_its_margin_only(scale, repels):
    f, memory = drawn(5, 64, scale=scale), drawn(4, 64, scale=scale, seed=1).requires_grad_()
    loss = feature_loss(f, LABELS, memory)
    own, squares = 0.0, 0.0
    for b, y in enumerate(LABELS.tolist()):
        own += ((f[b] - memory[y]) ** 2).sum() / 2 / 5
        squares += sum(((f[b] - memory[k]) ** 2).sum() for k in range(4) if k != y)
    mean = squares / (5 * 4)  # over all pairs, the own ones counted as 0
    assert (mean.item() < 10) is repels
    torch.testing.assert_close(loss, own + 0.01 * max(torch.zeros((), dtype=loss.dtype), 10 - mean))
    loss.backward()
    assert (memory.grad.abs().max().item() > 0) is repels


def test_a_logit_is_a_cosine_times_a_length_below_its_scale():
    model, f = build(), drawn(6, 64)
    with torch.no_grad():
        model.selector.weight.zero_()
        model.selector.bias.zero_()  # nothing is borrowed: v = r f
        model.memory.copy_(drawn(4, 64, scale=0.1, seed=1))
    z = model.classify(Features(f)).z
    cosines = F.normalize(f, dim=1) @ F.normalize(model.rows, dim=1).T
    length = 10 * f.norm(dim=1) / torch.stack([min((a - m).norm() for m in model.memory) for a in f])
    torch.testing.assert_close(z, 16 * (length / (1 + length))[:, None] * cosines)
    assert z.abs().max() < 16


def test_nearness_to_a_centre_makes_sure():
    model, f = build(), drawn(1, 64)
    with torch.no_grad():
        model.memory.copy_(drawn(4, 64, seed=1))
        far = model.classify(Features(f)).z
        model.memory[2] = f[0] + 1e-3
        near = model.classify(Features(f)).z
    assert near.norm() > far.norm()


def test_a_feature_may_be_a_centre():
    model, f = build(), drawn(2, 64).requires_grad_()
    with torch.no_grad():
        model.memory[1] = f[0]
    z = model.classify(Features(f)).z
    z.sum().backward()
    assert z.isfinite().all()
    assert f.grad.isfinite().all()


def test_the_memory_is_asked_by_the_classifier_of_stage_1():
    model, f = build(), drawn(2, 64)
    with torch.no_grad():
        model.memory.copy_(drawn(4, 64, seed=1))
        before = model.classify(Features(f)).z
        model.head.bias[3] += 50  # now class 3's centre alone is borrowed
        after = model.classify(Features(f)).z
        borrowed = torch.tanh(model.selector(f)) * model.memory[3]
        nearest = torch.cdist(f, model.memory).min(1, keepdim=True).values
        v = 10 / nearest * (f + borrowed)
        expected = 16 * v / (1 + v.norm(dim=1, keepdim=True)) @ F.normalize(model.rows, dim=1).T
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)
    model.start_stage(0)
    torch.testing.assert_close(model.classify(Features(f)).z, model.head(f))


def test_stage_1_is_that_of_the_others_and_stage_2_has_three_rates():
    first, second = sk.Config.preset("cifar100-lt-100", "oltr").stages
    assert first == sk.Config.preset("cifar100-lt-100", "crt").stages[0]
    assert (first.samplers, second.samplers, second.trains) == ((every_image,), (class_aware,), "")
    assert [second.rate(e, 0.5, 60) for e in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])
    model = build()
    optimizer = sk.Config.preset("cifar100-lt-100", "oltr", memory_lr=0.02).stages[1].optimizer(dict(model.named_parameters()))
    rates = {id(p): (second.optimizer.lr * g["rate"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for p, lr in ((model.memory, 0.02), (model.net.stem.weight, 0.01), (model.rows, 0.1), (model.head.bias, 0.1),
                  (model.selector.weight, 0.1)):
        assert rates[id(p)] == pytest.approx((lr, 2e-4))  # a slow part's decay is not made up for


@pytest.mark.slow
def test_a_run_trains_everything_on_the_means_of_what_it_saw(tmp_path, monkeypatch):
    """The look sees stage 1's features in test mode, before any step of stage 2."""
    changes = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 1, "batch_size": 32,
               "classifier_epochs": 1}
    looked, method = [], type(build())
    real = method.look

    def look(model, seen, now):
        real(model, seen, now)
        looked.append((now.stage, now.epoch, model.training, model.memory.detach().clone(), model.head.weight.detach().clone()))

    monkeypatch.setattr(method, "look", look)
    run = sk.train(sk.Config.preset("mini", "oltr", **changes), tmp_path / "run", show=False)
    ((stage, epoch, training, memory, asked),) = looked
    assert (stage, epoch, training) == (1, 0, False)
    assert (memory.abs().sum(1) > 0).all()  # every class has images
    weights = run.weights()
    assert not torch.equal(weights["memory"], memory)
    assert not torch.equal(weights["head.weight"], asked)
    assert (weights["memory"] - memory).norm() < 0.5 * memory.norm()
