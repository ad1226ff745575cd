"""A LoRA run in PEFT's files: what PEFT makes of them, in arithmetic, is the run's own feature."""

import copy
import json
import re

import pytest
import torch
from conftest import small
from safetensors.torch import load_file

import sagekit as sk
from sagekit import UserError
from sagekit.cli import main
from sagekit.networks import mini, weights
from sagekit.networks.backbone import Backbone
from sagekit.training.peft import export_peft


@pytest.fixture(scope="module")
def lora(tmp_path_factory, data, backbone):
    config = small("lift", module="lora", bottleneck=3, lora_alpha=6.0)
    return sk.train(config, tmp_path_factory.mktemp("lora") / "run", data=data, backbone=backbone, show=False)


def separate(state, layers):
    """The image tower's attention as Hugging Face has it: q, k and v by themselves."""
    found = {}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = state[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"].chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                found[f"vision_model.encoder.layers.{layer}.self_attn.{letter}_proj.{kind}"] = part
    return found


@pytest.mark.slow
@torch.no_grad()
def test_peft_s_arithmetic_gives_the_run_s_feature(lora, data, backbone):
    folder = export_peft(lora.path)
    assert folder == lora.path / "peft"
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 3, 6.0, "none")

    base = separate(backbone.clip.state_dict(), backbone.layers)  # as CLIPModel has them
    layers = [name.removesuffix(".weight") for name in base if name.endswith("weight")]
    targets = [name for name in layers if re.fullmatch(config["target_modules"], name)]
    assert len(targets) == 2 * backbone.layers
    assert not re.fullmatch(config["target_modules"], "text_model.encoder.layers.0.self_attn.q_proj")
    assert tensors.keys() == {f"base_model.model.{name}.lora_{letter}.weight" for name in targets for letter in "AB"}
    for name in targets:
        a, b = (tensors[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        assert (a.shape, b.shape) == ((3, 128), (128, 3))
        assert b.abs().max() > 0
        base[f"{name}.weight"] = base[f"{name}.weight"] + config["lora_alpha"] / config["r"] * b @ a
    merged = copy.deepcopy(backbone.clip)
    merged.load_state_dict(weights.from_hugging_face(base, folder), strict=False)
    net = Backbone(merged, mini.WordTokenizer(), "mini", (0.5,) * 3, (0.5,) * 3)
    model = sk.load_model(lora, data.class_names, backbone)
    images = data.test.images[:8]
    torch.testing.assert_close(net.features(images), model.features(images).own, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(backbone.features(images), net.features(images), atol=1e-3)


@pytest.mark.slow
def test_the_command_writes_it_too(lora, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(lora.path), "--peft"])
    assert end.value.code == 0
    assert "for PEFT on Hugging Face's CLIPModel" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lift", "sage", "zero_shot"])
def test_only_lora_is_written_for_peft(runs, method):
    with pytest.raises(UserError, match="has no LoRA to write for PEFT; train one with --method lift --set module=lora"):
        export_peft(runs[method].path)
    assert not (runs[method].path / "peft").exists()
