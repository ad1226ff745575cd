"""The audit of the paper: what we found by checking it, each finding a test named for what it shows."""

import pytest
import reference
import torch
from conftest import shaken

from sagekit import AdaptFormer, Config, SGAdapter, build_model, losses
from sagekit.methods.sage import PUBLISHED
from sagekit.networks.adapters import count, default_bottleneck
from sagekit.paper import CLASSES, MEBI, MEGA, TABLE_12

Z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 0])
N = torch.tensor([500, 120, 60, 20, 5])
D, L = 768, 12  # ViT-B/16


def test_finding_1_mu_does_nothing():
    values = [losses.compensated(Z, Y, N, 0.05, mu) for mu in (0.1, 0.5, 1.0)]
    assert max(values) - min(values) < 1e-12


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.085])
def test_finding_2_the_compensated_loss_is_logit_adjustment_at_one_plus_gamma(gamma):
    torch.testing.assert_close(losses.compensated(Z, Y, N, gamma, 0.5), losses.logit_adjusted(Z, Y, N, 1 + gamma),
                               atol=1e-12, rtol=0)


def test_finding_3_the_guidance_gives_every_token_the_same_gate():
    adapter = shaken(SGAdapter(32, 4))
    tokens, w_bar = torch.randn(5, 32, dtype=torch.float64), torch.randn(32, dtype=torch.float64)
    f_t = reference.layer_norm(w_bar.repeat(5, 1), adapter.norm.weight, adapter.norm.bias)
    per_token = reference.affine(f_t, adapter.proj)
    torch.testing.assert_close(per_token, adapter.gate_vector(w_bar).expand(5, 32))
    assert (adapter(tokens, w_bar) - reference.sg_adapter(adapter, tokens, w_bar)).abs().max() < 1e-10


def test_finding_4_a_trained_adapter_folds_to_a_fiftieth():
    adapter = shaken(SGAdapter(D, 4))
    w_bar, tokens = torch.randn(D, dtype=torch.float64) / 28, torch.randn(3, D, dtype=torch.float64)
    folded = adapter.fold(w_bar)
    assert (count(adapter), count(folded)) == (608_270, 13_064)
    assert (folded(tokens) - reference.sg_adapter(adapter, tokens, w_bar)).abs().max() < 1e-10


