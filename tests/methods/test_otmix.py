"""OTmix's traps: the plan, what the cost compares, whose confusion it is, which epochs transport, what BatchNorm sees."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import shaken
from scipy.optimize import linprog
from twins import otmix_step, sinkhorn

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import Batch, step_generator
from sagekit.data.samplers import class_balanced, every_image
from sagekit.methods import Now, Seen, otmix
from sagekit.networks.heads import Logits

trainer = sys.modules["sagekit.training.train"]
NAMES, COUNTS = ["plain circle", "striped star", "dotted heart"], [5, 3, 2]
BACK_LABELS, FRONT_LABELS = torch.tensor([0, 1, 2, 0, 0]), torch.tensor([2, 1, 0, 2, 1])


def build(**changes):
    return sk.build_model(sk.Config.preset("mini", "otmix", **changes), NAMES, class_counts=COUNTS)


def pair(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return tuple(Batch((torch.rand(5, 3, 24, 24, generator=g, dtype=dtype),), labels, torch.arange(5))
                 for labels in (BACK_LABELS, FRONT_LABELS))


def at(epoch, step=0):
    return Now(0, epoch, 0.0, step_generator(0, epoch, step))


def costs(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "regularisation"), [((6, 6), 0.05), ((5, 8), 0.02), ((8, 3), 0.05), ((6, 6), 1.0)])
def test_sinkhorn_is_the_literal_fixed_point(shape, regularisation):
    cost = costs(*shape)
    found = otmix.transport(cost, regularisation, rounds=100_000, tolerance=1e-13)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, sinkhorn(cost, regularisation), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.full((shape[0],), 1 / shape[0], dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((shape[1],), 1 / shape[1], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(6, 6), (4, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_with_little_regularisation_it_is_the_linear_programs(shape, seed):
    cost = costs(*shape, seed=seed)
    rows, columns = shape
    sums = torch.zeros(rows + columns, rows, columns)
    for i in range(rows):
        sums[i, i] = 1
    for j in range(columns):
        sums[rows + j, :, j] = 1
    best = linprog(cost.flatten(), A_eq=sums.flatten(1), b_eq=[1 / rows] * rows + [1 / columns] * columns)
    found = otmix.transport(cost, 1e-3, rounds=10_000)
    assert (found * cost).sum().item() == pytest.approx(best.fun, abs=1e-3)
    torch.testing.assert_close(found, torch.tensor(best.x).view(shape), atol=2e-3, rtol=0)


def test_it_does_not_underflow():
    """At r = 0.01 a float32 kernel of a cost of 1 is 0 already, at r = 1e-4 one in float64 too."""
    cost = 1 + costs(7, 7).float()
    assert torch.exp(-cost / 0.01).max() < 1e-38
    assert torch.exp(-cost.double() / 1e-4).max() == 0
    for regularisation in (0.01, 1e-4):
        plan = otmix.transport(cost, regularisation)
        assert torch.isfinite(plan).all()
        torch.testing.assert_close(plan.sum(1), torch.full((7,), 1 / 7, dtype=torch.float64))
    torch.testing.assert_close(otmix.transport(cost, 0.01), otmix.transport(cost - 1, 0.01), atol=1e-7, rtol=1e-4)


# --- the step -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [0.1, 0.9])
@pytest.mark.parametrize("weight", [0.05, 1.0])
def test_with_classes_that_are_confused_it_is_its_twin(draw, weight):
    """Epoch 1 of 4: one of transport where the epoch's draw is below 1/4. Value and gradient in float64."""
    model = shaken(build(epochs=4, plain_epochs=0, mix_probability=1.0, feature_weight=weight)).train()
    model.draw.fill_(draw)
    model.confused.copy_(costs(3, 3).fill_diagonal_(0))
    twin, batches = copy.deepcopy(model), pair(dtype=torch.float64)
    ours, literal = model(batches, at(1))["loss"], otmix_step(twin, *batches, at(1))
    torch.testing.assert_close(ours, literal, atol=1e-9, rtol=1e-9)
    ours.backward()
    literal.backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-9, rtol=1e-7, msg=name)


