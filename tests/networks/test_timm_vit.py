"""timm's ViTs: the same features through open_clip's blocks, from a file, and what they refuse."""

import copy
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from conftest import tree
from safetensors.torch import save_file
from torch.nn import functional as F

import sagekit as sk
from sagekit import Config, UserError, load_backbone
from sagekit.cli import main
from sagekit.networks import pretrained, timm_vit
from sagekit.networks.backbone import Backbone
from sagekit.networks.modules import twin
from sagekit.networks.text import TextTower
from sagekit.networks.tuned import tuned
from sagekit.networks.weights import Found, fill
from sagekit.training.fold import fold_run

TINY = "vit_tiny_patch16_224.augreg_in21k"
IMAGES = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def settings(**changes):
    return Config.preset("cifar100-lt-100", "lift", **{"backbone": TINY, **changes}).network


def shaken(net):
    """``net`` with every parameter moved: timm starts biases at 0 and norms at 1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return net.eval()


@pytest.fixture(scope="module")
def theirs():
    """A ViT of timm's with two blocks, 48 px and a classifier."""
    return shaken(timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=False, img_size=48, depth=2, embed_dim=32,
                                    num_heads=4, num_classes=7))


def ours(theirs, tmp_path, state=None):
    """``theirs`` as a backbone, or what ``state`` makes of its shape."""
    tower = timm_vit.ImageTower(timm_vit.build(theirs, "small"))
    state = timm_vit.converted(state or theirs.state_dict(), tmp_path / "w.pth", "small")
    notes = fill(tower, Found(state, "state dict"), tmp_path / "w.pth", "small")
    return Backbone(tower, None, "small", (0.5,) * 3, (0.5,) * 3, "bicubic", notes)


@pytest.fixture(scope="module")
def net(theirs, tmp_path_factory):
    return ours(theirs, tmp_path_factory.mktemp("small"))


@torch.no_grad()
def test_the_features_are_timms(theirs, net):
    """In float64 and, from a file, in float32."""
    precise = copy.deepcopy(theirs).double()
    tower = timm_vit.ImageTower(timm_vit.build(theirs, "small")).double()
    tower.load_state_dict(timm_vit.converted(precise.state_dict(), Path("w.pth"), "small"))
    expected = precise.forward_head(precise.forward_features((IMAGES.double() - 0.5) / 0.5), pre_logits=True)
    found = Backbone(tower, None, "small", (0.5,) * 3, (0.5,) * 3).double().features(IMAGES.double())
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(net.features(IMAGES), expected.float(), atol=1e-5, rtol=1e-4)
    assert (net.width, net.layers, net.heads, net.image_size, net.patch_size, net.patches) == (32, 2, 4, 48, 16, 9)


@torch.no_grad()
def test_every_block_is_timms(theirs, net):
    """So that adapters and prompts see what they would see in timm."""
    tokens = theirs.norm_pre(theirs._pos_embed(theirs.patch_embed((IMAGES - 0.5) / 0.5)))
    torch.testing.assert_close(net.embed(IMAGES), tokens, atol=1e-5, rtol=1e-5)
    for index, block in enumerate(theirs.blocks):
        mid = net.attend(index, tokens)
        torch.testing.assert_close(mid + net.mlp(index, mid), block(tokens), atol=1e-5, rtol=1e-5)
        tokens = block(tokens)


@pytest.mark.parametrize("module", ["none", "bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "full"])
def test_every_module_works_on_it_and_starts_as_it_is(net, module):
    """But prompts, which are more tokens. What is trained gets a gradient, the tower itself none."""
    with torch.no_grad():
        frozen = net.features(IMAGES)
    trained = tuned(net, module, 4, 3)
    found = trained(IMAGES).own
    if "vpt" not in module:
        torch.testing.assert_close(found, frozen, atol=1e-5, rtol=1e-5)
    wanted = [p for p in trained.parameters() if p.requires_grad]
    assert bool(wanted) == (module != "none")
    if wanted:
        found.square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in wanted)
    assert not any(p.requires_grad for p in net.parameters())


def test_full_fine_tuning_trains_the_whole_tower_but_the_folded_bias(theirs, net):
    full = twin(net, "full", 1)
    count = sum(p.numel() for p in full.visual.parameters() if p.requires_grad)
    assert count == sum(p.numel() for name, p in theirs.named_parameters() if not name.startswith("head")) - net.width


@torch.no_grad()
def test_positions_of_another_size_are_resized_as_timm_does(theirs, tmp_path):
    large = shaken(timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=False, img_size=96, depth=2, embed_dim=32,
                                     num_heads=4, num_classes=7))
    net = ours(large, tmp_path, theirs.state_dict())
    large.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), large))
    images = F.interpolate(IMAGES, 96)
    expected = large.forward_head(large.forward_features(2 * images - 1), pre_logits=True)
    torch.testing.assert_close(net.features(images), expected, atol=1e-5, rtol=1e-4)
    assert any("resized from 10 to 37 places" in note for note in net.notes)


