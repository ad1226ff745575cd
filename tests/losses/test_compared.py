"""Each loss from its formula, image by image in float64, its gradient, and its trap."""

import math

import pytest
import torch

from sagekit import losses
from sagekit.losses import compared as other

G = torch.Generator().manual_seed(0)
Z = 3 * torch.randn(8, 5, dtype=torch.float64, generator=G)
C = 2 * torch.rand(8, 5, dtype=torch.float64, generator=G) - 1
Y = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
N = torch.tensor([20, 500, 5, 120, 60])  # in no order
GAMMA = 0.06


def ce(z, y, gamma=0.0):
    weighted = [math.exp(v) * int(n) ** gamma for v, n in zip(z, N, strict=True)]
    return -math.log(weighted[y] / sum(weighted))


def by_image(one):
    """Mean over the batch of ``one(row of logits, row of cosines, label)``."""
    return sum(one(z, c, y) for z, c, y in zip(Z.tolist(), C.tolist(), Y.tolist(), strict=True)) / len(Y)


def with_margin(c, y, margin, scale):
    return [scale * (v - (margin if j == y else 0)) for j, v in enumerate(c)]


def literal_kps(c, y, gamma=0.0, adjust=False):
    s = [math.log(50 * n / 5) / math.log(50) for n in N.tolist()]
    falling = sorted(range(5), key=lambda j: -s[j])
    mirrored = {j: s[falling[4 - rank]] for rank, j in enumerate(falling)}
    margin = 0.2 * mirrored[y] / max(s)
    scale = min(max(15 * mirrored[y], 15), 50) if adjust else 15
    return ce([scale * (s[j] * v - (margin if j == y else 0)) for j, v in enumerate(c)], y, gamma)


def literal_dbm(c, y, gamma=0.0):
    margin = 0.1 * 5 / int(N[y])
    wrong = max(range(5), key=lambda j: c[j]) != y
    moved = math.cos(math.acos(c[y]) + margin + margin * wrong * (1 - c[y]) / 2)
    return ce([32 * (moved if j == y else v) for j, v in enumerate(c)], y, gamma)


def literal_ldam(c, y, gamma=0.0):
    return ce(with_margin(c, y, 0.5 * (5 / int(N[y])) ** 0.25, 30), y, gamma)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
@pytest.mark.parametrize(("ours", "literal"), [
    (lambda g: other.cross_entropy(Z, Y, N, g), lambda z, c, y, g: ce(z, y, g)),
    (lambda g: other.focal(Z, Y, N, g), lambda z, c, y, g: (1 - math.exp(-ce(z, y, g))) ** 2 * ce(z, y, g)),
    (lambda g: other.ldam(C, Y, N, g), lambda z, c, y, g: literal_ldam(c, y, g)),
    (lambda g: other.kps(C, Y, N, g), lambda z, c, y, g: literal_kps(c, y, g)),
    (lambda g: other.kps(C, Y, N, g, adjust_gradient=True), lambda z, c, y, g: literal_kps(c, y, g, True)),
    (lambda g: other.dbm(C, Y, N, g), lambda z, c, y, g: literal_dbm(c, y, g)),
], ids=["ce", "focal", "ldam", "kps", "kps adjusted", "dbm"])
def test_values(ours, literal, gamma):
    assert ours(gamma).item() == pytest.approx(by_image(lambda z, c, y: literal(z, c, y, gamma)), abs=1e-10)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_lade(gamma):
    pi = [n / int(N.sum()) for n in N.tolist()]
    first = by_image(lambda z, c, y: ce([v + math.log(p) for v, p in zip(z, pi, strict=True)], y, gamma))
    total = 0.0
    for k in range(5):
        a = torch.stack([z[k] for z, y in zip(Z, Y, strict=True) if y == k]).mean().item()
        b = math.log(sum(math.exp(z[k] - math.log(pi[k]) - math.log(5)) for z in Z.tolist()) / len(Z))
        total += pi[k] * (a - b - 0.01 * b * b)
    assert other.lade(Z, Y, N, gamma).item() == pytest.approx(first - 0.1 * total, abs=1e-10)