def test_a_patch_goes_onto_a_class_that_its_own_is_taken_for():
    """C's row is the patch's class, its column the background's."""
    model, (back, front) = build(feature_weight=0.0), pair()
    model.confused[2, 1] = model.confused[1, 2] = 0.5  # and class 0, with the diagonal, is confused with nothing
    chosen = model.backgrounds(back, front)
    assert BACK_LABELS[chosen[FRONT_LABELS == 2]].tolist() == [1, 1]  # one background may serve several patches
    assert set(BACK_LABELS[chosen[FRONT_LABELS == 1]].tolist()) == {2}


def test_alike_maps_are_paired_where_features_alone_count():
    model, (back, front) = build(feature_weight=1.0).eval(), pair()
    order = torch.tensor([3, 0, 4, 1, 2])
    same = Batch((back.views[0][order],), FRONT_LABELS, torch.arange(5))
    assert torch.equal(model.backgrounds(back, same), order)
    flat = [model.net.maps(batch.views[0]).flatten(1) for batch in (back, front)]
    cosines = torch.stack([torch.nn.functional.cosine_similarity(f, flat[0]) for f in flat[1]])
    plan = otmix.transport(1 - cosines, 0.01)
    assert torch.equal(model.backgrounds(back, front), plan.argmax(1))


@pytest.mark.parametrize("draw", [0.0, 0.99])
def test_as_many_mixed_images_as_patches(draw, monkeypatch):
    """In an epoch of transport the background is the chosen image, in CMO's the image of the same place."""
    model, (back, front), pasted = build(epochs=15, mix_probability=1.0), pair(), []
    real = otmix.paste
    monkeypatch.setattr(otmix, "paste", lambda *args: pasted.append(args) or real(*args))
    chosen = torch.tensor([3, 3, 1, 0, 3])
    monkeypatch.setattr(model, "backgrounds", lambda *batches: chosen)
    model.draw.fill_(draw)
    model((back, front), at(7))
    ((under, patches, share, *_),) = pasted
    assert torch.equal(under, back.views[0][chosen] if draw == 0 else back.views[0])
    assert torch.equal(patches, front.views[0])
    assert 0 < share < 1


@pytest.mark.parametrize(("draw", "moves"), [(0.0, 3), (0.99, 1)])
def test_the_two_more_forwards_move_batchnorms_statistics(draw, moves):
    """As the authors': backgrounds, patches, mixed images."""
    model = build(epochs=15, mix_probability=1.0).train()
    model.draw.fill_(draw)
    (back, front), net = pair(), model.net
    model((back, front), at(7))
    assert net.norm.num_batches_tracked == net.blocks[-1].norm2.num_batches_tracked == moves
    if moves == 3:
        first, second = (torch.nn.functional.conv2d((b.views[0] - 0.5) / 0.25, net.stem.weight, padding=1).mean((0, 2, 3))
                         for b in (back, front))
        model = build(epochs=15).train()
        model.backgrounds(back, front)
        torch.testing.assert_close(model.net.norm.running_mean, 0.9 * 0.1 * first + 0.1 * second, atol=1e-5, rtol=1e-4)


def test_no_gradient_through_the_plan():
    model, batches = build(), pair()
    model.backgrounds(*batches)
    assert all(p.grad is None for p in model.parameters())
    assert not model.backgrounds(*batches).requires_grad


# --- when -----------------------------------------------------------------------------------------------------------------