@pytest.mark.parametrize(("name", "image", "width", "layers", "patches"), [
    ("vit_base_patch16_224.augreg_in21k", 224, 768, 12, 196), ("vit_base_patch16_384.augreg_in21k_ft_in1k", 384, 768, 12, 576),
    ("vit_large_patch16_224.augreg_in21k_ft_in1k", 224, 1024, 24, 196), ("vit_base_patch32_224.augreg_in21k", 224, 768, 12, 49),
])
def test_the_published_ones_have_timms_shapes(name, image, width, layers, patches):
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False)
        visual = timm_vit.build(theirs, name)
    assert (visual.image_size[0], visual.conv1.out_channels, len(visual.transformer.resblocks)) == (image, width, layers)
    assert visual.positional_embedding.shape[0] == patches + 1
    own = sum(p.numel() for p in visual.parameters())
    assert own == sum(p.numel() for key, p in theirs.named_parameters() if not key.startswith("head.")) - width  # the bias
    assert (visual.ln_post.eps, theirs.norm.eps) == (1e-6, 1e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """timm's ViT-Ti/16 with ImageNet-21k's classifier, wrapped as trainers do."""
    theirs = shaken(timm.create_model(TINY, pretrained=False))
    assert theirs.num_classes == 21843
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, path)
    return theirs, path


@torch.no_grad()
def test_from_a_file(file, tmp_path):
    theirs, path = file
    images = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = theirs.forward_head(theirs.forward_features(images / 127.5 - 1), pre_logits=True)
    save_file({name: value for name, value in theirs.state_dict().items() if "head" not in name}, tmp_path / "w.safetensors")
    for own in (path, tmp_path / "w.safetensors"):
        net = load_backbone(settings(weights=own))
        torch.testing.assert_close(net.features(images), expected, atol=1e-4, rtol=1e-4)
        assert (net.interpolation, net.mean.flatten().tolist(), net.std.flatten().tolist()) == ("bicubic", [0.5] * 3, [0.5] * 3)
        assert net.notes[0] == f"{own} is taken for the weights of {TINY}: timm says how their images were normalised."


def test_what_the_weights_have_seen_is_said():
    def said(name):
        return " ".join(timm_vit._seen(name, name.partition(".")[2]))

    assert "ImageNet-LT's classes with all their images" in said("vit_base_patch16_224.augreg_in21k_ft_in1k")
    assert "ImageNet-LT's classes with all their images" in said("vit_base_patch16_224.augreg_in1k")
    assert "ImageNet-21k, whose classes include those of ImageNet-1k" in said("vit_base_patch16_224.augreg_in21k")
    assert "without labels" in said("vit_base_patch16_224.mae")
    assert said("vit_base_patch16_224.other") == ""


def test_timms_own_test_size_is_named_where_it_is_another(file):
    notes = load_backbone(settings(weights=file[1])).notes
    assert any("resizes test images to 248 pixels" in note and "as in LIFT, to 256; --set test_resize=248" in note
               for note in notes)


def test_random_weights_are_the_same_ones_again():
    before = torch.get_rng_state()
    a, b = (load_backbone(settings(pretrained="random")) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert a.notes == ["the weights are random (pretrained=random)."]


@pytest.mark.parametrize(("changes", "message"), [
    ({"backbone": "vit_base_patch16_224.augreg_in22k"}, "timm has no model .*Did you mean 'vit_base_patch16_224.augreg_in21k'"),
    ({"backbone": "vit_base_patch16_224"}, "does not say which weights; .*with a tag: vit_base_patch16_224.augreg2"),
    ({"pretrained": "openai"}, "names its weights itself, .*--set pretrained="),
    ({"weights": "none.safetensors"}, "no weight file at none.safetensors"),
    ({"backbone": "vit_base_patch16_clip_224.openai"}, "does not work here: it normalises before.*open_clip has them"),
    ({"backbone": "vit_tiny_r_s16_p8_224.augreg_in21k"}, r"not a plain ViT \(timm's HybridEmbed\)"),
    ({"backbone": "vit_base_patch14_reg4_dinov2.lvd142m"}, "does not work here"),
    ({"backbone": "vit_base_patch16_siglip_224.webli"}, "does not work here"),
    ({"backbone": "vit_relpos_base_patch16_224.sw_in1k"}, r"not a plain ViT \(timm's VisionTransformerRelPos\)"),
    ({"backbone": "vit_base_patch14_dinov2.lvd142m"}, "its blocks have layer scale"),
])
def test_wrong_names_are_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        load_backbone(settings(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: {k: v for k, v in s.items() if k != "patch_embed.proj.bias"}, "has no 'patch_embed.proj.bias', in timm's names"),
    (lambda s: {"visual.proj": torch.zeros(3, 3)}, "does not fit .*in timm's names"),
    (lambda s: {**s, "blocks.0.ls1.gamma": torch.ones(192)}, "does not fit .*Unexpected"),
    (lambda s: {**s, "blocks.0.mlp.fc1.weight": torch.ones(9, 192)}, "does not fit .*size mismatch"),
    (lambda s: {**s, "dist_token": torch.ones(1, 1, 192)}, "does not fit .*Unexpected"),
    (lambda s: {**s, "pos_embed": torch.ones(1, 197, 64)}, "does not fit .*its positions have the shape"),
    (lambda s: {k: v for k, v in s.items() if k != "blocks.11.norm1.weight"}, "does not fit .*Missing"),
    (lambda s: {**s, "head.weight": torch.ones(1000, 192)}, "a classifier of 1000 classes, and .* one of 21843: it holds"),
])
def test_a_file_of_something_else_is_one_line(file, tmp_path, change, message):
    torch.save(change(file[0].state_dict()), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message) as error:
        load_backbone(settings(weights=tmp_path / "w.pth"))
    assert "\n" not in str(error.value)


