import open_clip
import pytest
import torch
from conftest import small
from safetensors.torch import save_file

from sagekit import Config, UserError, load_backbone
from sagekit.networks import mini
from sagekit.networks.backbone import Backbone

IMAGES = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_blocks_one_by_one_are_open_clip_s_encoder(backbone):
    ours = backbone.features(IMAGES) @ backbone.visual.proj
    theirs = backbone.clip.encode_image((IMAGES - 0.5) / 0.5)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_vit_b_16_blocks_are_open_clip_s_encoder():
    net = load_backbone(Config.preset("cifar100-lt-100", pretrained="random").network)
    images = torch.rand(1, 3, 224, 224)
    theirs = net.clip.encode_image((images - net.mean) / net.std)
    torch.testing.assert_close(net.features(images) @ net.visual.proj, theirs, atol=1e-4, rtol=1e-4)
    assert (net.width, net.layers, net.heads, net.image_size) == (768, 12, 12, 224)
    torch.testing.assert_close(net.mean.flatten(), torch.tensor(open_clip.OPENAI_DATASET_MEAN))


@pytest.mark.slow
@torch.no_grad()
def test_padding_after_the_longest_prompt_is_left_out():
    net = load_backbone(Config.preset("cifar100-lt-100", pretrained="random").network)
    prompts = ["a photo of a cat!", "a sketch of a great white shark in a tank."]
    theirs = net.clip.encode_text(net.tokenizer(prompts), normalize=True).mean(0) @ net.visual.proj.T
    ours = net.text_features(["x"], prompts)[0]
    torch.testing.assert_close(ours, theirs / theirs.norm(), atol=1e-5, rtol=1e-4)
    seen = []
    net.clip.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    net.text_features(["x"], prompts)
    net.text_features(["x"], ["a " * 40])
    assert seen == [24, 48]


def test_quick_gelu_by_silu_is_open_clip_s_mlp():
    """Value and gradients in float64, with the weights trained too, and without gradients (in place)."""
    vision = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=16)
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    torch.manual_seed(0)
    clip = open_clip.CLIP(8, vision, text, quick_gelu=True).double()
    net = Backbone(clip, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), "tiny", (0.5,) * 3, (0.5,) * 3)
    block = net.blocks[1].requires_grad_()
    tokens = torch.randn(3, 5, 32, dtype=torch.float64, requires_grad=True)
    wanted = [tokens, *block.mlp.parameters(), *block.ln_2.parameters()]
    ours, theirs = net.mlp(1, tokens), block.mlp(block.ln_2(tokens))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(net.mlp(1, tokens), theirs)


@pytest.mark.slow
def test_random_weights_are_the_same_ones_again():
    config = Config.preset("cifar100-lt-100", backbone="ViT-B-32-quickgelu", pretrained="random").network
    before = torch.get_rng_state()
    a, b = (load_backbone(config).clip.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(torch.get_rng_state(), before)


def test_bytes_and_fractions_are_the_same_image(backbone):
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(backbone.embed(pixels), backbone.embed(pixels / 255))


def test_nothing_in_it_trains(backbone):
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.train().training


def test_cls_only_attention_is_the_first_row(backbone):
    tokens = backbone.embed(IMAGES)
    torch.testing.assert_close(backbone.attend(2, tokens, cls_only=True), backbone.attend(2, tokens)[:, :1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reason"), [
    ("RN50", "not a plain open_clip ViT"), ("convnext_base", "not a plain open_clip ViT"), ("coca_ViT-B-32", "pools"),
    ("ViT-B-16-SigLIP", "not a plain open_clip ViT"),
])
def test_other_towers_say_why_not(name, reason):
    with pytest.raises(UserError, match=reason):
        Backbone(open_clip.create_model(name, load_weights=False), open_clip.get_tokenizer("ViT-B-16"), name,
                 (0,) * 3, (1,) * 3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"backbone": "ViT-B-61"}, "Did you mean 'ViT-B-16'"),
    ({"backbone": "ViT-B-16"}, "wrong activation.*ViT-B-16-quickgelu"),
    ({"backbone": "RN50"}, "^RN50 is a CLIP with a ResNet as its image tower, which has no transformer blocks.*ViT-B-16-quick"),
    ({"backbone": "RN50-quickgelu", "pretrained": ""}, "^RN50-quickgelu is a CLIP with a ResNet"),
    ({"backbone": "RN101", "weights": "none.pt"}, "^RN101 is a CLIP with a ResNet"),
    ({"pretrained": "opneai"}, "no weights 'opneai'"),
    ({"weights": "none.safetensors"}, "no weight file at none.safetensors"),
])
def test_wrong_backbones_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        load_backbone(Config.preset("cifar100-lt-100", **changes).network)


def test_weights_of_another_architecture(tmp_path):
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit mini"):
        load_backbone(small(weights=tmp_path / "w.safetensors").network)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_weights(tmp_path, name):
    (tmp_path / name).write_bytes(mini.WEIGHTS.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{name} is damaged|{name} holds more"):
        load_backbone(small(weights=tmp_path / name).network)


def test_text_average_with_and_without_normalising_each(backbone):
    templates = ["a photo of a [cls].", "the toy [cls]."]
    text = backbone.clip.encode_text(backbone.tokenizer([t.replace("[cls]", "plain ring") for t in templates]))
    for normalise, rows in ((True, text / text.norm(dim=1, keepdim=True)), (False, text)):
        back = rows.mean(0) @ backbone.visual.proj.T
        torch.testing.assert_close(backbone.text_features(["plain ring"], templates, normalise)[0], back / back.norm())


def test_the_mini_model_says_which_word_it_does_not_know(backbone):
    with pytest.raises(UserError, match="does not know the word 'dog'"):
        backbone.text_features(["dog"], ["a photo of a [cls]."])
