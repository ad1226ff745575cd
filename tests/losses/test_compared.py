"""Each loss and its gradient from its formula, image by image in float64, and its trap."""

import math
from typing import get_args

import pytest
import torch

from sagekit import losses
from sagekit.errors import UserError
from sagekit.losses import compared as other

G = torch.Generator().manual_seed(0)
Z = 3 * torch.randn(8, 5, dtype=torch.float64, generator=G)
C = 2 * torch.rand(8, 5, dtype=torch.float64, generator=G) - 1
Y = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
N = torch.tensor([20, 500, 5, 120, 60])  # in no order
GAMMA = 0.06
ACCURACY = torch.tensor([0.9, 0.5, 0.8, 0.1, 0.3])


def generator():
    return torch.Generator().manual_seed(3)


def ce(z, y, gamma=0.0):
    weighted = [torch.exp(v) * int(n) ** gamma for v, n in zip(z, N, strict=True)]
    return -torch.log(weighted[y] / sum(weighted))


def literal_focal(z, y, gamma=0.0):
    one = ce(z, y, gamma)
    return (1 - torch.exp(-one)) ** 2 * one


def literal_ldam(c, y, gamma=0.0):
    margin = 0.5 * (5 / int(N[y])) ** 0.25
    return ce([30 * (v - (margin if j == y else 0)) for j, v in enumerate(c)], y, gamma)


def literal_kps(c, y, gamma=0.0, adjust=False):
    s = [math.log(50 * n / 5) / math.log(50) for n in N.tolist()]
    falling = sorted(range(5), key=lambda j: -s[j])
    mirrored = {j: s[falling[4 - rank]] for rank, j in enumerate(falling)}
    margin = 0.2 * mirrored[y] / max(s)
    scale = min(max(15 * mirrored[y], 15), 50) if adjust else 15
    return ce([scale * (s[j] * v - (margin if j == y else 0)) for j, v in enumerate(c)], y, gamma)


def literal_dbm(c, y, gamma=0.0):
    margin = 0.1 * 5 / int(N[y])
    wrong = max(range(5), key=lambda j: c[j].item()) != y
    moved = torch.cos(torch.acos(c[y]) + margin + margin * wrong * (1 - c[y]) / 2)
    return ce([32 * (moved if j == y else v) for j, v in enumerate(c)], y, gamma)


def literal_lade(z, labels, gamma=0.0, regular=0.01):
    """Of a batch: A_c is 0 for a class without images, B_c is there all the same."""
    pi = [n / int(N.sum()) for n in N.tolist()]
    first = mean(lambda row, y: ce([v + math.log(p) for v, p in zip(row, pi, strict=True)], y, gamma), z, labels)
    total = 0.0
    for k in range(5):
        own = [row[k] for row, y in zip(z, labels.tolist(), strict=True) if y == k]
        a = sum(own) / len(own) if own else 0.0
        b = torch.log(sum(torch.exp(row[k] - math.log(pi[k]) - math.log(5)) for row in z) / len(z))
        total -= pi[k] * (a - b - regular * b**2)
    return first + 0.1 * total


def literal_ala(c, y, gamma=0.0):
    margin = (1 - c[y].item()) / 2 * math.log(2) / math.log(int(N[y]) / 5 + 1)
    return ce([30 * (v - (margin if j == y else 0)) for j, v in enumerate(c)], y, gamma)


def literal_vs(z, y, gamma=0.0, g=0.05, tau=1.0):
    total = int(N.sum())
    return ce([(n / 500) ** g * v + tau * math.log(n / total) for v, n in zip(z, N.tolist(), strict=True)], y, gamma)


def mean(one, x, labels=Y):
    """Mean over the batch of ``one(row, label)``."""
    return sum(one(row, y) for row, y in zip(x, labels.tolist(), strict=True)) / len(labels)


def same(ours, literal, at):
    """Values and gradients of the two functions of (B, C) agree."""
    x, twin = at.clone().requires_grad_(), at.clone().requires_grad_()
    value, expected = ours(x), literal(twin)
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, twin)[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
@pytest.mark.parametrize(("at", "ours", "literal"), [
    (Z, other.cross_entropy, ce), (Z, other.focal, literal_focal), (C, other.ldam, literal_ldam), (C, other.dbm, literal_dbm),
    (C, other.kps, literal_kps), (C, other.ala, literal_ala), (Z, other.vs, literal_vs),
    (C, lambda *a: other.kps(*a, adjust_gradient=True), lambda c, y, gamma: literal_kps(c, y, gamma, adjust=True)),
], ids=["ce", "focal", "ldam", "dbm", "kps", "ala", "vs", "kps adjusted"])
def test_values_and_gradients(at, ours, literal, gamma):
    same(lambda x: ours(x, Y, N, gamma), lambda x: mean(lambda row, y: literal(row, y, gamma), x), at)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4], [0, 1, 2, 3], [1]], ids=["all", "one absent", "one class only"])
