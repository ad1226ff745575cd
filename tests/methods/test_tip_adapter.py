"""Tip-Adapter's traps: how many keys a class has and counts for, what is trained, and what chooses alpha and beta."""

import math

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import step_generator
from sagekit.data.views import half
from sagekit.methods import Now, Seen, tip_adapter
from sagekit.methods._stages import AdamW
from sagekit.networks.heads import Features

CLASSES = ["plain circle", "striped star", "dotted heart", "dotted star"]
COUNTS = [9, 5, 3, 1]
LABELS = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))[torch.randperm(18, generator=torch.Generator().manual_seed(0))]
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 1, "batch_size": 32}


def build(backbone, **changes):
    config = sk.Config.preset("mini", "tip_adapter", **changes)
    return sk.build_model(config, CLASSES, backbone, class_counts=COUNTS)


def drawn(n, seed=0):
    return torch.randn(n, 96, generator=torch.Generator().manual_seed(seed))


def at(seed=0):
    return Now(0, 0, 0.0, step_generator(seed, 0, 0))


def looked(backbone, seed=0, **changes):
    model = build(backbone, **changes)
    model.look({"train": Seen(drawn(18), LABELS)}, at(seed))
    return model


# --- the keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_a_class_gives_at_most_its_shots_as_keys_each_once(backbone, shots):
    model = looked(backbone, shots=shots)
    images = F.normalize(drawn(18), dim=1)
    given = [int((images - key).norm(dim=1).argmin()) for key in model.keys]
    assert len(set(given)) == len(given)
    torch.testing.assert_close(model.keys.detach(), images[given])
    assert LABELS[given].tolist() == model.of_class.tolist()
    assert [LABELS[given].tolist().count(j) for j in range(4)] == [min(shots, n) for n in COUNTS]


def test_which_images_are_keys_hangs_on_the_run_s_seed(backbone):
    a, b, c = (looked(backbone, seed, shots=4).keys.detach() for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_with_as_many_keys_of_each_it_is_the_papers_sum(backbone):
    model = build(backbone, shots=1)
    model.look({"train": Seen(drawn(18), LABELS)}, at())
    x = F.normalize(drawn(2, seed=1), dim=1)
    with torch.no_grad():
        z = model.classify(Features(3 * x)).z  # whatever its length
        values = F.one_hot(model.of_class, 4).float()
        paper = 43.7 * x @ model.texts.T + 1.17 * torch.exp(-(1 - x @ model.keys.T)) @ values
    torch.testing.assert_close(z, paper, atol=1e-4, rtol=1e-5)


def test_a_class_of_one_image_has_its_say_as_one_of_sixteen_copies(backbone):
    """The trap of a plain sum: frequent classes would have more terms."""
    model, same = build(backbone), F.normalize(drawn(1), dim=1)
    with torch.no_grad():
        model.keys.copy_(same.expand_as(model.keys))
        asked = model.asked(F.normalize(drawn(3, seed=1), dim=1), 2.0)
    expected = 16 * torch.exp(-2 * (1 - F.normalize(drawn(3, seed=1), dim=1) @ same.T))
    torch.testing.assert_close(asked, expected.expand(-1, 4))


def test_thin_classes_are_said_beforehand(backbone):
    assert build(backbone, shots=4).beforehand(0) == ["2 of 4 classes have fewer than 4 training images and give all they have "
                                                      "as keys; 12 keys."]
    assert build(backbone, shots=1).beforehand(0) == []
    (line,) = build(backbone, shots=1, search=False).beforehand(0)
    assert "alpha is 1.17 and beta 1, which were not chosen" in line
    assert "--set search=true" in line


# --- stages -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tuned", "search", "epochs", "looks"), [
    (True, True, [20, 0], [("train",), ("val",)]),
    (True, False, [20], [("train",)]),
    (False, True, [0], [("train", "val")]),
    (False, False, [0], [("train",)]),
])
def test_what_is_trained_and_looked_at(tuned, search, epochs, looks):
    stages = sk.Config.preset("cifar100-lt-100", "tip_adapter", tuned=tuned, search=search).stages
    assert [stage.epochs for stage in stages] == epochs
    assert [stage.looks for stage in stages] == looks
    if tuned:
        first = stages[0]
        assert first.optimizer == AdamW(0.001, eps=1e-4)
        assert (first.batch_size, first.views) == (256, (half,))
        assert first.rate(10, 0.5, 20) == pytest.approx((1 + math.cos(math.pi * 10.5 / 20)) / 2)


