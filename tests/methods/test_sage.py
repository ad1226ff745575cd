"""The controls of the study "is it the text?": what stands in the text's place."""

import pytest
import torch
from conftest import small

import sagekit as sk
from sagekit.networks.adapters import AdaptFormer, FoldedAdapter, SGAdapter

NAMES = ["plain circle", "striped star", "dotted square"]


def built(backbone, **changes):
    return sk.build_model(small("sage", templates=1, fit=False, **changes), NAMES, backbone, "cpu", [9, 5, 2])


@pytest.fixture(scope="module")
def w_bar(backbone):
    return built(backbone).guidance().detach()


def test_guidance_is_what_its_name_says(backbone, w_bar):
    found = {kind: built(backbone, guidance=kind).guidance().detach() for kind in ("frozen", "shuffled", "random", "constant")}
    torch.testing.assert_close(found["frozen"], w_bar)
    torch.testing.assert_close(found["shuffled"].sort().values, w_bar.sort().values)
    assert not torch.allclose(found["shuffled"], w_bar)
    assert all(vector.norm() == pytest.approx(w_bar.norm().item(), rel=1e-5) for vector in found.values())
    assert abs(torch.cosine_similarity(found["random"], w_bar, dim=0)) < 0.5
    assert torch.nn.LayerNorm(len(w_bar))(found["constant"]).abs().max() < 1e-3  # LayerNorm leaves nothing of it


def test_only_the_rows_own_mean_follows_training(backbone, w_bar):
    """After W moves, w_bar and its shuffled entries move with it, by the same order; the others stand still."""
    for kind, moves in (("text", True), ("shuffled", True), ("frozen", False), ("random", False), ("constant", False)):
        model = built(backbone, guidance=kind)
        before = model.guidance().detach().clone()
        with torch.no_grad():
            model.head.rows.add_(torch.randn(model.head.rows.shape, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(before, model.guidance()) != moves
        assert model.guidance().requires_grad == moves


def test_the_folded_control_starts_as_the_adapter_does(backbone, w_bar):
    """Same seed: the folded form of that very adapter, without its text, and every weight of it is trained."""
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    models = {}
    for gate in ("projection", "folded"):
        torch.manual_seed(0)
        models[gate] = built(backbone, gate=gate)
    for own, folded in zip(models["projection"].net.adapters, models["folded"].net.adapters, strict=True):
        assert isinstance(own, SGAdapter)
        assert isinstance(folded, FoldedAdapter)
        tokens = torch.randn(4, len(w_bar), generator=torch.Generator().manual_seed(2))
        up = torch.randn(own.up.weight.shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            own.up.weight.copy_(up)
            folded.up.weight.copy_(up)
        torch.testing.assert_close(own(tokens, w_bar), folded(tokens), atol=1e-4, rtol=1e-4)
    trained = models["folded"].trained()
    assert any("down.weight" in name for name in trained)
    assert not any("proj" in name for name in trained)
    models["folded"].eval().fold()  # nothing is left to fold, and nothing is lost
    assert len(models["folded"].net.adapters) == backbone.layers
    assert models["folded"].logits(images).z.shape == (2, 3)


def test_fixed_scalars_are_not_trained(backbone, data, tmp_path):
    config = small("sage", fit_learned=False, fit_init=0.7)
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    assert not {"s_v", "s_t"} & set(run.weights())
    assert (run.predictions().s_v, run.predictions().s_t) == pytest.approx((0.7, 0.7))
    assert run.history["s_t"].tolist() == pytest.approx([0.7])


def test_a_wider_adapter_with_the_adapters_own_slope(backbone):
    lift = sk.build_model(small("lift", widen=2, slope=0.9), NAMES, backbone, "cpu", [9, 5, 2])
    adapter = lift.net.adapters[0]
    assert isinstance(adapter, AdaptFormer)
    assert adapter.down.out_features == 2 * small("lift").settings.bottleneck
    with torch.no_grad():
        adapter.up.weight.normal_()
        tokens = torch.randn(5, backbone.width)
        hidden = adapter.down(adapter.norm(tokens))
        expected = adapter.scale * adapter.up(torch.where(hidden > 0, hidden, 0.9 * hidden))
        torch.testing.assert_close(adapter(tokens), expected, atol=1e-5, rtol=1e-5)
