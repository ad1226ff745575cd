"""Weight files of every kind end in the same model; none of them is executed, and a file says what it cannot know."""

import os
import pickle
import socket
import time
import warnings
import zipfile

import open_clip
import pytest
import torch
from conftest import small
from open_clip import model as clip_model
from safetensors.torch import save_file

from sagekit import Config, UserError, load_backbone
from sagekit.data.views import resized_side
from sagekit.networks import mini, pretrained, torchscript, weights

CONFIG = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
          "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """open_clip knows two tiny CLIPs, and tags for them as it has for others."""
    quick = {**CONFIG, "quick_gelu": True}
    larger = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": 24}}
    for name, config in (("tiny", CONFIG), ("tiny-quickgelu", quick), ("tiny-24", larger)):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    half = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "hf_hub": "nobody/tiny/"}
    own = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic",
           "quick_gelu": True, "hf_hub": "nobody/tiny-quick/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"half": half, "openai": own})
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-quickgelu", {"openai": own})


def clip(seed=1, **changes):
    """A tiny CLIP whose weights are all random."""
    torch.manual_seed(seed)
    made = clip_model.CLIP(**{**CONFIG, **changes})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return made.eval()


@pytest.fixture
def theirs():
    return clip()


def load(path, name="tiny", tag=""):
    return load_backbone(small(backbone=name, pretrained=tag, weights=path).network)


def hugging_face(state):
    """An open_clip state dict in the names of Hugging Face's CLIPModel: the way back, written by hand."""
    found = {}
    for tower, ours in (("vision_model", "visual."), ("text_model", "")):
        width = state[f"{ours}transformer.resblocks.0.ln_1.weight"].shape[0]
        start = f"{ours}transformer.resblocks."
        for name, value in state.items():
            if not name.startswith(start):
                continue
            layer, _, rest = name.removeprefix(start).partition(".")
            place = f"{tower}.encoder.layers.{layer}"
            if rest.startswith("attn.in_proj_"):
                for k, letter in enumerate("qkv"):
                    part = value[k * width : (k + 1) * width].clone()
                    found[f"{place}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = part
            else:
                rest = rest.replace("ln_1", "layer_norm1").replace("ln_2", "layer_norm2").replace("attn.out", "self_attn.out")
                found[f"{place}.{rest.replace('mlp.c_fc', 'mlp.fc1').replace('mlp.c_proj', 'mlp.fc2')}"] = value
    for kind in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        found[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    found |= {
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    return found


class Scripted(torch.nn.Module):
    """A module with OpenAI's names: parameters as they are, the mask as an attribute, the sizes as buffers."""

    def __init__(self, made):
        super().__init__()
        self.visual, self.transformer, self.token_embedding = made.visual, made.transformer, made.token_embedding
        self.ln_final, self.positional_embedding = made.ln_final, made.positional_embedding
        self.text_projection, self.logit_scale = made.text_projection, made.logit_scale
        for name, size in (("input_resolution", 16), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(size))
        self.mask = made.attn_mask

    def forward(self, image, text):
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x, attn_mask=self.mask))
        return self.visual(image), x[:, -1] @ self.text_projection * self.logit_scale


def archive(made, path):
    """``made`` traced in half precision, as OpenAI's archives are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Scripted(made), (IMAGES, torch.zeros(2, 77, dtype=torch.long)), check_trace=False)
        torch.jit.save(traced.half(), path)
    return path


@torch.no_grad()
def same(net, made, atol=1e-6):
    text = net.tokenizer(["a cat", "two dogs"])
    images = (IMAGES - net.mean) / net.std
    torch.testing.assert_close(net.features(IMAGES) @ net.visual.proj, made.encode_image(images), atol=atol, rtol=1e-3)
    torch.testing.assert_close(net.clip.encode_text(text), made.encode_text(text), atol=atol, rtol=1e-3)
    torch.testing.assert_close(net.clip.logit_scale, made.logit_scale, atol=atol, rtol=1e-3)


FORMS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "module": lambda state: {"state_dict": {f"module.{name}": v for name, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": v for name, v in state.items()},
    "trainer": lambda state: {"state_dict": {f"model.{name}": v for name, v in state.items()}},
    "several": lambda state: {"model": {f"module._orig_mod.model.{name}": v for name, v in state.items()}},
    "inside": lambda state: {name.replace("visual.", "visual._orig_mod."): v for name, v in state.items()},
    "hugging face": hugging_face,
    "hugging face, wrapped": lambda state: {"state_dict": {f"model.{name}": v for name, v in hugging_face(state).items()}},
    "one number in a row": lambda state: {**state, "logit_scale": state["logit_scale"][None]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_model(tmp_path, theirs, form):
    content = FORMS[form](theirs.state_dict())
    torch.save(content, tmp_path / "w.pt")
    same(load(tmp_path / "w.pt"), theirs)
    flat = next((content[key] for key in ("state_dict", "model", "model_state_dict") if key in content), content)
    if form != "nested":
        save_file({name: v.contiguous() for name, v in flat.items()}, tmp_path / "w.safetensors")
        same(load(tmp_path / "w.safetensors"), theirs)


def test_half_precision(tmp_path, theirs):
    save_file({name: v.half() for name, v in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    net = load(tmp_path / "w.safetensors")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    same(net, theirs, atol=5e-3)


@pytest.mark.filterwarnings("ignore:'torch.load' received")
def test_openai_s_archive(tmp_path):
    theirs = clip(quick_gelu=True)
    path = archive(theirs, tmp_path / "ViT-tiny.pt")
    with pytest.raises(RuntimeError):  # so this is the kind that torch does not read safely
        torch.load(path, weights_only=True)
    found = weights.read(path)
    assert found.form == "torchscript"
    assert found.state.keys() >= theirs.state_dict().keys()
    same(load(path, "tiny-quickgelu"), theirs.half().float())
    same(load(path, "tiny-quickgelu", "openai"), theirs)


def test_a_scripted_module_shares_no_more_than_tensors(tmp_path):
    """Views, shared storages, lists and modules inside modules."""
    inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    inner[0].weight = torch.nn.Parameter(torch.arange(12.0).view(3, 4).T[1:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(inner), tmp_path / "a.pt")
    found = torchscript.tensors(tmp_path / "a.pt")
    assert all(torch.equal(found[name], value) for name, value in inner.state_dict().items())


class Evil:
    """What a pickle runs when it is read as one."""

    def __init__(self, done):
        self.done = done

    def __reduce__(self):
        return os.mkdir, (str(self.done),)


def rewritten(source, target, replace):
    """The zip file ``source`` with the entries that end as ``replace`` says replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = next((v for end, v in replace.items() if name.endswith(end)), old.read(name))
            new.writestr(name, content)
    return target


def test_nothing_in_an_archive_runs(tmp_path, theirs):
    good = archive(theirs, tmp_path / "good.pt")
    evil = pickle.dumps({"a": Evil(tmp_path / "done")}, protocol=2)
    for name, replace in (("pickle.pt", {"/data.pkl": evil}), ("constants.pt", {"constants.pkl": evil})):
        path = rewritten(good, tmp_path / name, replace)
        if name == "pickle.pt":
            with pytest.raises(UserError, match=r"pickle\.pt holds '.*mkdir', which is not loaded") as error:
                weights.read(path)
            assert "\n" not in str(error.value)
        else:
            weights.read(path)  # never opened
    for number, text in enumerate((b"cbuiltins\neval\n.", b"ctorch\nload\n.", b"ctorch.hub\nload\n.", b"ccollections\nabc\n.",
                                   b"\x80\x04\x8c\x05torch\x8c\x0fjit._pickle.sys\x93.")):
        with pytest.raises(UserError, match="which is not loaded"):
            weights.read(rewritten(good, tmp_path / f"{number}.pt", {"/data.pkl": text}))
    torch.save({"state_dict": {"a": Evil(tmp_path / "done")}}, tmp_path / "plain.pt")
    (tmp_path / "bare.pt").write_bytes(evil)
    for name in ("plain.pt", "bare.pt"):
        with pytest.raises(UserError, match="holds more than tensors") as error:
            weights.read(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "done").exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path, theirs):
    good = archive(theirs, tmp_path / "good.pt")
    with pytest.raises(UserError, match="damaged TorchScript archive"):
        weights.read(rewritten(good, tmp_path / "short.pt", {"/data/0": b"\0\0"}))
    (tmp_path / "half.pt").write_bytes(good.read_bytes()[:3000])
    with pytest.raises(UserError, match="damaged"):
        weights.read(tmp_path / "half.pt")