def test_where_there_are_validation_images_it_searches():
    assert [sk.Config.preset(name, "tip_adapter").settings.search
            for name in ("mini", "places-lt", "imagenet-lt", "inat2018", "cifar100-lt-100")] == [True, True, True, False, False]


def test_training_free_counts_nothing_as_trained(backbone):
    assert build(backbone, tuned=False).parameter_counts() == {}
    assert build(backbone, shots=4).parameter_counts() == {"keys": 12 * 96}


@pytest.mark.parametrize("piece", [1024, 7])
def test_alpha_and_beta_are_the_best_on_validation_images(backbone, monkeypatch, piece):
    monkeypatch.setattr(tip_adapter, "PIECE", piece)
    model = looked(backbone)
    val = Seen(drawn(40, seed=2) + 2 * drawn(18)[:1], torch.arange(40) % 4)
    model.look({"val": val}, at())
    best, choice = -1.0, None
    x = F.normalize(val.features, dim=1)
    with torch.no_grad():
        for beta in tip_adapter.BETAS:
            for alpha in tip_adapter.ALPHAS:
                z = 43.7 * x @ model.texts.T + alpha * torch.stack(
                    [16 * torch.exp(-beta * (1 - x @ model.keys[model.of_class == j].T)).mean(1) for j in range(4)], 1)
                right = sum((z[val.labels == j].argmax(1) == j).float().mean().item() for j in range(4)) / 4
                if right > best + 1e-9:
                    best, choice = right, (alpha, beta)
    assert model.scalars() == {"alpha": pytest.approx(choice[0]), "beta": pytest.approx(choice[1])}
    with torch.no_grad():  # and they are what predicts
        asked = model.asked(x, choice[1])
        torch.testing.assert_close(model.classify(Features(x)).z, 43.7 * x @ model.texts.T + choice[0] * asked,
                                   atol=1e-3, rtol=1e-4)


# --- runs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [True, False])
def test_a_run_is_opened_with_the_keys_it_found(tmp_path, backbone, tuned):
    """A model that is opened again knows no counts, so not how many keys there are."""
    config = sk.Config.preset("mini", "tip_adapter", **TINY, tuned=tuned, shots=5)
    data = sk.load_data(config.data)
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    assert len(run.history) == (1 if tuned else 0)
    assert run.metrics["trainable_parameters"] == ({"keys": run.weights()["keys"].numel()} if tuned else {})
    assert len(run.weights()["keys"]) == sum(min(5, n) for n in data.class_counts.tolist())
    lengths = run.weights()["keys"].norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5) is not tuned
    again = sk.evaluate(run, show=False)
    assert again["results"]["single"]["all"] == run.record("test")["results"]["single"]["all"]
    model = sk.load_model(run, data.class_names, backbone)
    assert torch.equal(model.keys, run.weights()["keys"])
    assert model.alpha.item() in [pytest.approx(alpha) for alpha in tip_adapter.ALPHAS]


def test_weights_of_another_space_are_refused(backbone):
    model = build(backbone)
    found = {name: t.clone() for name, t in model.trained().items()}
    found["keys"] = found["keys"][:, :32]
    with pytest.raises(UserError, match="'keys' has shape"):
        model.load_trained(found, "there")
    with pytest.raises(UserError, match="'of_class' is on one side only"):
        model.load_trained({name: t for name, t in found.items() if name != "of_class"}, "there")


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [True, False])
def test_without_validation_images_it_says_how_to_get_some(tmp_path, tuned):
    config = sk.Config.preset("mini", "tip_adapter", **TINY, val_per_class=0, tuned=tuned)
    with pytest.raises(UserError, match=r"tip_adapter chooses or measures on validation images here, .*val_share=0.1"):
        sk.train(config, tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value"), [("shots", 0), ("shots", -1), ("sharpness", 0), ("key_weight", -1), ("epochs", 0),
                                            ("loss", "ldam")])
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=f"setting '{key}'"):
        sk.Config.preset("mini", "tip_adapter", **{key: value})