def test_finding_5_the_gate_moves_as_a_vector_with_a_learning_rate_multiplied_by_f_t_squared_plus_one():
    """SGD with momentum on (W_proj, b_proj) and on g itself, f_t held fixed, on the same loss."""
    d, lr = 16, 0.001
    g = torch.Generator().manual_seed(0)
    f_t = torch.nn.functional.layer_norm(torch.randn(d, generator=g, dtype=torch.float64), (d,))
    target = torch.randn(d, generator=g, dtype=torch.float64)
    proj = torch.nn.Linear(d, d).double()
    gate = torch.nn.Parameter(proj(f_t).detach().clone())
    rate = float(f_t @ f_t) + 1
    assert rate == pytest.approx(d + 1, abs=1e-3)  # |f_t|^2 = d after LayerNorm; 769 for d = 768
    slow = torch.optim.SGD(proj.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    fast = torch.optim.SGD([gate], lr=lr * rate, momentum=0.9, weight_decay=5e-4 / rate)
    for _ in range(50):
        for optimizer, value in ((slow, lambda: proj(f_t)), (fast, lambda: gate)):
            optimizer.zero_grad()
            (value() - target).pow(4).sum().backward()
            optimizer.step()
        torch.testing.assert_close(proj(f_t), gate, atol=1e-9, rtol=1e-9)


def test_finding_5_the_trainer_gives_the_vector_gate_that_rate(backbone):
    config = Config.preset("mini", gate="vector", lr=0.01)
    model = build_model(config, None, backbone)
    rest, gates = config.stages[0].optimizer(model.trained()).param_groups
    assert len(gates["params"]) == backbone.layers
    assert all(any(p is adapter.gate for p in gates["params"]) for adapter in model.net.adapters)
    assert (rest["rate"], gates["rate"]) == (1, backbone.width + 1)
    assert gates["rate"] * gates["weight_decay"] == pytest.approx(rest["weight_decay"]) == config.settings.weight_decay


def sage_parameters(classes: int, gate: str = "projection") -> int:
    return L * count(SGAdapter(D, default_bottleneck(classes, L), gate=gate))


@pytest.mark.parametrize(("name", "exact", "printed"), [
    ("CIFAR-100-LT", 7_299_240, 6.96), ("Places-LT", 7_483_704, 7.13), ("ImageNet-LT", 8_590_488, 8.19),
    ("iNaturalist 2018", 18_920_472, 18.04),
])
def test_finding_6_sage_is_counted_in_units_of_2_to_the_20(name, exact, printed):
    assert sage_parameters(CLASSES[name]) == exact
    assert int(100 * exact / MEBI) / 100 == printed  # cut after two digits: Places-LT is 7.137


@pytest.mark.parametrize(("name", "exact", "printed"), [
    ("CIFAR-100-LT", 101_436, 0.10), ("Places-LT", 175_212, 0.18), ("ImageNet-LT", 617_868, 0.62),
    ("iNaturalist 2018", 4_749_324, 4.75),
])
def test_finding_6_lift_is_counted_in_units_of_10_to_the_6(name, exact, printed):
    assert L * count(AdaptFormer(D, default_bottleneck(CLASSES[name], L))) == exact
    assert round(exact / MEGA, 2) == printed == TABLE_12["Baseline"][name]


@pytest.mark.parametrize("name", list(CLASSES))
def test_finding_7_the_last_two_labels_of_table_12_are_swapped(name):
    with_proj = sage_parameters(CLASSES[name]) / MEBI
    without = sage_parameters(CLASSES[name], gate="text") / MEBI
    assert TABLE_12["+ SG-Adapter"][name] == pytest.approx(without, abs=0.01)
    assert TABLE_12["+ SG-Adapter (w/o W_proj)"][name] == pytest.approx(with_proj, abs=0.01)


def test_finding_8_text_features_live_in_the_width_of_the_transformer(backbone):
    """w = normalise(t P^T) classifies as CLIP's shared space does, up to each class's norm of t P^T."""
    names, templates = ["plain circle", "striped star"], ["a photo of a [cls]."]
    rows = backbone.text_features(names, templates)
    assert rows.shape == (2, backbone.width)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    text = backbone.clip.encode_text(backbone.tokenizer([t.replace("[cls]", n) for n in names for t in templates]))
    back = torch.nn.functional.normalize(text, dim=-1) @ backbone.visual.proj.T
    f = backbone.features(torch.rand(3, 3, 48, 48))
    shared = f @ backbone.visual.proj @ torch.nn.functional.normalize(text, dim=-1).T
    torch.testing.assert_close(f @ rows.T * back.norm(dim=1), shared, atol=1e-4, rtol=1e-4)


def test_finding_8_the_counts_need_guidance_in_r_768():
    """With 512-d guidance W_proj would be 512 x 768 and the printed 6.96 could not come out."""
    with_512 = sage_parameters(100) - L * (D * D - 512 * D)
    assert int(100 * with_512 / MEBI) / 100 != 6.96


def test_finding_11_inat_leaves_the_fit_scalars_where_they_start():
    """lambda_3 = 1e-7: in 20 epochs of 3,417 steps the loss moves s_1 and s_2 by less than 0.02."""
    row = PUBLISHED["inat2018"].settings
    g = torch.Generator().manual_seed(0)
    z, z_v, z_t = (50 * torch.rand(128, 100, generator=g) - 25 for _ in range(3))  # the whole range of 25 x cosine
    s = torch.tensor([0.5, 0.5], requires_grad=True)
    target = torch.randint(100, (128,), generator=g)
    (row["lambda_3"] * losses.logit_adjusted(z + s[0] * z_v + s[1] * z_t, target, torch.full((100,), 10))).backward()
    steps, rate = row["epochs"] * 3417, 0.01 / (1 - 0.9) / 2  # momentum 0.9; a cosine schedule averages to half
    assert s.grad.abs().max() * steps * rate < 0.02
