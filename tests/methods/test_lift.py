"""LIFT's bench: what the classifier is, what it starts from, and what the settings refuse. The modules are in
tests/networks/test_modules.py."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken, small

import sagekit as sk
from sagekit import UserError
from sagekit.data.views import centre_view
from sagekit.methods import Now, Seen
from sagekit.networks.starts import class_means, linear_probe, some_of_each

NAMES = ["plain circle", "striped star", "dotted heart"]


def build(backbone, counts=(9, 5, 2), **changes):
    return sk.build_model(small("lift", **changes), NAMES, backbone, class_counts=list(counts))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def now():
    return Now(0, 0, 0.0, torch.Generator().manual_seed(0))


# --- heads ----------------------------------------------------------------------------------------------------------------


def literal(kind, f, rows, bias):
    """One feature's logits, entry by entry."""
    if kind == "linear":
        return torch.stack([sum(a * b for a, b in zip(f, row, strict=True)) + c for row, c in zip(rows, bias, strict=True)])
    unit = [row / sum(a * a for a in row) ** 0.5 for row in rows]
    if kind == "cosine":
        f = 25 * f / sum(a * a for a in f) ** 0.5
    elif kind == "layernorm":
        mean = sum(f) / len(f)
        f = (f - mean) / (sum((a - mean) ** 2 for a in f) / len(f) + 1e-12) ** 0.5
    return torch.stack([sum(a * b for a, b in zip(f, row, strict=True)) for row in unit])


@pytest.mark.parametrize("kind", ["cosine", "linear", "normalised", "layernorm"])
def test_each_classifier_by_plain_code(kind, backbone):
    model = shaken(build(copy.deepcopy(backbone), head=kind))
    features = 3 * drawn(2, 128).double()
    z = model.head(features)
    bias = getattr(model.head, "bias", None)
    exact = torch.stack([literal(kind, f, model.head.rows, bias) for f in features])
    torch.testing.assert_close(z, exact)
    z.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.head.named_parameters()}
    model.zero_grad()
    torch.stack([literal(kind, f, model.head.rows, bias) for f in features]).square().sum().backward()
    for name, p in model.head.named_parameters():
        torch.testing.assert_close(found[name], p.grad)


def test_only_the_cosine_has_a_scale_and_only_linear_a_bias(backbone):
    for kind, parts in (("cosine", {"rows"}), ("linear", {"rows", "bias"}), ("normalised", {"rows"}), ("layernorm", {"rows"})):
        one, other = (build(backbone, head=kind, logit_scale=k).head for k in (25.0, 50.0))
        assert {name for name, _ in one.named_parameters()} == parts
        f = drawn(1, 128)
        torch.testing.assert_close(other(f), (2 if kind == "cosine" else 1) * one(f))


@pytest.mark.parametrize("kind", ["linear", "normalised", "layernorm"])
def test_a_loss_of_cosines_needs_the_cosine_head(kind):
    small("lift", loss="ldam")
    with pytest.raises(UserError, match=r"^settings: loss ldam needs head=cosine\.$"):
        small("lift", loss="ldam", head=kind)


# --- starts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cosine", "linear", "normalised", "layernorm"])
def test_every_head_starts_from_the_texts(kind, backbone):
    texts = build(backbone).head.rows
    head = build(backbone, head=kind).head
    assert torch.equal(head.rows, texts)
    assert kind != "linear" or head.bias.abs().max() == 0


def test_random_rows_are_the_seed_s_and_unit(backbone):
    one, again, other = (build(backbone, start="random", seed=seed).head.rows for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(3))
    assert build(backbone, start="random", head="linear").head.rows.norm(dim=1).std() > 0.01


def test_only_text_reads_the_class_names(backbone, monkeypatch):
    def read(*args):
        raise AssertionError

    monkeypatch.setattr(sk.methods.load("lift").Settings, "rows", read)
    build(backbone, start="class_mean")
    with pytest.raises(AssertionError):
        build(backbone)


@pytest.mark.parametrize("start", ["class_mean", "linear_probe", "random"])
@pytest.mark.parametrize("method", ["lift", "lift_plus", "classifier"])
def test_a_model_without_texts_starts_from_images(start, method):
    """timm's, as LIFT's runs on ImageNet-21k."""
    config = sk.Config.preset("cifar100-lt-100", method, backbone="vit_tiny_patch16_224.augreg_in21k", pretrained="random",
                              start=start)
    model = sk.build_model(config, NAMES)
    assert model.head.rows.shape == (3, 192)
    with pytest.raises(UserError, match="has no text tower"):
        sk.build_model(config.changed(start="text"), NAMES)