def test_another_resolution_is_resized_as_open_clip_does(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    net = load(tmp_path / "w.pt", "tiny-24")
    larger = clip_model.CLIP(**open_clip.get_model_config("tiny-24")).eval()
    open_clip.load_checkpoint(larger, str(tmp_path / "w.pt"))
    assert net.image_size == 24
    assert torch.equal(net.visual.positional_embedding, larger.visual.positional_embedding)
    assert any("visual.positional_embedding resized from 5 to 10 places" in note for note in net.notes)
    half = {name: v.half() for name, v in theirs.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    torch.testing.assert_close(load(tmp_path / "half.pt", "tiny-24").visual.positional_embedding,
                               larger.visual.positional_embedding, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: {**s, "visual.proj": torch.zeros(3, 3)}, "does not fit tiny: size mismatch for visual.proj"),
    (lambda s: {**s, "visual.positional_embedding": torch.zeros(7, 32)}, "does not fit tiny"),
    (lambda s: {**s, "positional_embedding": torch.zeros(7, 3)}, "does not fit tiny"),
    (lambda s: {**s, "logit_scale": torch.zeros(2)}, "does not fit tiny"),
    (lambda s: {**s, "extra": torch.zeros(2)}, "does not fit tiny: Unexpected key.*extra"),
    (lambda s: {k: v for k, v in s.items() if "ln_final" not in k}, "does not fit tiny: Missing key.*ln_final"),
    (lambda s: {k: v for k, v in hugging_face(s).items() if "k_proj" not in k}, "incomplete.*has no k_proj or v_proj"),
    (lambda s: {**hugging_face(s), "classifier.weight": torch.zeros(1)}, "'classifier.weight' is none of CLIPModel's"),
    (lambda s: {"model": s, "a": 1, "state_dict": {}}, "not a state dict of tensors"),
    (lambda s: [1, 2], "not a state dict of tensors"),
])
def test_what_does_not_fit_is_one_line(tmp_path, theirs, change, message):
    torch.save(change(theirs.state_dict()), tmp_path / "w.pt")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "w.pt")
    assert "\n" not in str(error.value)
    assert "w.pt" in str(error.value)


