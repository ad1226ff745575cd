"""ProCo: the Bessel function against scipy, the statistics against plain means, the logits from their definition."""

import math

import pytest
import torch
from conftest import SMALL
from scipy.special import ive

from sagekit import Config, load_data, train
from sagekit.losses.compared import cross_entropy
from sagekit.losses.contrast import DIMENSION, LARGEST_KAPPA, ProCo, Statistics, log_bessel, proco_loss

ORDER = DIMENSION / 2 - 1
KAPPA = torch.tensor([1e-3, 0.5, 3.0, 20.0, 63.0, 200.0, 3e3, 1e5], dtype=torch.float64)
G = torch.Generator().manual_seed(0)


def unit(n, generator=G):
    return torch.nn.functional.normalize(torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64), dim=1)


def exact(kappa, order=ORDER):
    """log I_v(k) - v log k by scipy's scaled Bessel function; it underflows for small k."""
    return math.log(ive(order, kappa)) + kappa - order * math.log(kappa)


def test_bessel_is_scipy_s_at_p_128():
    usable = [k for k in KAPPA.tolist() if ive(ORDER, k) > 0]
    assert len(usable) >= 6
    for k in usable:
        assert log_bessel(torch.tensor(k), ORDER).item() == pytest.approx(exact(k), rel=1e-10, abs=1e-9)


def test_bessel_near_zero_is_its_limit():
    """I_v(k) / k^v -> 1 / (2^v Gamma(v + 1)); scipy underflows there."""
    limit = -ORDER * math.log(2) - math.lgamma(ORDER + 1)
    assert log_bessel(torch.tensor(0.0), ORDER).item() == pytest.approx(limit, abs=1e-9)


def test_the_slope_is_the_bessel_ratio():
    k = KAPPA.clone().requires_grad_()
    log_bessel(k, ORDER).sum().backward()
    for kappa, slope in zip(KAPPA.tolist(), k.grad.tolist(), strict=True):
        if ive(ORDER, kappa) > 0:
            assert slope == pytest.approx(ive(ORDER + 1, kappa) / ive(ORDER, kappa), rel=1e-8)
    assert torch.autograd.gradcheck(lambda x: log_bessel(x, ORDER), KAPPA[1:6].clone().requires_grad_())


def test_means_are_running_means():
    statistics = Statistics(3).double()
    vectors, labels = unit(20), torch.tensor([0, 1] * 10)
    random_start = statistics.means[2].clone()
    for part in (slice(0, 6), slice(6, 20)):
        statistics.update(vectors[part], labels[part])
    for c in (0, 1):
        torch.testing.assert_close(statistics.means[c], vectors[labels == c].mean(0))
    torch.testing.assert_close(statistics.means[2], random_start)
    assert statistics.counts.tolist() == [10, 10, 0]


def test_an_epoch_serves_the_next_one_and_no_later_one():
    statistics = Statistics(1).double()
    first, second, third = unit(4), unit(4), unit(4)
    label = torch.zeros(4, dtype=torch.long)
    for vectors in (first, second, third):
        statistics.start_epoch()
        statistics.update(vectors, label)
    torch.testing.assert_close(statistics.means[0], torch.cat([second, third]).mean(0))


def test_logits_from_their_definition():
    statistics = Statistics(4).double()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    statistics.update(unit(6), labels)
    vectors = unit(3)
    for i, row in enumerate(statistics.logits(vectors)):
        for j in (0, 1, 3):
            a = statistics.means[j]
            length = a.norm().item()
            kappa = DIMENSION * length / (1 - length**2)
            moved = (kappa * a / length + vectors[i] / 0.1).norm().item()
            assert row[j].item() == pytest.approx(exact(moved) - exact(kappa), abs=1e-8)


def test_the_trap_a_class_of_one_image():
    """R = 1 makes kappa infinite; it is cut, and the logit becomes u . mu / t."""
    statistics = Statistics(1).double()
    own = unit(1)
    statistics.update(own, torch.zeros(1, dtype=torch.long))
    vectors = unit(5)
    logits = statistics.logits(vectors)[:, 0]
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, 10 * (vectors @ own[0]), atol=2 * 100 / LARGEST_KAPPA + 1e-2, rtol=0)


def test_gradient_of_the_contrast():
    statistics = Statistics(4).double()
    statistics.update(unit(12), torch.arange(12) % 4)
    assert torch.autograd.gradcheck(statistics.logits, unit(2).requires_grad_())


def test_loss_is_both_parts():
    model = ProCo(4, Config.preset("mini", "scratch", loss="proco")).double().train()
    images, labels, n = torch.rand(6, 3, 24, 24, dtype=torch.float64), torch.arange(6) % 4, torch.tensor([4, 3, 2, 1])
    logits = model(images)
    terms = proco_loss(logits._replace(embedding=logits.embedding.double()), labels,
                       lambda z, y: cross_entropy(z, y, n, 0.05), model.statistics)
    torch.testing.assert_close(terms["loss"], terms["z"] + terms["contrast"])
    assert terms["contrast"].item() != terms["z"].item()


def test_the_classifier_alone_predicts():
    model = ProCo(4, Config.preset("mini", "scratch", loss="proco")).eval()
    logits = model(torch.rand(2, 3, 24, 24))
    assert logits.embedding is None
    assert torch.equal(logits.prediction, logits.z)


def test_statistics_count_both_views_and_travel_with_the_weights(tmp_path):
    config = Config.preset("mini", "scratch", **SMALL | {"epochs": 2, "loss": "proco", "largest_class": 10})
    data = load_data(config)
    weights = train(config, tmp_path / "run", data=data, show=False).weights()
    seen = 2 * 64 * (len(data.train) // 64)
    assert weights["statistics.own_counts"].sum() == seen
    assert weights["statistics.counts"].sum() == 2 * seen
