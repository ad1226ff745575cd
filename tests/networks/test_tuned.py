import pytest
import reference
import torch
from conftest import shaken, small

from sagekit import Method, UserError, build_model, load_backbone
from sagekit.config import Config

NAMES = ["plain circle", "striped star", "dotted heart"]
IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def double(config: Config) -> Method:
    return shaken(build_model(config, NAMES, load_backbone(config.network)))


@pytest.mark.parametrize("changes", [{}, {"guidance_grad": False}, {"alpha": 0.8}])
def test_the_fast_forward_is_the_literal_one(changes):
    """Shared first block, CLS-only last block and one gate a step, against every token through every equation."""
    model = double(small(**changes))
    ours = model.logits(IMAGES)
    for i, image in enumerate(IMAGES):
        literal = reference.logits(model, image)
        for name, value in literal.items():
            assert (getattr(ours, name)[i] - value).abs().max() < 1e-10, name


def test_lift_s_features_are_the_literal_ones():
    """Both branches of a network with AdaptFormers, which LIFT alone has."""
    model = double(small("lift"))
    ours = model.net(IMAGES, with_frozen=True)
    for i, image in enumerate(IMAGES):
        for branch, adapted in ((ours.own, True), (ours.frozen, False)):
            assert (branch[i] - reference.features(model, image, adapted)).abs().max() < 1e-10
    cosines = torch.nn.functional.cosine_similarity(ours.own[:, None], model.head.rows[None], dim=-1)
    torch.testing.assert_close(model.logits(IMAGES).prediction, 25 * cosines)


def test_gradients_are_those_of_the_literal_form():
    fast, literal = double(small()), double(small())
    target = torch.tensor([0, 2])
    torch.nn.functional.cross_entropy(fast.logits(IMAGES).prediction, target).backward()
    values = torch.stack([reference.logits(literal, image)["prediction"] for image in IMAGES])
    torch.nn.functional.cross_entropy(values, target).backward()
    for (name, a), (_, b) in zip(fast.trained().items(), literal.trained().items(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-7, msg=name)


def test_without_guidance_gradient_the_classifier_learns_from_the_logits_alone():
    with_grad, without = double(small(fit=False)), double(small(fit=False, guidance_grad=False))
    for model in (with_grad, without):
        model.logits(IMAGES).z.sum().backward()
    assert not torch.allclose(with_grad.head.rows.grad, without.head.rows.grad)


def test_every_method_starts_as_zero_shot(backbone):
    expected = build_model(small("zero_shot"), NAMES, backbone).logits(IMAGES.float()).prediction
    for method in ("classifier", "lift", "sage"):
        model = build_model(small(method, templates=60), NAMES, backbone)
        torch.testing.assert_close(model.logits(IMAGES.float()).z, expected, atol=1e-5, rtol=1e-5)


def test_fold_keeps_the_logits():
    model = double(small())
    before = model.logits(IMAGES).prediction
    assert (model.fold().logits(IMAGES).prediction - before).abs().max() < 1e-10


def test_vector_gate_starts_where_the_projection_starts(backbone):
    """The gate as a vector has the projection's own start, for every gate_init."""
    model = build_model(small(gate="vector", gate_init="identity"), NAMES, backbone)
    adapter, w_bar = model.net.adapters[0], model.guidance()
    torch.testing.assert_close(adapter.gate_vector(w_bar), adapter.norm(w_bar))


def test_class_names_are_needed_except_for_the_mini_world(backbone):
    assert build_model(small(), backbone=backbone).head.rows.shape == (48, 128)
    with pytest.raises(UserError, match="class names of this data set are needed"):
        build_model(Config.preset("cifar100-lt-100"))


def test_logits_are_cosines_times_25(backbone):
    logits = build_model(small(), NAMES, backbone).logits(IMAGES.float())
    assert logits.z.abs().max() <= 25
    torch.testing.assert_close(logits.prediction, logits.z + 0.5 * logits.z_v + 0.5 * logits.z_t)


def test_load_trained_refuses_other_settings(backbone):
    sage, lift = (build_model(small(m), NAMES, backbone) for m in ("sage", "lift"))
    with pytest.raises(UserError, match="trained with other settings"):
        lift.load_trained(sage.trained(), "x")
    wide = build_model(small(bottleneck=16), NAMES, backbone)
    with pytest.raises(UserError, match="Check backbone, bottleneck"):
        wide.load_trained(sage.trained(), "x")


@pytest.mark.parametrize("config", [small(), *(small("lift", module=m) for m in ("adaptformer", "vpt-deep", "lora"))],
                         ids=lambda config: config.flat.get("module", config.method))
def test_checkpointing_changes_memory_and_nothing_else(config):
    """The same gradients, with fewer bytes kept from the forward for the backward pass."""
    gradients, kept = [], []
    for checkpointing in (False, True):
        model, held = double(config.changed(checkpointing=checkpointing)), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.nbytes) or t, lambda t: t):
            loss = torch.nn.functional.cross_entropy(model.logits(IMAGES).prediction, torch.tensor([0, 2]))
        kept.append(sum(held))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-12)
    assert kept[1] < kept[0] / 3