def test_the_tag_says_what_a_local_file_is(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    told, untold = load(tmp_path / "w.pt", tag="half"), load(tmp_path / "w.pt")
    assert told.mean.flatten().tolist() == [0.5] * 3
    assert told.std.flatten().tolist() == [0.25] * 3
    assert told.interpolation == "bilinear"
    assert len(told.notes) == 1
    assert "w.pt is taken for the half weights of tiny" in told.notes[0]
    torch.testing.assert_close(untold.mean.flatten(), torch.tensor(open_clip.OPENAI_DATASET_MEAN))
    assert untold.interpolation == "bicubic"
    assert "assumed: OpenAI's mean and std, bicubic resizing, GELU" in untold.notes[0]
    assert "--set pretrained=TAG" in untold.notes[0]


def test_a_real_tag_has_its_own_mean(tmp_path):
    """ViT-L-14's laion2b weights were trained with 0.5."""
    record = pretrained.look("ViT-L-14", "laion2b_s32b_b82k")
    assert (record["mean"], record["std"], record["interpolation"]) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert pretrained.look("ViT-B-16-quickgelu", "openai")["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_a_local_file_with_the_wrong_activation_is_refused(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    script = archive(theirs, tmp_path / "s.pt")
    for path, name, tag, message in (
        ("w.pt", "tiny", "openai", "tiny has the wrong activation for the openai weights; use --set backbone=tiny-quickgelu"),
        ("w.pt", "tiny-quickgelu", "half", "wrong activation for the half weights; use --set backbone=tiny,"),
        ("w.pt", "tiny", "hlaf", "tiny has no weights 'hlaf'; known: half, openai"),
        ("s.pt", "tiny", "", "TorchScript archive, as OpenAI's.*use --set backbone=tiny-quickgelu"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path / path, name, tag)
        assert "\n" not in str(error.value)
    assert load(script, "tiny", "half").interpolation == "bilinear"  # somebody else's archive, and it is said whose


def test_random_weights_say_so():
    net = load(None, tag="random")
    assert net.notes == ["the weights are random (pretrained=random)."]
    assert load_backbone(small().network).notes == []
    assert load_backbone(small().network).interpolation == "bilinear"


def test_what_the_library_keeps_is_taken_without_a_network(tmp_path, theirs, monkeypatch):
    """A file in Hugging Face's cache, laid out as the library does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "_ask", lambda record: pytest.fail("asked the network"))
    folder = tmp_path / "models--nobody--tiny" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (tmp_path / "models--nobody--tiny" / "refs").mkdir()
    (tmp_path / "models--nobody--tiny" / "refs" / "main").write_text("0123")
    save_file(theirs.state_dict(), folder / "open_clip_model.safetensors")
    net = load(None, tag="half")
    same(net, theirs)
    assert (net.notes, net.mean.flatten().tolist()) == ([], [0.5] * 3)


def test_the_size_of_336_pixels_is_tested_at_384():
    views = small(test_resize=None, ensemble_margin=None).views
    assert (resized_side(views, 336, False), resized_side(views, 336, True)) == (384, 372)
    assert (resized_side(views, 224, False), resized_side(views, 224, True)) == (256, 248)


def test_mini_weights_are_read_like_others(tmp_path, backbone):
    state = hugging_face(backbone.clip.state_dict())
    torch.save({"model": state}, tmp_path / "w.pt")
    net = load_backbone(small(weights=tmp_path / "w.pt").network)
    assert torch.equal(net.features(torch.ones(1, 3, 48, 48)), backbone.features(torch.ones(1, 3, 48, 48)))
    assert mini.WEIGHTS.is_file()


def test_without_a_network_it_is_said_within_seconds(tmp_path, monkeypatch, caplog):
    """A server that refuses, and one that never answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "PATIENCE", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        for place in ("http://127.0.0.1:9", f"http://127.0.0.1:{deaf.getsockname()[1]}"):
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
            start = time.monotonic()
            settings = Config.preset("cifar100-lt-100", backbone="tiny-quickgelu").network
            with pytest.raises(UserError, match=r"not on this machine and could not be downloaded.*weights=FILE") as error:
                load_backbone(settings)
            assert time.monotonic() - start < 3
            assert "\n" not in str(error.value)
    assert caplog.records == []