def test_an_epoch_transports_with_probability_e_of_t():
    model, often = build(epochs=10), torch.zeros(10)
    for seed in range(300):
        for epoch in range(10):
            model.start_epoch(Now(0, epoch, 0.0, step_generator(seed, epoch, 99)))
            often[epoch] += model.transports(epoch) / 300
    assert often[0] == 0
    torch.testing.assert_close(often, torch.arange(10) / 10, atol=0.09, rtol=0)
    assert {"draw", "confused"} <= set(model.trained())  # a run that continues knows them
    always = build(epochs=10, transport_power=0.0)
    always.draw.fill_(0.999)
    assert all(always.transports(epoch) for epoch in range(10))


def test_half_of_the_batches_are_mixed_in_the_middle_with_a_share_of_beta_4_4(monkeypatch):
    calls, real = [], otmix.paste
    monkeypatch.setattr(otmix, "paste", lambda *args: calls.append(args[2:]) or real(*args))
    model, batches, mixing = build(epochs=15), pair(), []
    monkeypatch.setattr(model, "logits", lambda images: Logits.plain(torch.zeros(5, 3)))
    model.draw.fill_(0.99)
    for epoch in range(15):
        calls.clear()
        for step in range(20):
            model(batches, at(epoch, step))
        mixing += [epoch] if calls else []
    calls.clear()
    for step in range(300):
        model(batches, at(7, step))
    assert mixing == list(range(4, 12))
    assert 120 < len(calls) < 180
    share, y, x = torch.tensor(calls).T
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)
    assert share.std().item() == pytest.approx(1 / 6, abs=0.03)  # of Beta(4, 4); uniform has 0.29
    for uniform in (y, x):
        assert uniform.std().item() == pytest.approx(12**-0.5, abs=0.04)


def test_its_schedule_and_samplers():
    (stage,) = sk.Config.preset("cifar100-lt-100", "otmix").stages
    assert (stage.epochs, stage.samplers, stage.shared) == (240, (every_image, class_balanced), "")
    rates = [stage.rate(e, 0.0, 240) for e in (0, 99, 100, 159, 160, 199, 200, 239)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 1e-4, 1e-4])


# --- the confusion --------------------------------------------------------------------------------------------------------


def test_confusion_is_of_the_true_class_without_the_diagonal():
    labels = torch.tensor([0, 0, 0, 0, 1, 3])
    taken_for = torch.tensor([0, 1, 1, 2, 1, 2])
    found = otmix.confusion(10.0 * torch.nn.functional.one_hot(taken_for, 4), labels)
    assert found.tolist() == [[0, 0.5, 0.25, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]  # class 2 has no image


@pytest.mark.parametrize("which", ["val", "train"])
def test_the_confusion_is_of_the_set_that_is_named_and_never_of_the_test(which):
    (stage,) = sk.Config.preset("mini", "otmix", confusion=which).stages
    assert (stage.looks, stage.look_again) == ((which,), True)
    model = build(confusion=which)
    seen = {name: Seen(torch.rand(20, 64, generator=torch.Generator().manual_seed(i)), torch.arange(20) % 3)
            for i, name in enumerate(("val", "train"))}
    model.look(seen, at(0))
    assert torch.equal(model.confused, otmix.confusion(model.head(seen[which].features), seen[which].labels))
    assert model.confused.sum() > 0


def test_a_loss_that_looks_sees_its_own_set_too():
    (stage,) = sk.Config.preset("mini", "otmix", confusion="train", loss="cdb").stages
    assert stage.looks == ("train", "val")
    model = build(confusion="train", loss="cdb")
    seen = {name: Seen(torch.rand(20, 64), torch.arange(20) % 3) for name in ("val", "train")}
    model.look(seen, at(1))
    assert model.class_accuracy.isfinite().all()


def test_without_validation_images_it_says_how_to_get_some():
    config = sk.Config.preset("cifar100-lt-100", "otmix")
    data = SimpleNamespace(train=range(1000), val=None, wordless=[])
    with pytest.raises(UserError, match=r"val_share=0\.1") as error:
        trainer._check(config, data, 1)
    assert "\n" not in str(error.value)
    trainer._check(config.changed(confusion="train"), data, 1)
