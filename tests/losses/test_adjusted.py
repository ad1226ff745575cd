"""Eq 1, 21, 22 and 24 against the paper's text, in float64, with their gradients."""

import pytest
import reference
import torch

from sagekit import losses
from sagekit.errors import UserError

Z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 0])
N = torch.tensor([500, 120, 60, 20, 5])


def same(ours, literal):
    """Value and gradient of ``ours(logits)`` are those of the mean of ``literal(row, label)``."""
    x, twin = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    value, expected = ours(x), torch.stack([literal(z, int(y)) for z, y in zip(twin, Y, strict=True)]).mean()
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(x.grad, twin.grad, atol=1e-12, rtol=0)


def test_logit_adjusted_is_eq_1():
    same(lambda z: losses.logit_adjusted(z, Y, N), lambda z, y: reference.logit_adjusted(z, y, N.double()))


def test_compensated_is_eq_22():
    same(lambda z: losses.compensated(z, Y, N, 0.06, 0.5), lambda z, y: reference.compensated(z, y, N.double(), 0.06, 0.5))


def test_two_classes_by_hand():
    """z = (0, 0), n = (3, 1): the rare class has probability 1/4 under Eq 1, so its loss is log 4."""
    loss = losses.logit_adjusted(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1]), torch.tensor([3, 1]))
    assert loss.item() == pytest.approx(1.3862943611, abs=1e-9)


def test_gradients_are_right():
    z = Z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.compensated(z, Y, N, 0.05, 0.5), z)


def test_interchanged_is_eq_24():
    parts = [p.clone().requires_grad_() for p in (Z, Z.flip(0), Z.flip(1), Z * 2)]
    terms = losses.interchanged(*parts, Y, lambda z, y: losses.compensated(z, y, N, 0.05, 0.5), 0.1, 0.2, 0.3)
    assert list(terms) == ["loss", "z", "z_v", "z_t", "prediction"]
    gradients = torch.autograd.grad(terms["loss"], parts)
    total = 0
    for part, name, weight, gradient in zip(parts, list(terms)[1:], (1, 0.1, 0.2, 0.3), gradients, strict=True):
        one = losses.compensated(part, Y, N, 0.05, 0.5)
        torch.testing.assert_close(terms[name], one)
        torch.testing.assert_close(gradient, weight * torch.autograd.grad(one, part)[0])
        total += weight * one
    torch.testing.assert_close(terms["loss"], total)


@pytest.mark.parametrize(("counts", "message"), [
    (torch.tensor([3, 0, 2, 1, 1]), "class 1 has no training images"),
    (torch.tensor([3, 2]), "2 classes and the logits have 5"),
])
def test_wrong_counts_are_one_clear_line(counts, message):
    with pytest.raises(UserError, match=message):
        losses.logit_adjusted(Z, Y, counts)


def test_mu_must_be_positive():
    with pytest.raises(UserError, match="mu is 0"):
        losses.compensated(Z, Y, N, 0.05, 0.0)