def test_weights_of_another_width_do_not_fit(file):
    with pytest.raises(UserError, match=r"tiny.pth does not fit vit_small_patch16_224.augreg_in21k: size mismatch"):
        load_backbone(settings(backbone="vit_small_patch16_224.augreg_in21k", weights=file[1]))


def test_without_a_network_it_is_one_line(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "_ask", lambda record: asked.append(record) or (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match=r"the weights of vit_tiny_patch16_224 \(augreg_in21k\) are not on this machine"):
        load_backbone(settings())
    assert asked[0]["hf_hub"] == f"timm/{TINY}/model.safetensors"


@torch.no_grad()
def test_what_the_hub_s_library_keeps_is_taken_without_a_network(file, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "_ask", lambda record: pytest.fail("asked the network"))
    folder = tmp_path / f"models--timm--{TINY}"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    save_file(file[0].state_dict(), folder / "snapshots" / "0123" / "model.safetensors")
    net, same = load_backbone(settings()), load_backbone(settings(weights=file[1]))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), same.parameters(), strict=True))


def test_texts_are_refused_in_one_line(net):
    for ask in (lambda: net.shared(torch.zeros(1, 32)), lambda: net.text_rows([["a cat."]]),
                lambda: net.text_features(["cat"], ["a [cls]."]), lambda: net.tokenizer(["cat"])):
        with pytest.raises(UserError, match=r"small has no text tower.*another backbone.*start=class_mean") as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="small has no plain CLIP text tower"):
        TextTower(net, ["a cat."])


@pytest.mark.parametrize("method", ["lift", "sage", "zero_shot", "classifier"])
def test_methods_of_texts_end_with_one_line_and_leave_nothing(method, tmp_path, capsys):
    tree(tmp_path / "images", "train/ant/2", "train/bee/2", "test/ant/1", "test/bee/1")
    sets = [f"--set=backbone={TINY}", "--set=pretrained=random", *["--set=batch_size=4"] * (method != "zero_shot")]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--preset", "folder", "--method", method, "--data-root", str(tmp_path / "images"), *sets,
              "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.strip().splitlines()[-1].startswith(f"sagekit: {TINY} has no text tower, and this method reads")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_measuring_folding_and_reading_again(tmp_path, monkeypatch):
    """The whole kit on it, with rows that stand where a method gets its rows without texts."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, img_size=32, depth=2, embed_dim=32, num_heads=2))
    file = tmp_path / "w.safetensors"
    save_file(shaken(timm.create_model(TINY, pretrained=False)).state_dict(), file)
    rows = F.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    monkeypatch.setattr("sagekit.methods._stages.text_rows", lambda *_: rows)
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "cache"))
    tree(tmp_path / "images", "train/ant/2", "train/bee/2", "test/ant/1", "test/bee/1")
    config = Config.preset("folder", "sage", backbone=TINY, weights=file, data_root=tmp_path / "images", batch_size=4,
                           epochs=1, workers=0, bottleneck=2, ensembling=True)
    run = sk.train(config, tmp_path / "run", show=False)
    assert set(run.metrics["results"]) == {"single", "five_crops"}
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "whose classes include those of ImageNet-1k" in log
    assert len(list((tmp_path / "cache").glob("images-*"))) == 2  # f^zs of each view
    before = run.predictions().z
    fold_run(run.path)
    sk.evaluate(run, folded=True, show=False)
    assert torch.allclose(torch.tensor(run.predictions().z), torch.tensor(before), atol=0.02)
    assert sk.evaluate(sk.Run(run.path), show=False)["results"].keys() == {"single", "five_crops"}


def test_a_method_from_scratch_does_not_take_it():
    with pytest.raises(UserError, match=f"trains a network from scratch .*and {TINY} is pretrained"):
        sk.Config.preset("mini", "scratch", backbone=TINY)


def test_a_configuration_says_no_tag_of_open_clips(tmp_path):
    config = Config.preset("imagenet-lt", "lift", backbone=TINY)
    assert config.network.pretrained == ""
    assert Config.from_yaml(sk.Run(tmp_path).write_config(config) or tmp_path / "config.yaml") == config
    assert f"backbone={TINY}" in config.command(tmp_path)