def test_lade_s_trap_classes_that_the_batch_lacks(present, gamma):
    some = torch.isin(Y, torch.tensor(present))
    same(lambda z: other.lade(z, Y[some], N, gamma), lambda z: literal_lade(z, Y[some], gamma), Z[some])


def test_lade_has_two_published_regular():
    same(lambda z: other.lade(z, Y, N, regular=0.1), lambda z: literal_lade(z, Y, regular=0.1), Z)


def test_class_balanced_weights():
    weights = other.effective_number_weights(N)
    expected = [(1 - 0.9999) / (1 - 0.9999**n) for n in N.tolist()]
    assert weights.tolist() == pytest.approx([5 * w / sum(expected) for w in expected])


@pytest.mark.parametrize(("settings", "tau"), [
    ({}, 1 / (1 + math.exp(-0.9 / 0.41))), ({"dynamic": "doubled"}, 2 / (1 + math.exp(1 - 0.9 / 0.41))), ({"tau": 1.5}, 1.5),
    ({"tau": 0}, 0),
])
def test_difficulty_weights(settings, tau):
    accuracy = [0.9, 0.5, 0.4]
    expected = [(1 - a) ** tau for a in accuracy]
    weights = other.difficulty_weights(torch.tensor(accuracy).double(), **settings)
    assert weights.tolist() == pytest.approx([3 * w / sum(expected) for w in expected])


@pytest.mark.parametrize(("dynamic", "least", "most"), [("sigmoid", 0.5, 1), ("doubled", 1, 2)])
def test_dynamic_exponents_stay_in_their_ranges(dynamic, least, most):
    """Two classes of accuracy a > b: the exponent is log(w_b / w_a) / log((1 - b) / (1 - a))."""
    for a, b in ((0.6, 0.58), (0.9, 0.3), (0.99, 0.0)):
        weights = other.difficulty_weights(torch.tensor([a, b], dtype=torch.float64), dynamic=dynamic)
        assert least <= math.log(weights[1] / weights[0]) / math.log((1 - b) / (1 - a)) <= most + 1e-9


def test_no_class_is_difficult():
    assert other.difficulty_weights(torch.ones(3)).tolist() == [1, 1, 1]


def test_class_balanced_and_cdb_are_divided_by_the_batch():
    for weights in (other.effective_number_weights(N), other.difficulty_weights(ACCURACY)):
        same(lambda z, w=weights: other.cross_entropy(z, Y, N, weights=w),
             lambda z, w=weights: mean(lambda row, y: w[y] * ce(row, y), z), Z)


def test_the_trap_ldam_drw_is_divided_by_the_batch_s_weights():
    """Its gradient is B / sum w_y times that of the mean over images."""
    w = other.effective_number_weights(N)
    total = sum(w[y].item() for y in Y)
    assert abs(total / len(Y) - 1) > 0.05
    same(lambda c: other.ldam(c, Y, N, weights=w), lambda c: mean(lambda row, y: w[y] * literal_ldam(row, y), c) * 8 / total, C)
    plain, normalised = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    other.cross_entropy(plain, Y, N, weights=w).backward()
    other.cross_entropy(normalised, Y, N, weights=w, normalise=True).backward()
    torch.testing.assert_close(plain.grad, normalised.grad * total / len(Y))
    torch.testing.assert_close(other.cross_entropy(Z, Y, N, weights=w, normalise=True),
                               torch.nn.functional.cross_entropy(Z, Y, weight=w))


def test_balanced_softmax_is_la_at_tau_1():
    same(lambda z: losses.logit_adjusted(z, Y, N), lambda z: mean(lambda row, y: ce(row + N.double().log(), y), z), Z)


def test_focal_without_focus_is_cross_entropy():
    assert other.focal(Z, Y, N, focus=0).item() == pytest.approx(other.cross_entropy(Z, Y, N).item())


def test_ldam_s_trap_the_margin_is_before_the_scale():
    def after_the_scale(c, y):
        return ce([30 * v - (0.5 * (5 / int(N[y])) ** 0.25 if j == y else 0) for j, v in enumerate(c)], y)

    assert abs(other.ldam(C, Y, N).item() - mean(after_the_scale, C).item()) > 0.1