def test_lade_s_trap_a_class_that_the_batch_lacks():
    some = Y != 4
    value = other.lade(Z[some], Y[some], N)
    assert torch.isfinite(value)
    regular = value - losses.logit_adjusted(Z[some], Y[some], N)
    moved = Z[some].clone()
    moved[:, 4] += 5  # class 4 is absent: only the cross entropy sees its logits, R does not
    assert other.lade(moved, Y[some], N) - losses.logit_adjusted(moved, Y[some], N) == pytest.approx(regular.item(), abs=1e-10)


def test_weights_have_mean_one():
    weights = other.effective_number_weights(N)
    expected = [(1 - 0.9999) / (1 - 0.9999**n) for n in N.tolist()]
    assert weights.tolist() == pytest.approx([5 * w / sum(expected) for w in expected])
    accuracy = [0.9, 0.5, 0.4]
    tau = 1 / (1 + math.exp(-0.9 / 0.41))
    expected = [(1 - a) ** tau for a in accuracy]
    assert other.difficulty_weights(torch.tensor(accuracy).double()).tolist() == pytest.approx([3 * w / sum(expected)
                                                                                               for w in expected])
    assert other.difficulty_weights(torch.ones(3)).tolist() == [1, 1, 1]


def test_weighted_loss_is_not_divided_by_the_batch_s_weights():
    weights = other.effective_number_weights(N)
    expected = by_image(lambda z, c, y: weights[y].item() * ce(z, y))
    assert other.cross_entropy(Z, Y, N, weights=weights).item() == pytest.approx(expected, abs=1e-10)


def test_deferred_reweighting_of_ldam():
    weights = other.effective_number_weights(N)
    expected = by_image(lambda z, c, y: weights[y].item() * literal_ldam(c, y))
    assert other.ldam(C, Y, N, weights=weights).item() == pytest.approx(expected, abs=1e-10)


def test_balanced_softmax_is_la_at_tau_1():
    expected = by_image(lambda z, c, y: ce([v + math.log(n) for v, n in zip(z, N.tolist(), strict=True)], y))
    assert losses.logit_adjusted(Z, Y, N).item() == pytest.approx(expected, abs=1e-10)


def test_focal_without_focus_is_cross_entropy():
    assert other.focal(Z, Y, N, focus=0).item() == pytest.approx(other.cross_entropy(Z, Y, N).item())


def test_ldam_s_trap_the_margin_is_before_the_scale():
    def after_the_scale(z, c, y):
        return ce([30 * v - (0.5 * (5 / int(N[y])) ** 0.25 if j == y else 0) for j, v in enumerate(c)], y)

    assert abs(other.ldam(C, Y, N).item() - by_image(after_the_scale)) > 0.1


def test_two_readings_of_ce_plus_cf():
    """tau = gamma, or tau = 1 + gamma: the second is the loss of Eq 22."""
    first = other.cross_entropy(Z, Y, N, GAMMA)
    torch.testing.assert_close(first, losses.logit_adjusted(Z, Y, N, GAMMA))
    second = other.cross_entropy(Z + N.double().log(), Y, N, GAMMA)
    torch.testing.assert_close(second, losses.compensated(Z, Y, N, GAMMA))


@pytest.mark.parametrize("loss", [
    lambda x: other.cross_entropy(x, Y, N, GAMMA), lambda x: other.focal(x, Y, N, GAMMA), lambda x: other.lade(x, Y, N, GAMMA),
    lambda x: other.ldam(x, Y, N, GAMMA), lambda x: other.kps(x, Y, N, GAMMA, adjust_gradient=True),
], ids=["ce", "focal", "lade", "ldam", "kps"])
def test_gradients(loss):
    assert torch.autograd.gradcheck(loss, C.clone().requires_grad_())


def test_dbm_s_difficulty_carries_no_gradient():
    """The gradient is that of a loss whose total margin is a constant."""
    ours, fixed = C.clone().requires_grad_(), C.clone().requires_grad_()
    other.dbm(ours, Y, N).backward()
    c = fixed.gather(1, Y[:, None])[:, 0]
    margin = 0.1 * 5 / N[Y]
    total = (margin + margin * (C.argmax(1) != Y) * (1 - C.gather(1, Y[:, None])[:, 0]) / 2).double()
    logits = 32 * fixed.scatter(1, Y[:, None], torch.cos(torch.acos(c) + total)[:, None])
    torch.nn.functional.cross_entropy(logits, Y).backward()
    torch.testing.assert_close(ours.grad, fixed.grad)