@pytest.mark.parametrize("start", ["class_mean", "linear_probe"])
@pytest.mark.parametrize("shots", [None, 3])
def test_the_look_sets_the_rows(start, shots, backbone):
    model = build(backbone, start=start, shots=shots, head="linear")
    before = model.head.rows.detach().clone()
    labels = torch.tensor([2] * 10 + [0] * 20)
    features = 2 + drawn(30, 128)
    model.look({"train": Seen(features, labels)}, now())
    if shots:
        chosen = some_of_each(labels, 3, now().random)
        features, labels = features[chosen], labels[chosen]
    _, rows = (class_means if start == "class_mean" else linear_probe)(features, labels)
    torch.testing.assert_close(model.head.rows[[0, 2]], rows)
    assert torch.equal(model.head.rows[1], before[1])  # without images: it stays random
    assert model.head.rows.requires_grad


@pytest.mark.parametrize("module", ["vpt-deep", "ssf", "adaptformer", "full"])
def test_the_rows_are_of_the_frozen_network_s_features(module, backbone):
    """Whatever the module makes of them at its start."""
    model = shaken(build(copy.deepcopy(backbone), start="class_mean", module=module)).eval()
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(model.shown(images), model.net.backbone.features(images))
    assert not torch.allclose(model.shown(images), model.features(images).own)
    model = shaken(build(copy.deepcopy(backbone), loss="cdb", module=module)).eval()  # which asks the trained network
    assert torch.equal(model.shown(images), model.features(images).own)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["class_mean", "linear_probe"])
def test_a_run_of_no_epochs_is_the_start_itself(start, tmp_path, data, backbone):
    """Class means by a literal pass over the training images in the test's view."""
    config = small("lift", start=start, epochs=0, module="vpt-deep")
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    views = centre_view(data.train.images, 48, config.views)
    with torch.no_grad():
        features = torch.cat([backbone.features(part) for part in views.split(100)])
    classes, rows = (class_means if start == "class_mean" else linear_probe)(features, data.train.labels)
    assert len(classes) == 48
    found = run.weights()["head.rows"]
    assert F.cosine_similarity(found, rows).min() > 0.9999
    again = sk.load_model(run, data.class_names, backbone)
    assert torch.equal(again.head.rows.detach(), found)


@pytest.mark.slow
def test_a_run_that_starts_from_shots_continues_bit_for_bit(tmp_path, backbone):
    """Killed before its first epoch is on disk, it draws the same images again; killed after it, it does not look again."""
    config = small("lift", start="class_mean", shots=2, epochs=2, largest_class=6, imbalance_ratio=2.0, test_per_class=2,
                   val_per_class=0)
    ends, looks, look = [], [], sk.methods.load("lift").look
    for killed in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sk.methods.load("lift"), "look", lambda self, *seen: looks.append(1) or look(self, *seen))
            patch.setattr(sk.methods.load("lift"), "start_epoch", lambda self, at, killed=killed: 1 / (at.epoch != killed))
            with pytest.raises(ZeroDivisionError):
                sk.train(config, tmp_path / str(killed), backbone=backbone, show=False)
            patch.setattr(sk.methods.load("lift"), "start_epoch", lambda self, at: None)
            torch.manual_seed(7)
            ends.append(sk.train(config, tmp_path / str(killed), resume=True, backbone=backbone, show=False).weights())
    assert len(looks) == 3
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


# --- what is said ---------------------------------------------------------------------------------------------------------


def test_thin_classes_are_said_and_not_refused(backbone):
    said = build(backbone, start="class_mean", shots=6).beforehand(10**9)
    assert said == ["2 of 3 classes have fewer than shots=6 training images and start from all of theirs."]
    assert build(backbone, start="class_mean", shots=2).beforehand(10**9) == []
    assert build(backbone, start="class_mean").beforehand(10**9) == []
    assert build(backbone, shots=6).beforehand(10**9) == []
    empty = build(backbone, counts=(9, 5, 0), start="class_mean").beforehand(10**9)
    assert empty == ["1 class(es) have no training images, so start=class_mean leaves them a random row."]


def test_what_a_probe_costs_is_said(backbone):
    (line,) = build(backbone, counts=(900_000, 90_000, 10_000), start="linear_probe").beforehand(10**9)
    assert line == ("start=linear_probe fits a logistic regression of 1,000,000 images to 3 classes on the CPU and needs about "
                    "0.024 GB there.")
    _, line = build(backbone, counts=(900, 90, 10), start="linear_probe", shots=100).beforehand(10**9)
    assert "of 200 images" in line


def test_cdb_does_not_go_with_a_look_at_training_images():
    with pytest.raises(UserError, match=r"^settings: loss cdb looks at trained features and start=class_mean at .*\.$"):
        small("lift", loss="cdb", start="class_mean")
    assert small("lift", loss="cdb").stages[0].looks == ("val",)
    assert small("lift", start="linear_probe").stages[0].looks == ("train",)
    assert small("lift", start="random").stages[0].looks == ()
