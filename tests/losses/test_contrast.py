"""ProCo's statistics: the Bessel function against scipy, the means against plain means, the logits from their definition."""

import math

import pytest
import torch
from scipy.special import ive

from sagekit.losses.contrast import DIMENSION, LARGEST_KAPPA, Statistics, log_bessel

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


def of_one_image(vector):
    """Statistics of one class that has seen one image: R = 1 makes kappa infinite; it is cut at 1e5."""
    statistics = Statistics(1).double()
    statistics.update(vector, torch.zeros(1, dtype=torch.long))
    return statistics


def test_the_trap_a_class_of_one_image():
    """Kappa is cut, and the logit becomes u . mu / t."""
    own, vectors = unit(1), unit(5)
    logits = of_one_image(own).logits(vectors)[:, 0]
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, 10 * (vectors @ own[0]), atol=2 * 100 / LARGEST_KAPPA + 1e-2, rtol=0)


@pytest.mark.parametrize("length", [0.9, 0.99, 0.9985, 0.9991, 0.9993])
def test_the_trap_kappa_squared_wants_float64(length):
    """Towards kappa 1e5 float32 loses some hundreds of kappa^2, and with them some thousandths of a logit."""
    statistics, own = Statistics(1), unit(1)
    statistics.means.copy_(length * own)
    vectors = torch.cat([own, -own, unit(6)]).float()
    a = statistics.means[0].double()
    kappa = (DIMENSION * a.norm() / (1 - a.norm() ** 2)).item()
    assert kappa < LARGEST_KAPPA
    for row, u in zip(statistics.logits(vectors)[:, 0].tolist(), vectors.double(), strict=True):
        moved = math.sqrt(kappa**2 + 2 * kappa * (u @ a / a.norm()).item() / 0.1 + 100)
        assert row == pytest.approx(exact(moved) - exact(kappa), abs=2e-6)


def test_gradient_of_the_logits_from_its_definition():
    """d logit_j / d u = I_{v+1}(m) / I_v(m) kappa_j mu_j / (t m), with m = |kappa_j mu_j + u / t| and |u| = 1."""
    statistics = Statistics(2).double()
    statistics.update(unit(6), torch.tensor([0, 0, 0, 0, 1, 1]))
    u = unit(1).requires_grad_()
    for j in range(2):
        gradient, = torch.autograd.grad(statistics.logits(u)[0, j], u)
        a = statistics.means[j]
        kappa = DIMENSION * a.norm() / (1 - a.norm() ** 2)
        moved = (kappa * a / a.norm() + u[0].detach() / 0.1).norm().item()
        expected = ive(ORDER + 1, moved) / ive(ORDER, moved) * kappa * a / a.norm() / (0.1 * moved)
        torch.testing.assert_close(gradient[0], expected, atol=0, rtol=1e-7)


def test_temperature_is_an_argument():
    statistics = Statistics(1, temperature=0.5).double()
    statistics.load_state_dict(of_one_image(unit(1)).state_dict())
    own = torch.nn.functional.normalize(statistics.means, dim=1)
    assert statistics.logits(own).item() == pytest.approx(exact(LARGEST_KAPPA + 2) - exact(LARGEST_KAPPA), abs=1e-7)


def test_a_class_that_an_epoch_lacks_keeps_its_mean_with_count_0():
    statistics = Statistics(2).double()
    first, second = unit(2), unit(1)
    statistics.start_epoch()
    statistics.update(first, torch.tensor([0, 1]))
    statistics.start_epoch()
    statistics.update(second, torch.tensor([0]))
    statistics.start_epoch()
    torch.testing.assert_close(statistics.means, torch.stack([second[0], first[1]]))
    assert statistics.counts.tolist() == [1, 0]


def test_statistics_are_saved_with_the_weights():
    statistics = Statistics(2)
    before = [buffer.data_ptr() for buffer in statistics.buffers()]
    statistics.start_epoch()
    assert [buffer.data_ptr() for buffer in statistics.buffers()] == before  # the buffers that a wrapper holds on to
    assert set(statistics.state_dict()) == {"means", "counts", "own_means", "own_counts"}


def test_gradient_of_the_contrast():
    statistics = Statistics(4).double()
    statistics.update(unit(12), torch.arange(12) % 4)
    assert torch.autograd.gradcheck(statistics.logits, unit(2).requires_grad_())
