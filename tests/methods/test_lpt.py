"""LPT's traps: who is trained when, both samplers, the keys' weight, what is random, and the printed counts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

import sagekit as sk
from sagekit.data.batches import Batch
from sagekit.data.samplers import class_aware, every_image
from sagekit.methods import Now
from sagekit.methods.lpt import asymmetric, dropped
from sagekit.networks.backbone import Backbone
from sagekit.networks.prompted import Pooled

NAMES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], [9, 5, 3, 2]
LABELS = torch.tensor([0, 1, 0, 2])


def build(backbone, stage=1, **changes):
    """The method at the start of a stage, in training mode."""
    model = sk.build_model(sk.Config.preset("mini", "lpt", **changes), NAMES, backbone, class_counts=COUNTS)
    for number in range(stage + 1):
        model.start_stage(number)
    return model.train()


def batch(seed):
    return Batch((torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(seed)),), LABELS, torch.arange(4))


def step(model, batches, epoch=0, seed=0, stage=1):
    return model(batches, Now(stage, epoch, 0.0, torch.Generator().manual_seed(seed)))


# --- counts ---------------------------------------------------------------------------------------------------------------


def test_the_printed_count_is_that_of_the_prompts_and_the_keys_come_on_top():
    """ViT-B/16, without its weights: "1.01M" in Table 2."""
    with torch.device("meta"):
        clip = CLIP(512, CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224), CLIPTextCfg(layers=1))
        net = Pooled(Backbone(clip, str.split, "meta", (0.5,) * 3, (0.5,) * 3), prompts=10, groups=20, chosen=2)
    shared, pool, keys = (p.numel() for p in (net.prompts.tokens, net.pool.prompts, net.pool.keys))
    assert (shared, pool, keys) == (92_160, 921_600, 15_360)
    assert shared + pool == 1_013_760


# --- stages ---------------------------------------------------------------------------------------------------------------


def test_stages():
    first, second = sk.Config.preset("places-lt", "lpt").stages
    assert (first.epochs, second.epochs) == (40, 40)
    assert [stage.epochs for stage in sk.Config.preset("inat2018", "lpt").stages] == [80, 80]
    assert (first.samplers, second.samplers) == ((every_image,), (class_aware, every_image))
    assert (first.trains, second.trains) == (("net.prompts.", "head."), ("net.pool.", "head."))
    assert {first.keep, second.keep} == {"last"}
    for stage in (first, second):
        rates = [stage.optimizer.lr * stage.rate(epoch, 0.5, 40) for epoch in (0, 1, 20, 39)]
        assert rates == pytest.approx([1e-6, 0.02 * 0.99846, 0.01, 0.02 * 0.00154], rel=1e-3)


@pytest.mark.slow
def test_each_stage_moves_its_own_alone(tmp_path, backbone, monkeypatch):
    config = sk.Config.preset("mini", "lpt", largest_class=12, imbalance_ratio=4.0, test_per_class=2, epochs=1, pool_epochs=1,
                              batch_size=64)
    kept, real = [], type(build(backbone)).start_stage

    def start_stage(model, stage):
        kept.append({name: t.clone() for name, t in model.trained().items()})
        real(model, stage)

    monkeypatch.setattr(type(build(backbone)), "start_stage", start_stage)
    run = sk.train(config, tmp_path / "run", backbone=backbone, show=False)
    start, between = kept[:2]
    end = run.weights()

    def moved(before, after):
        return {name for name in before if not torch.equal(before[name], after[name])}

    assert moved(start, between) == {"net.prompts.tokens", "head.rows"}
    assert moved(between, end) == {"net.pool.prompts", "net.pool.keys", "head.rows"}
    assert {"balanced", "plain", "keys"} <= set(run.history.columns)
    model = sk.load_model(run, sk.load_data(config.data).class_names, backbone)
    assert model.net.second  # a loaded run asks its pool


# --- the loss -------------------------------------------------------------------------------------------------------------


def test_both_batches_count_and_the_plain_one_ever_less(backbone):
    model = build(backbone, pool_epochs=4, dropout=0.0, noise=0.0)
    one, two, other = batch(0), batch(1), batch(2)
    for epoch, weight in ((0, 0.5), (1, 0.375), (3, 0.125)):
        terms = step(model, (one, two), epoch)
        torch.testing.assert_close(terms["loss"], terms["balanced"] + weight * terms["plain"])
    again = step(model, (one, other))
    assert again["balanced"] == step(model, (one, two))["balanced"]
    assert again["plain"] != step(model, (one, two))["plain"]


def test_the_second_batch_is_asked_more_softly(backbone):
    """(a, b) of the two batches differ, so the same images in both places cost differently."""
    model = build(backbone, dropout=0.0, noise=0.0)
    same = step(model, (batch(0), batch(0)))
    assert same["balanced"] != same["plain"]


def test_keys_move_towards_queries_by_their_weight_alone(backbone):
    model = build(backbone, key_weight=0.0)
    step(model, (batch(0), batch(1)))["loss"].backward()
    assert model.net.pool.keys.grad.abs().max() == 0
    assert model.net.pool.prompts.grad.abs().max() > 0
    model = build(backbone)
    before = step(model, (batch(0), batch(1)))
    before["loss"].backward()
    with torch.no_grad():
        model.net.pool.keys -= 0.01 * model.net.pool.keys.grad
    assert step(model, (batch(0), batch(1)))["keys"] > before["keys"]


def test_a_step_is_its_generator_s_and_the_test_has_no_chance(backbone):
    model, batches = build(backbone), (batch(0), batch(1))
    torch.manual_seed(1)
    one = step(model, batches)["loss"]
    torch.manual_seed(2)
    assert step(model, batches)["loss"] == one
    assert step(model, batches, seed=1)["loss"] != one
    assert step(build(backbone, dropout=0.0), batches)["loss"] != one
    model.eval()
    images = batch(0).views[0]
    assert torch.equal(model.logits(images).prediction, model.logits(images).prediction)
    torch.testing.assert_close(model.logits(images).prediction, 20 * F.normalize(model.net(images).own, dim=1)
                               @ F.normalize(model.head.rows, dim=1).T)


def test_dropout_keeps_the_mean():
    f = torch.ones(200, 100)
    out = dropped(f, 0.1, torch.Generator().manual_seed(0))
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(dropped(f, 0.0, torch.Generator().manual_seed(0)), f)


def test_asymmetric():
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(asymmetric(z, y, (0.0, 0.0), 0.0), F.cross_entropy(z, y))
    torch.testing.assert_close(asymmetric(z, y, (0.0, 0.0), 0.1), F.cross_entropy(z, y, label_smoothing=0.1))
    p = z.softmax(1)[range(5), y]
    torch.testing.assert_close(asymmetric(z, y, (0.5, 8.0), 0.0), -((1 - p) ** 0.5 * p.log()).mean())


def test_a_sure_image_has_a_gradient():
    """Its p rounds to 1, where the root has an infinite slope."""
    z = torch.tensor([[40.0, 0, 0]], requires_grad=True)
    asymmetric(z, torch.tensor([0]), (0.5, 8.0), 0.1).backward()
    assert z.grad.isfinite().all()


# --- what it needs --------------------------------------------------------------------------------------------------------


def test_no_text_is_read(backbone):
    mute = copy.deepcopy(backbone)

    def tokenizer(texts):
        raise AssertionError("a text was read")

    mute.tokenizer = tokenizer
    rows = build(mute).head.rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    assert torch.equal(rows, build(backbone).head.rows)  # of the seed
    assert not torch.equal(rows, build(backbone, seed=1).head.rows)


def test_more_groups_than_there_are():
    with pytest.raises(sk.UserError, match="an image cannot take 3 of 2 groups; lower chosen, or raise groups") as error:
        sk.Config.preset("mini", "lpt", groups=2, chosen=3)
    assert "\n" not in str(error.value)


def test_it_says_what_it_costs(backbone):
    (line,) = build(backbone).beforehand(0)
    assert "a second time" in line
