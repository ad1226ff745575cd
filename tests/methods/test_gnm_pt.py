"""GNM-PT's traps: where the gradient is taken, how far from the weights, when, and that the test knows nothing of it."""

import copy

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

import sagekit as sk
from sagekit.data.batches import Batch
from sagekit.losses.compared import effective_number_weights
from sagekit.methods import Now
from sagekit.methods.gnm_pt import neighbour
from sagekit.networks.backbone import Backbone
from sagekit.networks.prompted import Prompted

NAMES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], [90, 50, 3, 2]
LABELS = torch.tensor([0, 1, 0, 2])
IMAGES = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(backbone, **changes):
    config = sk.Config.preset("mini", "gnm_pt", **{"epochs": 70, **changes})
    model = sk.build_model(config, NAMES, copy.deepcopy(backbone), class_counts=COUNTS).double().train()
    for p in model.net.backbone.parameters():
        p.requires_grad_(False)
    return model


def step(model, epoch=1, seed=0):
    batch = Batch((IMAGES,), LABELS, torch.arange(4))
    return model((batch,), Now(0, epoch, 0.0, torch.Generator().manual_seed(seed)))["loss"]


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_the_printed_count_is_that_of_the_prompts():
    with torch.device("meta"):
        clip = CLIP(512, CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224), CLIPTextCfg(layers=1))
        net = Prompted(Backbone(clip, str.split, "meta", (0.5,) * 3, (0.5,) * 3), prompts=10)
    assert net.prompts.tokens.numel() == 92_160


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_at_the_neighbour_and_the_weights_stay(backbone, checkpointing):
    model, there = build(backbone, checkpointing=checkpointing), build(backbone, rho=0.0)
    before = weights(model)
    near = neighbour(model, 0.05 * 0.1, torch.Generator().manual_seed(0))
    for name, p in there.named_parameters():
        if name in near:
            p.data.copy_(near[name])
    for one in (model, there):
        step(one).backward()
    for name, p in there.named_parameters():
        if name in near:
            assert not torch.equal(before[name], near[name])
            assert torch.equal(before[name], weights(model)[name])
            torch.testing.assert_close(model.get_parameter(name).grad, p.grad)
    assert set(near) == {"net.prompts.tokens", "head.rows"}


def test_without_rho_there_is_no_noise(backbone):
    model = build(backbone, rho=0.0)
    near = neighbour(model, 0.0, torch.Generator().manual_seed(0))
    for name, w in weights(model).items():
        assert torch.equal(near[name], w)
    assert step(model) != step(build(backbone, rho=5.0))


def test_the_noise_is_bounded_gaussian_and_new_in_every_step(backbone):
    model = build(backbone)
    w, g = model.net.prompts.tokens.detach(), torch.Generator().manual_seed(0)
    far, other = ((neighbour(model, 0.5, g)["net.prompts.tokens"].detach() - w) / 0.5 for _ in range(2))
    assert far.abs().max().item() == pytest.approx(1)
    assert far.std().item() == pytest.approx(1 / 3, rel=0.05)
    assert not torch.equal(far, other)


def test_its_reach_is_halved_late_and_not_doubled_at_first(backbone, monkeypatch):
    reach = []
    monkeypatch.setattr("sagekit.methods.gnm_pt.neighbour", lambda model, r, g: reach.append(r) or neighbour(model, r, g))
    model = build(backbone)
    for epoch in (0, 1, 59, 60, 69):
        step(model, epoch)
    assert reach == pytest.approx([0.005, 0.005, 0.005, 0.0025, 0.0025])
    reach.clear()
    step(build(backbone, late_from=1.0), 69)
    assert reach == pytest.approx([0.005])


def test_late_the_classes_are_weighted(backbone):
    """By hand from the losses of the single images; before, all count alike."""
    model = build(backbone, rho=0.0, noise=0.0)
    losses = []
    for i in range(4):
        batch = Batch((IMAGES[i : i + 1],), LABELS[i : i + 1], torch.arange(1))
        losses.append(model((batch,), Now(0, 0, 0.0, torch.Generator().manual_seed(0)))["loss"])
    v = effective_number_weights(torch.tensor(COUNTS), 0.9998)[LABELS]
    torch.testing.assert_close(step(model, 59), sum(losses) / 4)
    torch.testing.assert_close(step(model, 60), (v * torch.stack(losses)).sum() / v.sum())
    assert v[3] / v[0] > 10


def test_the_test_is_at_the_weights_and_image_by_image(backbone):
    model = build(backbone).eval()
    z = model.logits(IMAGES).prediction
    assert torch.equal(z, model.logits(IMAGES).prediction)
    torch.testing.assert_close(z, build(backbone, rho=0.0).eval().logits(IMAGES).prediction)
    for image, row in zip(IMAGES, z, strict=True):
        torch.testing.assert_close(model.logits(image[None]).prediction[0], row)


def test_no_text_is_read(backbone):
    mute = copy.deepcopy(backbone)

    def tokenizer(texts):
        raise AssertionError("a text was read")

    mute.tokenizer = tokenizer
    assert build(mute).head.rows.std().item() == pytest.approx(0.02, rel=0.1)


def test_its_view_of_cifar_is_strong():
    assert [view.name for view in sk.Config.preset("cifar100-lt-100", "gnm_pt").stages[0].views] == ["strong"]
    assert [view.name for view in sk.Config.preset("places-lt", "gnm_pt").stages[0].views] == ["crop"]