def test_two_readings_of_ce_plus_cf():
    """tau = gamma, or tau = 1 + gamma: the second is the loss of Eq 22."""
    first = other.cross_entropy(Z, Y, N, GAMMA)
    torch.testing.assert_close(first, losses.logit_adjusted(Z, Y, N, GAMMA))
    second = other.cross_entropy(Z + N.double().log(), Y, N, GAMMA)
    torch.testing.assert_close(second, losses.compensated(Z, Y, N, GAMMA))


@pytest.mark.parametrize(("other_cosine", "wrong"), [(0.9, 1), (0.1, 0)])
def test_dbm_s_trap_its_difficulty_carries_gradient(other_cosine, wrong):
    """d theta' / d theta is 1 + m_y sin(theta) / 2 for a wrong image, 1 for a right one.

    One image of the rarest class, m = 0.1: d loss / d theta = 32 (1 - p_y) sin(theta') d theta' / d theta.
    """
    theta = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    fixed = torch.tensor([other_cosine, 0, -0.5, -0.5], dtype=torch.float64)
    loss = other.dbm(torch.cat([fixed[:2], torch.cos(theta)[None], fixed[2:]])[None], torch.tensor([2]), N)
    loss.backward()
    moved = 1.2 + 0.1 + 0.1 * wrong * (1 - math.cos(1.2)) / 2
    slope = 1 + 0.1 * wrong * math.sin(1.2) / 2
    assert theta.grad.item() == pytest.approx(32 * (1 - math.exp(-loss.item())) * math.sin(moved) * slope, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dbm_at_cosines_of_one_is_finite(dtype):
    cosines = torch.eye(5, dtype=dtype).mul(2).sub(1).requires_grad_()  # 1 on the diagonal, else -1
    other.dbm(cosines, torch.tensor([0, 1, 2, 0, 1]), N).backward()
    assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_named_losses_are_the_formulas(gamma):
    """Cosine losses get z / 25; the factor adds gamma log n_i."""
    c, w = Z / 25, other.effective_number_weights(N)
    expected = {
        "ce": other.cross_entropy(Z, Y, N, gamma), "focal": other.focal(Z, Y, N, gamma), "lade": other.lade(Z, Y, N, gamma),
        "class-balanced": other.cross_entropy(Z, Y, N, gamma, w), "cdb": other.cross_entropy(Z, Y, N, gamma),
        "la": losses.logit_adjusted(Z, Y, N, 1 + gamma), "ldam": other.ldam(c, Y, N, gamma),
        "ldam-drw": other.ldam(c, Y, N, gamma), "kps": other.kps(c, Y, N, gamma), "dbm": other.dbm(c, Y, N, gamma),
        "ala": other.ala(c, Y, N, gamma), "gcl": other.gcl(c, Y, N, gamma, random=generator()), "vs": other.vs(Z, Y, N, gamma),
        "ddc": other.vs(Z, Y, N, gamma), "balanced-bce": other.balanced_bce(Z, Y, N, gamma),
    }
    assert set(expected) == set(get_args(other.Name))
    for name, value in expected.items():
        torch.testing.assert_close(losses.named(name, N, gamma=gamma, scale=25, random=generator())(Z, Y), value, msg=name)
        scaled = losses.named(name, N, gamma=gamma, scale=50, random=generator())(Z, Y)
        assert (scaled.item() != pytest.approx(value.item())) == (name in other.COSINE)


def test_named_deferred_parts_start_at_their_share_of_the_epochs():
    def of(name, done):
        return losses.named(name, N, scale=25, done=done)(Z, Y)

    assert of("ldam-drw", 0.79) == of("ldam", 0.79)
    weights = other.effective_number_weights(N)
    torch.testing.assert_close(of("ldam-drw", 160 / 200), other.ldam(Z / 25, Y, N, weights=weights))
    assert of("kps", 0.59) == of("kps", 0)
    torch.testing.assert_close(of("kps", 120 / 200), other.kps(Z / 25, Y, N, adjust_gradient=True))


    assert of("ddc", 0.79) == of("vs", 0)
    torch.testing.assert_close(of("ddc", 160 / 200), other.ddc_late(Z, Y, N))


def test_gcl_by_the_same_noise():
    """k |e| d_j off every cosine, whoever's class it is; none off the largest class; the test's cosines have none."""
    e = (torch.randn(8, 5, generator=generator()).double() / 3).clamp(-1, 1).abs()
    rarity = [math.log(500 / n) / math.log(500 / 5) for n in N.tolist()]

    def literal(c):
        rows = [ce([30 * (v - 0.5 * e[i, j].item() * rarity[j]) for j, v in enumerate(row)], y, GAMMA)
                for i, (row, y) in enumerate(zip(c, Y.tolist(), strict=True))]
        return sum(rows) / len(rows)

    same(lambda c: other.gcl(c, Y, N, GAMMA, random=generator()), literal, C)
    assert rarity[1] == 0
    many = (torch.randn(100_000, generator=generator()) / 3).clamp(-1, 1)
    assert many.std().item() == pytest.approx(1 / 3, abs=0.01)
    assert other.gcl(C, Y, torch.full((5,), 7)).item() == pytest.approx(mean(lambda c, y: ce(30 * c, y, 0), C).item())


def test_gcl_s_trap_it_never_raises_a_cosine():
    """|e|, not e: as the class of an image grows rarer its loss grows, whatever is drawn."""
    target = torch.full((8,), 2)
    quiet = other.gcl(C, target, N, strength=0.0)
    for seed in range(20):
        only_own = torch.where(torch.arange(5) == 2, 5, 500)  # noise on the target's class alone
        assert other.gcl(C, target, only_own, random=torch.Generator().manual_seed(seed)) >= quiet


def test_ala_s_trap_its_difficulty_carries_no_gradient():
    """d loss / d c_y is -30 (1 - p_y) as with a fixed margin, not 45 / 2 or so of it."""
    c = torch.tensor([[0.2, 0.1, 0.3, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    loss = other.ala(c, torch.tensor([2]), N)
    loss.backward()
    assert c.grad[0, 2].item() == pytest.approx(-30 * (1 - math.exp(-loss.item())))


def test_ddc_s_last_epochs_are_weighted_by_the_batch():
    pi = [n / int(N.sum()) for n in N.tolist()]
    w = [p**-0.25 for p in pi]
    total = sum(w[y] for y in Y.tolist())

    def literal(z):
        return sum(w[y] * literal_vs(row, y, GAMMA, g=0, tau=0.75) for row, y in zip(z, Y.tolist(), strict=True)) / total

    same(lambda z: other.ddc_late(z, Y, N, GAMMA), literal, Z)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_balanced_bce_asks_of_every_class_by_its_prior_odds(gamma):
    """-log of the sigmoid for the image's class, -log of one minus it for each other; summed over classes."""
    total = int(N.sum())

    def literal(z):
        images = []
        for row, y in zip(z, Y.tolist(), strict=True):
            terms = []
            for j, (v, n) in enumerate(zip(row, N.tolist(), strict=True)):
                asked = v + math.log(n / total) - math.log(1 - n / total) + gamma * math.log(n)
                share = 1 / (1 + torch.exp(-asked))
                terms.append(-torch.log(share if j == y else 1 - share))
            images.append(sum(terms))
        return sum(images) / len(images)

    same(lambda z: other.balanced_bce(z, Y, N, gamma), literal, Z)


def test_balanced_bce_s_trap_at_logits_of_zero_every_class_has_its_prior():
    """Trained to its end on images that say nothing, sigmoid(z + log odds) is the prior and z is 0: no gradient."""
    z = torch.zeros(int(N.sum()), 5, dtype=torch.float64, requires_grad=True)
    other.balanced_bce(z, torch.arange(5).repeat_interleave(N), N).backward()
    torch.testing.assert_close(z.grad.sum(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_named_vs_takes_tau():
    same(lambda z: losses.named("vs", N, tau=1.7)(z, Y), lambda z: mean(lambda row, y: literal_vs(row, y, tau=1.7), z), Z)


def test_named_cdb_weighs_by_class_accuracy():
    expected = other.cross_entropy(Z, Y, N, weights=other.difficulty_weights(ACCURACY))
    torch.testing.assert_close(losses.named("cdb", N, class_accuracy=ACCURACY)(Z, Y), expected)


def test_named_la_takes_tau_or_gamma():
    assert losses.named("la", N, tau=1.7)(Z, Y) == losses.logit_adjusted(Z, Y, N, 1.7)
    assert losses.named("la", N, gamma=0.05, mu=0.7)(Z, Y) == losses.compensated(Z, Y, N, 0.05, 0.7)
    with pytest.raises(UserError, match=r"Eq 22 has tau = 1, not 1\.7"):
        losses.named("la", N, tau=1.7, gamma=0.05)


def test_an_unknown_name_is_one_clear_line():
    with pytest.raises(UserError, match=r"no loss 'ldam-dwr'\. Did you mean 'ldam-drw'"):
        losses.named("ldam-dwr", N)
