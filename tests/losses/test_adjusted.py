import pytest
import reference
import torch
from conftest import small

from sagekit import UserError, losses
from sagekit.losses import compared as compared_losses
from sagekit.networks.tuned import Logits

Z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 0])
N = torch.tensor([500, 120, 60, 20, 5])


def test_logit_adjusted_is_eq_1():
    expected = torch.stack([reference.logit_adjusted(z, int(y), N.double()) for z, y in zip(Z, Y, strict=True)]).mean()
    torch.testing.assert_close(losses.logit_adjusted(Z, Y, N), expected, atol=1e-12, rtol=0)


def test_compensated_is_eq_22():
    expected = torch.stack([reference.compensated(z, int(y), N.double(), 0.06, 0.5) for z, y in zip(Z, Y, strict=True)])
    torch.testing.assert_close(losses.compensated(Z, Y, N, 0.06, 0.5), expected.mean(), atol=1e-12, rtol=0)


def test_two_classes_by_hand():
    """z = (0, 0), n = (3, 1): the rare class has probability 1/4 under Eq 1, so its loss is log 4."""
    loss = losses.logit_adjusted(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1]), torch.tensor([3, 1]))
    assert loss.item() == pytest.approx(1.3862943611, abs=1e-9)


def test_gradients_are_right():
    z = Z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.compensated(z, Y, N, 0.05, 0.5), z)


def test_interchange_loss_is_eq_24():
    config = small(lambda_1=0.1, lambda_2=0.2, lambda_3=0.3, gamma=0.05)
    parts = [Z, Z.flip(0), Z.flip(1), Z * 2]
    one = [losses.compensated(p, Y, N, 0.05, 0.5) for p in parts]
    terms = losses.interchange_loss(Logits(*parts), Y, losses.criterion(config, N), config)
    torch.testing.assert_close(terms["loss"], one[0] + 0.1 * one[1] + 0.2 * one[2] + 0.3 * one[3])


def test_interchange_loss_without_fit_is_the_plain_loss():
    config = small("lift")
    terms = losses.interchange_loss(Logits(Z, None, None, Z), Y, losses.criterion(config, N), config)
    torch.testing.assert_close(terms["loss"], losses.logit_adjusted(Z, Y, N))


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


def of(name, epoch=0, class_accuracy=None, **changes):
    """The value of loss ``name`` as the trainer builds it, in epoch ``epoch`` of 10."""
    config = small("lift", loss=name, epochs=10, **changes)
    return losses.criterion(config, N, epoch, class_accuracy)(Z, Y)


@pytest.mark.parametrize("factor", [False, True])
def test_the_trainer_s_losses_are_the_formulas(factor):
    """Cosine losses get z / 25; the factor adds gamma log n_i."""
    gamma, c = (0.05 if factor else 0.0), Z / 25
    weights = compared_losses.effective_number_weights(N)
    expected = {
        "ce": compared_losses.cross_entropy(Z, Y, N, gamma), "focal": compared_losses.focal(Z, Y, N, gamma),
        "class-balanced": compared_losses.cross_entropy(Z, Y, N, gamma, weights),
        "cdb": compared_losses.cross_entropy(Z, Y, N, gamma),
        "la": losses.logit_adjusted(Z, Y, N, 1 + gamma), "lade": compared_losses.lade(Z, Y, N, gamma),
        "ldam": compared_losses.ldam(c, Y, N, gamma), "ldam-drw": compared_losses.ldam(c, Y, N, gamma),
        "kps": compared_losses.kps(c, Y, N, gamma), "dbm": compared_losses.dbm(c, Y, N, gamma),
    }
    for name, value in expected.items():
        torch.testing.assert_close(of(name, compensation=factor, gamma=0.05), value, msg=name)


def test_deferred_parts_start_at_their_share_of_the_epochs():
    assert of("ldam-drw", 7) == of("ldam", 7)
    weights = compared_losses.effective_number_weights(N)
    torch.testing.assert_close(of("ldam-drw", 8, compensation=False), compared_losses.ldam(Z / 25, Y, N, weights=weights))
    assert of("kps", 5) != of("kps", 6)
    torch.testing.assert_close(of("kps", 6, compensation=False), compared_losses.kps(Z / 25, Y, N, adjust_gradient=True))


def test_cdb_weighs_by_the_epoch_before():
    accuracy = torch.tensor([0.9, 0.5, 0.8, 0.1, 0.3])
    weights = compared_losses.difficulty_weights(accuracy)
    expected = compared_losses.cross_entropy(Z, Y, N, weights=weights)
    torch.testing.assert_close(of("cdb", 1, accuracy, compensation=False), expected)


def test_la_takes_tau():
    torch.testing.assert_close(of("la", compensation=False, tau=1.7), losses.logit_adjusted(Z, Y, N, 1.7))
