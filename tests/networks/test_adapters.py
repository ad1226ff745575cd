import copy

import pytest
import reference
import torch
from conftest import shaken

from sagekit import AdaptFormer, SGAdapter, UserError
from sagekit.networks.adapters import count, default_bottleneck

TOKENS = torch.randn(7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GUIDANCE = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 6


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.8, 1.0])
def test_sg_adapter_is_eq_7_to_9(alpha):
    adapter = shaken(SGAdapter(32, 4, alpha))
    difference = adapter(TOKENS, GUIDANCE) - reference.sg_adapter(adapter, TOKENS, GUIDANCE)
    assert difference.abs().max() < 1e-10


def test_sg_adapter_has_the_gradients_of_eq_7_to_9():
    ours = shaken(SGAdapter(32, 4))
    literal = copy.deepcopy(ours)
    w, v = GUIDANCE.clone().requires_grad_(), GUIDANCE.clone().requires_grad_()
    ours(TOKENS, w).square().sum().backward()
    reference.sg_adapter(literal, TOKENS, v).square().sum().backward()
    torch.testing.assert_close(w.grad, v.grad, atol=1e-9, rtol=1e-9)
    for (name, a), (_, b) in zip(ours.named_parameters(), literal.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_adaptformer_is_eq_5_to_6():
    adapter = shaken(AdaptFormer(32, 4))
    assert (adapter(TOKENS) - reference.adaptformer(adapter, TOKENS)).abs().max() < 1e-10


def test_tokens_may_have_any_leading_shape():
    adapter = shaken(SGAdapter(32, 4))
    batched = adapter(TOKENS.expand(2, 3, 7, 32), GUIDANCE)
    assert batched.shape == (2, 3, 7, 32)
    torch.testing.assert_close(batched[1, 2], adapter(TOKENS, GUIDANCE))


@pytest.mark.parametrize("gate", ["projection", "vector", "text"])
def test_a_fresh_adapter_adds_nothing(gate):
    assert SGAdapter(32, 4, gate=gate).double()(TOKENS, GUIDANCE).abs().max() == 0


@pytest.mark.parametrize(("gate_init", "gate"), [("zero", 0.0), ("identity", None)])
def test_gate_starts_where_gate_init_says(gate_init, gate):
    adapter = SGAdapter(32, 4, gate_init=gate_init).double()
    expected = adapter.norm(GUIDANCE) if gate is None else torch.zeros(32, dtype=torch.float64)
    torch.testing.assert_close(adapter.gate_vector(GUIDANCE), expected)


@pytest.mark.parametrize("gate", ["projection", "vector", "text"])
def test_fold_keeps_the_output(gate):
    adapter = shaken(SGAdapter(32, 4, 0.3, gate))
    folded = adapter.fold(GUIDANCE)
    assert (folded(TOKENS) - adapter(TOKENS, GUIDANCE)).abs().max() < 1e-12
    assert count(folded) == 2 * 8 * 32 + 8 + 32


def test_vector_gate_keeps_the_output():
    adapter = shaken(SGAdapter(32, 4, 0.3))
    twin = adapter.with_vector_gate(GUIDANCE)
    torch.testing.assert_close(twin(TOKENS, GUIDANCE), adapter(TOKENS, GUIDANCE))
    assert count(adapter) - count(twin) == 32 * 32


@pytest.mark.parametrize(("d", "r"), [(8, 1), (32, 4), (768, 4)])
def test_parameter_formulas_of_table_9(d, r):
    assert count(SGAdapter(d, r)) == (5 * r + d + 4) * d + 3 * r + 2
    assert count(AdaptFormer(d, r)) == (2 * r + 3) * d + r + 1


def test_default_bottleneck():
    assert [default_bottleneck(c, 12) for c in (10, 100, 365, 1000, 8142)] == [1, 4, 8, 32, 256]


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_out_of_range_is_one_clear_line(alpha):
    with pytest.raises(UserError, match="alpha"):
        SGAdapter(8, 1, alpha)
