import json

import pytest
import torch
import torch.nn.functional as F

from sagekit import UserError
from sagekit.data import world
from sagekit.files import sha256
from sagekit.networks import mini
from sagekit.networks.pretrain import batch, contrastive_loss, learning_rate, load, own_test, pretrain, zero_shot


def test_loss_without_twins_is_clip_s():
    g = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 8, generator=g), dim=1) for _ in range(2))
    logits = 7.0 * image @ text.T
    expected = -(torch.log_softmax(logits, 1).diag() + torch.log_softmax(logits, 0).diag()).mean() / 2
    captions = torch.arange(5).view(5, 1)
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(7.0), captions), expected)


def test_equal_captions_are_positives_of_each_other():
    """Two images with one caption: whichever of the two texts an image matches, the loss is the same."""
    image = F.normalize(torch.randn(2, 8), dim=1)
    text = F.normalize(torch.randn(1, 8), dim=1).expand(2, 8)
    loss = contrastive_loss(image, text, torch.tensor(5.0), torch.zeros(2, 3))
    columns = -torch.log_softmax(5.0 * text @ image.T, 1).mean()
    torch.testing.assert_close(loss, (torch.tensor(2.0).log() + columns) / 2)


def test_a_batch_depends_on_seed_and_step_alone():
    tokenizer = mini.WordTokenizer()
    (a, s), (b, t), (c, _) = batch(0, 7, tokenizer), batch(0, 7, tokenizer), batch(0, 8, tokenizer)
    assert torch.equal(a, b)
    assert torch.equal(s, t)
    assert not torch.equal(a, c)


def test_schedule():
    assert learning_rate(0, 2000) < learning_rate(499, 2000) == pytest.approx(1.5e-3)
    assert learning_rate(1999, 2000) < 1e-6


@pytest.mark.slow
def test_pretraining_writes_a_model_and_its_card(tmp_path):
    out = tmp_path / "m.safetensors"
    card = pretrain(out, steps=2)
    assert card == json.loads((tmp_path / "m.json").read_text())
    assert card["sha256"] == sha256(out)
    assert not (tmp_path / "m.state.pt").exists()
    assert load(out)(torch.zeros(1, 3, 48, 48), torch.zeros(1, 20, dtype=torch.long))[0].shape == (1, 96)
    with pytest.raises(UserError, match="exists already"):
        pretrain(out, steps=2)


@pytest.mark.slow
def test_a_stopped_pretraining_continues_to_the_same_weights(tmp_path, monkeypatch):
    from sagekit.networks import pretrain as module

    monkeypatch.setattr(module, "SAVE_EVERY", 1)
    pretrain(tmp_path / "whole.safetensors", steps=3)
    real = module.contrastive_loss
    calls = []

    def stops(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "contrastive_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "cut.safetensors", steps=3)
    monkeypatch.setattr(module, "contrastive_loss", real)
    with pytest.raises(UserError, match="--steps 3"):
        pretrain(tmp_path / "cut.safetensors", steps=4, resume=True)
    pretrain(tmp_path / "cut.safetensors", steps=3, resume=True)
    a, b = (load(tmp_path / f"{name}.safetensors").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_the_shipped_model_is_what_its_card_says():
    card = json.loads(mini.CARD.read_text())
    assert card["sha256"] == sha256(mini.WEIGHTS)
    assert mini.WEIGHTS.stat().st_size < 10_000_000
    model = load()
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    images, labels = own_test(seed=123, per_class=10)
    measured = zero_shot(model, images, labels)
    assert measured == pytest.approx(card["zero_shot_pretraining_domain"], abs=0.04)  # 480 other images: +- 0.03
    assert card["zero_shot_pretraining_domain"] >= 0.85


def test_words_are_tokens():
    tokenizer = mini.WordTokenizer()
    tokens = tokenizer(["a photo of a striped star."])[0].tolist()
    assert tokens[0] == tokenizer.start
    assert tokens[7] == tokenizer.end == max(tokens)
    assert tokens[8:] == [0] * 12
    assert tokens[5] == tokenizer.ids["striped"]
    assert len(tokenizer.ids) == len(world.vocabulary())
