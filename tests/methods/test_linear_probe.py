"""The linear probe's traps: what is minimised, what it chooses by, and what it needs of the machine."""

import tracemalloc
import warnings

import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import step_generator
from sagekit.methods import Now, Seen, linear_probe
from sagekit.networks.heads import Features, right_by_class

CLASSES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], [60, 25, 10, 5]
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2}
AT = Now(0, 0, 0.0, step_generator(0, 0, 0))


def build(backbone, counts=COUNTS, **changes):
    config = sk.Config.preset("mini", "linear_probe", **changes)
    return sk.build_model(config, CLASSES[: len(counts)], backbone, class_counts=counts)


def drawn(counts, seed=0, apart=0.2):
    """Features (sum of counts, 128) round a centre a class; other images of the same classes with another ``seed``."""
    centres = torch.randn(len(counts), 128, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), 128, generator=torch.Generator().manual_seed(seed))
    return Seen(apart * centres[labels] + noise, labels)


@pytest.mark.parametrize("balanced", [True, False])
def test_it_ends_at_the_minimum(backbone, balanced):
    """The gradient of |W|^2 / 2 + C sum w_y CE, the classes' weights by hand."""
    model, seen = build(backbone, probe_c=0.01, balanced=balanced), drawn(COUNTS)
    model.look({"train": seen}, AT)
    weight, bias = (t.detach().double().requires_grad_() for t in (model.head.weight, model.head.bias))
    own = torch.tensor([100 / (4 * n) if balanced else 1.0 for n in COUNTS])

    def gradient(w, b):
        loss = F.cross_entropy(seen.features.double() @ w.T + b, seen.labels, reduction="none")
        return torch.cat([g.flatten() for g in torch.autograd.grad((w**2).sum() / 2 + 0.01 * (own[seen.labels] * loss).sum(),
                                                                   (w, b))])

    start = gradient(torch.zeros_like(weight).requires_grad_(), torch.zeros_like(bias).requires_grad_())
    assert gradient(weight, bias).abs().max() < 1e-3 * start.abs().max()


def test_of_two_classes_it_has_two_rows(backbone):
    model, seen = build(backbone, [30, 10], probe_c=0.1), drawn([30, 10])
    model.look({"train": seen}, AT)
    probe = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced").fit(seen.features.double(), seen.labels)
    with torch.no_grad():
        found = model.classify(Features(seen.features)).prediction.softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(probe.predict_proba(seen.features.double())).float(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_c_is_the_best_on_validation_images_the_smaller_of_equals(backbone):
    """By the mean over classes, of validation images that are as rare as the training images."""
    train, val = drawn(COUNTS), drawn(COUNTS, seed=1)
    model, found = build(backbone, probe_c=None), []
    model.look({"train": train, "val": val}, AT)
    for c in linear_probe.CHOICES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe = LogisticRegression(C=c, max_iter=1000, class_weight="balanced").fit(train.features.double(), train.labels)
        z = torch.from_numpy(probe.decision_function(val.features.double()))
        found.append((right_by_class(z, val.labels).mean().item(), probe))
    best = max(range(len(found)), key=lambda k: found[k][0])
    assert len({accuracy for accuracy, _ in found}) > 2
    assert model.chosen.item() == pytest.approx(linear_probe.CHOICES[best])
    assert model.scalars() == {"probe_c": pytest.approx(linear_probe.CHOICES[best])}
    torch.testing.assert_close(model.head.weight.detach(), torch.from_numpy(found[best][1].coef_).float())


def test_the_same_images_give_the_same_bits(backbone):
    rows = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build(backbone, probe_c=0.1)
        model.look({"train": drawn(COUNTS)}, AT)
        rows.append(model.head.weight.detach().clone())
    assert torch.equal(*rows)


def test_it_stands_on_features_before_the_projection(backbone):
    model, images = build(backbone), torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.features(images).own, backbone.features(images))
    assert model.head.weight.shape == (4, backbone.width)


# --- what it asks of the data and the machine -------------------------------------------------------------------------------


def test_where_there_are_validation_images_it_chooses():
    assert {name: sk.Config.preset(name, "linear_probe").stages[0].looks
            for name in ("mini", "places-lt", "imagenet-lt", "inat2018", "cifar100-lt-100")} == {
        "mini": ("train", "val"), "places-lt": ("train", "val"), "imagenet-lt": ("train", "val"),
        "inat2018": ("train",), "cifar100-lt-100": ("train",)}


def test_it_says_beforehand_that_c_was_not_chosen(backbone):
    fits = "scikit-learn fits on the CPU: up to 1,000 passes over 100 images of 4 classes"
    first, line = build(backbone, probe_c=0.316).beforehand(0)
    assert first == f"{fits}."
    assert "C is 0.316, which was not chosen" in line
    assert "--set probe_c=null" in line
    assert build(backbone).beforehand(0) == [f"{fits} for each of 6 values of C."]


@pytest.mark.slow
def test_without_validation_images_it_says_how_to_get_some(tmp_path):
    config = sk.Config.preset("mini", "linear_probe", **TINY, val_per_class=0)
    with pytest.raises(UserError, match=r"linear_probe chooses or measures on validation images here, .*val_share=0.1"):
        sk.train(config, tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


def test_too_large_a_problem_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(linear_probe, "free", lambda device: 10**10)
    line = r"^a logistic regression on 437,513 images of 4 classes holds about 0\.9 GB, and 0\.5 GB"
    model = build(backbone, [437_510, 1, 1, 1])
    assert model.beforehand(0)
    monkeypatch.setattr(linear_probe, "free", lambda device: 5 * 10**8)
    with pytest.raises(UserError, match=line) as error:
        model.beforehand(10**12)  # of a device where it does not compute
    assert "method classifier" in str(error.value)


@pytest.mark.slow
def test_it_holds_what_it_says():
    n, k = 20_000, 100
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(n, 2, generator=g, dtype=torch.float64).numpy(), (torch.arange(n) % k).numpy()
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        LogisticRegression(max_iter=3, class_weight="balanced").fit(features, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.8 < peak / (8 * linear_probe.KEPT * n * (k + 2)) < 1.2


@pytest.mark.parametrize("value", [0, -1])
def test_c_is_positive(value):
    with pytest.raises(UserError, match="setting 'probe_c'"):
        sk.Config.preset("mini", "linear_probe", probe_c=value)


@pytest.mark.slow
def test_a_run_is_opened_as_it_was_measured_and_uses_the_frozen_features(tmp_path, backbone, monkeypatch):
    config = sk.Config.preset("mini", "linear_probe", **TINY)
    data = sk.load_data(config.data)
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    assert len(run.history) == 0
    assert "after a look at train and val images, probe_c" in (run.path / "log.txt").read_text(encoding="utf-8")
    before = run.predictions("single").z
    model = sk.load_model(run, data.class_names, backbone)
    known = backbone.features(data.test.images[:8] / 255)
    monkeypatch.setattr(type(backbone), "features", lambda *_: pytest.fail("computed again"))
    with torch.no_grad():
        z = model.logits(torch.zeros(8, 3, 48, 48), known).z
    torch.testing.assert_close(z - z.max(1, keepdim=True).values, torch.as_tensor(before[:8]), atol=0.1, rtol=0.05)
    again = sk.evaluate(run, show=False)  # all of the test images are known
    assert again["results"]["single"]["all"] == run.record("test")["results"]["single"]["all"]
