"""The traps of methods that learn the classes' texts (BALLAD, CoOp, MaPLe): when texts are encoded, what moves, how much there
is of it."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import Batch
from sagekit.data.samplers import class_aware, every_image
from sagekit.methods import Now
from sagekit.networks.text import TextTower

trainer = sys.modules["sagekit.training.train"]  # the module: sagekit.train itself is the function

METHODS = ["ballad", "coop", "maple"]
CLASSES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], [9, 5, 3, 2]
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "val_per_class": 2, "batch_size": 64, "epochs": 1}
IMAGES = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
BATCH = (Batch((IMAGES,), torch.tensor([0, 1, 0, 1]), torch.arange(4)),)


def build(method, backbone, names=CLASSES, sentences=None, **changes):
    config = sk.Config.preset("mini", method, **changes)
    return sk.build_model(config, names, copy.deepcopy(backbone), class_counts=COUNTS[: len(names)], sentences=sentences)


def now(stage=0, epoch=0):
    return Now(stage, epoch, 0.0, torch.Generator().manual_seed(0))


def zero_shot(backbone, template="a photo of a {}."):
    """k cos in the shared space, by CLIP itself."""
    with torch.no_grad():
        texts = backbone.clip.encode_text(backbone.tokenizer([template.format(name) for name in CLASSES]), normalize=True)
        return 43.7 * F.normalize(backbone.clip.encode_image((IMAGES - 0.5) / 0.5), dim=-1) @ texts.T


@pytest.fixture
def encoded(monkeypatch):
    """How many texts were encoded, each time a text tower was asked."""
    calls, real = [], TextTower.forward

    def forward(tower, *args):
        calls.append(len(tower.tokens))
        return real(tower, *args)

    monkeypatch.setattr(TextTower, "forward", forward)
    return calls


# --- when texts are encoded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_all_texts_in_every_step_and_once_in_a_test(method, backbone, encoded):
    model = build(method, backbone).train()
    for _ in range(2):
        model(BATCH, now())
    assert encoded == [4, 4]
    model.eval()
    with torch.no_grad():
        first = model.logits(IMAGES).prediction
        torch.testing.assert_close(model.head_of(model.features(IMAGES)).prediction, first)
    assert encoded == [4, 4, 4]
    texts = model.train().logits(IMAGES).prediction.detach()  # the same, live
    torch.testing.assert_close(texts, first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.head_of(model.features(IMAGES)).prediction.detach(), first, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_test_is_of_the_texts_as_they_are_now(method, backbone):
    """Also where the weights changed in test mode: a stage that goes back to its best epoch."""
    model = build(method, backbone).eval()
    before = model.rows.clone()
    g = torch.Generator().manual_seed(0)
    moved = {name: t + 0.1 * torch.randn(t.shape, generator=g) for name, t in model.trained().items()}
    model.load_trained(moved, "")
    model.eval()
    assert (model.rows - before).abs().max() > 0.01
    torch.testing.assert_close(model.rows, F.normalize(model.texts(), dim=-1))


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_an_image_in_the_batch_is_learned_from_too(method, backbone):
    model = build(method, backbone).train()
    real, seen = model.compare, []

    def compare(f, texts):
        texts.retain_grad()
        seen.append(texts)
        return real(f, texts)

    model.compare = compare
    model(BATCH, now())["loss"].backward()
    assert (seen[0].grad.norm(dim=1) > 0).tolist() == [True] * 4


@pytest.mark.parametrize("method", METHODS)
def test_in_bf16_the_towers_are_and_the_head_is_not(method, backbone):
    model, found = build(method, backbone).train(), []
    model.tower.register_forward_hook(lambda _, __, out: found.append(out.dtype))
    exact = model(BATCH, now())["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(BATCH, now())["loss"]
    assert found == [torch.float32, torch.bfloat16]
    assert rough.dtype == torch.float32
    assert 0 < abs(rough.item() - exact.item()) < 0.05 * exact.item()


@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_changes_nothing(method, backbone):
    found = []
    for checkpointing in (False, True):
        model = build(method, backbone, checkpointing=checkpointing).double().train()
        loss = model((Batch((IMAGES.double(),), *BATCH[0][1:]),), now())["loss"]
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    assert len(found[0][1]) > 0
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-8)


# --- BALLAD ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ballad(tmp_path_factory, backbone):
    """A tiny run, its data, its CLIP, and its weights after stage 1."""
    config = sk.Config.preset("mini", "ballad", **TINY, adapter_epochs=2, keep="best")
    data, clip, kept, method = sk.load_data(config.data), copy.deepcopy(backbone), [], sk.methods.load("ballad")
    with pytest.MonkeyPatch.context() as patch:
        real = method.start_stage

        def start_stage(model, stage):
            kept.append({name: t.detach().clone() for name, t in model.trained().items()})
            real(model, stage)

        patch.setattr(method, "start_stage", start_stage)
        run = sk.train(config, tmp_path_factory.mktemp("ballad") / "run", data=data, backbone=clip, show=False)
    return run, data, clip, kept


def test_ballad_starts_as_zero_shot_in_the_shared_space(backbone):
    model = build("ballad", backbone).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(IMAGES).prediction, zero_shot(backbone), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_ballad_trains_both_towers_first_and_then_the_adapter_alone(ballad, backbone):
    run, _, clip, (start, between) = ballad
    end = run.weights()
    assert {name for name in start if torch.equal(start[name], between[name])} == {"adapter.weight"}
    assert {name for name in end if not torch.equal(between[name], end[name])} - {"rows"} == {"adapter.weight"}
    for name, tensor in backbone.state_dict().items():  # the frozen CLIP is another
        assert torch.equal(clip.state_dict()[name], tensor), name
    assert not any("logit_scale" in name for name in end)


@pytest.mark.slow
def test_ballad_keeps_the_tuned_texts_and_needs_no_tower_again(ballad, encoded):
    run, data, clip, _ = ballad
    model = sk.load_model(run, data.class_names, copy.deepcopy(clip)).eval()
    assert encoded == []
    with torch.no_grad():
        expected = F.normalize(model.net.tuned.clip.encode_text(clip.tokenizer(
            [f"a photo of a {name}." for name in data.class_names])), dim=-1)
    torch.testing.assert_close(model.rows, expected, atol=1e-5, rtol=1e-5)
    frozen = clip.text_rows([[f"a photo of a {name}."] for name in data.class_names], shared=True)
    assert (model.rows - frozen).abs().max() > 1e-3


def test_ballad_asks_the_texts_no_more_in_stage_2(backbone, encoded):
    model = build("ballad", backbone)
    model.start_stage(1)
    for epoch in (0, 1):
        model.train().start_epoch(now(1, epoch))
        model(BATCH, now(1, epoch))
        model.eval()
    assert encoded == [4]


def test_ballads_adapter_is_mixed_in_and_starts_at_random(backbone):
    model = build("ballad", backbone, adapter_weight=0.3).eval()
    assert 0.9 < model.adapter.weight.abs().max() * 96**0.5 < 1
    f = model.features(IMAGES).own.detach()
    before = model.compare(f, model.rows).z
    model.start_stage(1)
    z = model.compare(f, model.rows).z
    mixed = F.normalize(0.3 * f @ model.adapter.weight.T + 0.7 * f, dim=-1)
    torch.testing.assert_close(z, 43.7 * mixed @ model.rows.T, atol=1e-4, rtol=1e-4)
    assert (z - before).abs().max() > 0.1


def test_ballads_stages():
    config = sk.Config.preset("imagenet-lt", "ballad", keep="best")
    first, second = config.stages
    assert [(s.epochs, s.batch_size, s.optimizer.lr, s.samplers, s.keep) for s in (first, second)] == [
        (50, 512, 1e-5, (every_image,), "best"), (10, 512, 0.2, (class_aware,), "last")]
    assert {view.name for s in (first, second) for view in s.views} == {"half_jitter"}
    assert config.views.test_resize == 224
    assert [s.keep for s in sk.Config.preset("mini", "ballad").stages] == ["last", "last"]


# --- CoOp and MaPLe -------------------------------------------------------------------------------------------------------


def test_coop_from_words_starts_as_zero_shot(backbone):
    model = build("coop", backbone, words="a photo of a").eval()
    assert model.vectors.shape == (4, 128)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(IMAGES).prediction, zero_shot(backbone), atol=1e-4, rtol=1e-4)


def test_coop_from_noise(backbone):
    model = build("coop", backbone, vectors=12)
    assert 0.018 < model.vectors.std() < 0.022
    assert model.vectors.abs().mean() > 0.01


def test_maples_texts_start_as_words_in_the_first_block(backbone):
    model = build("maple", backbone, depth=1).eval()
    with torch.no_grad():
        texts = backbone.clip.encode_text(backbone.tokenizer([f"a photo of a {name}." for name in CLASSES]), normalize=True)
        torch.testing.assert_close(model.rows, texts, atol=1e-5, rtol=1e-5)
    deep = build("maple", backbone).eval()
    assert (deep.rows - model.rows).abs().max() > 0.01


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (2, 2), (9, 2)])
def test_maple_goes_no_deeper_than_either_tower(depth, blocks, backbone):
    vectors, images = 2 * 128, 128 * 128 + 128
    assert build("maple", backbone, depth=depth).parameter_counts() == {"net": blocks * (vectors + images)}


def test_maples_image_prompts_move_with_the_texts(backbone):
    model = build("maple", backbone).eval()
    with torch.no_grad():
        before = model.features(IMAGES).own
        model.net.prompts.vectors[1] += 1
        assert (model.features(IMAGES).own - before).abs().max() > 1e-3
        assert model.net.prompts(0, torch.zeros(2, 37, 128)).shape == (2, 39, 128)
        assert model.net.prompts(1, torch.zeros(2, 39, 128)).shape == (2, 39, 128)
        tokens = torch.randn(2, 39, 128)
        assert torch.equal(model.net.prompts(2, tokens), tokens)


@pytest.mark.parametrize("method", ["coop", "maple"])
def test_neither_tower_moves(method, backbone):
    model = build(method, backbone).train()
    model(BATCH, now())["loss"].backward()
    assert [name for name, p in model.net.backbone.named_parameters() if p.grad is not None] == []
    assert all(p.grad is not None for p in model.trained().values())


@pytest.mark.parametrize(("method", "lr"), [("coop", 0.002), ("maple", 0.0035)])
def test_the_first_epoch_is_a_warm_up_at_a_rate_of_its_own(method, lr):
    (stage,) = sk.Config.preset("imagenet-lt", method, epochs=10).stages
    rates = [stage.optimizer.lr * stage.rate(epoch, 0.0, 10) for epoch in (0, 5)]
    assert rates == pytest.approx([1e-5, lr / 2])
    assert stage.views[0].interpolation == "bicubic"


@pytest.mark.parametrize("method", ["coop", "maple"])
def test_the_loss_is_a_choice(method, backbone):
    la, ce = (build(method, backbone, **changes).train()(BATCH, now())["loss"].item() for changes in ({}, {"loss": "ce"}))
    z = build(method, backbone).train().logits(IMAGES).z.detach()
    prior = (torch.tensor(COUNTS) / sum(COUNTS)).log()
    assert la == pytest.approx(F.cross_entropy(z + prior, BATCH[0].labels).item(), rel=1e-4)
    assert ce == pytest.approx(F.cross_entropy(z, BATCH[0].labels).item(), rel=1e-4)


# --- sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_parameters_at_vit_b_16():
    clip = sk.load_backbone(sk.Config.preset("imagenet-lt", "coop", pretrained="random").network)
    assert sum(p.numel() for p in clip.clip.parameters()) == 149_620_737  # "149.62M"
    configs = {method: sk.Config.preset("imagenet-lt", method, pretrained="random") for method in METHODS}
    counts = {method: sk.build_model(config, ["ant", "bee"], clip).parameter_counts() for method, config in configs.items()}
    assert counts == {"coop": {"vectors": 16 * 512}, "maple": {"net": 3_555_072},
                      "ballad": {"net": 149_620_737 - 1, "adapter": 262_144}}  # but the scale


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_backbone_without_a_text_tower_is_refused(method, backbone):
    bare = copy.deepcopy(backbone)
    bare.clip = torch.nn.Identity()
    with pytest.raises(UserError, match=r"mini has no plain CLIP text tower .* choose a CLIP such as") as error:
        build(method, bare)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("method", "names", "changes"), [
    ("coop", CLASSES, {"vectors": 17}),
    ("coop", ["circle " * 15], {}),
    ("maple", ["circle " * 20], {}),
    ("ballad", ["circle " * 20], {}),
])
def test_what_the_text_tower_cannot_read_to_its_end_is_refused(method, names, changes, backbone):
    with pytest.raises(UserError, match=r"the prompt '.*' has \d+ tokens or more.*mini reads 20"):
        build(method, backbone, names, **changes)


@pytest.mark.parametrize("method", METHODS)
def test_too_little_memory_for_the_texts_is_said_before_anything_is_written(method, backbone, tmp_path, monkeypatch):
    config = sk.Config.preset("mini", method, **TINY)
    data = sk.load_data(config.data)
    monkeypatch.setattr(trainer, "memory", lambda device: 10**6)
    with pytest.raises(UserError, match=r"the texts of all 48 classes.* GB are free; --set checkpointing=true"):
        sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    assert not (tmp_path / "run").exists()
    (line,) = build(method, backbone, checkpointing=True).beforehand(10**6)
    assert "all 4 classes" in line


@pytest.mark.parametrize("method", ["coop", "maple"])
def test_own_texts_have_no_place_in_a_learned_prompt(method, backbone):
    with pytest.raises(UserError, match=r"own texts \(class_texts, templates_file\) have no place .*; leave them out"):
        build(method, backbone, sentences=[[name] for name in CLASSES])


def test_ballad_takes_one_own_text_a_class(backbone):
    own = build("ballad", backbone, sentences=[[f"a drawing of a {name}."] for name in CLASSES]).eval()
    with torch.no_grad():
        expected = zero_shot(backbone, "a drawing of a {}.")
        torch.testing.assert_close(own.logits(IMAGES).prediction, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match=r"one text of each class in every step, and 'striped star' has 2 .*; leave one"):
        build("ballad", backbone, sentences=[["a circle."], ["a star.", "a striped star."], ["a heart."], ["a star."]])


@pytest.mark.parametrize("words", ["a", "photo of a star"])
def test_words_are_as_many_vectors(words, backbone):
    assert len(build("coop", backbone, words=words).vectors) == len(words.split())
