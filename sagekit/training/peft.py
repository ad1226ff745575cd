"""LIFT's LoRA for the PEFT library: A (r, d) and B (d, r) of every block's q and v, whose weight becomes
W + (lora_alpha / r) B A."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import save_tensors, write_text
from ..methods.lift import Lift
from ..networks.modules import LowRank
from ..runs.run import Run
from .build import load_model


@torch.no_grad()
def export_peft(path: Path) -> Path:
    """Write a LoRA run's trained products for PEFT into RUN/peft, and return that folder.

    ``adapter_model.safetensors`` and ``adapter_config.json`` are laid out as PEFT 0.15 to 0.20 document their checkpoints.
    open_clip holds q, k and v in one matrix, of which PEFT cannot adapt two thirds; so the names are those of Hugging Face's
    ``CLIPModel``, where q_proj and v_proj are layers: ``PeftModel.from_pretrained(CLIPModel.from_pretrained(...), RUN/peft)``.
    The base must be the same weights in those names; LIFT's feature is its vision model's ``pooler_output``. The classifier is
    no part of PEFT's files and stays in the run's ``weights.safetensors`` (``head.weight``).

    Raises ``UserError`` when the run is no finished one of LIFT with module=lora.
    """
    run = Run(path)
    if getattr(run.config.settings, "module", None) != "lora":
        raise UserError(f"{path} has no LoRA to write for PEFT; train one with --method lift --set module=lora.")
    model = load_model(run, run.metrics["class_names"])
    assert isinstance(model, Lift)
    tensors: dict[str, Tensor] = {}
    for number, block in enumerate(model.net.tuned.blocks):
        (low,) = block.attn.parametrizations.in_proj_weight
        assert isinstance(low, LowRank)
        for letter, a, b in zip("qv", low.a, low.b, strict=True):
            name = f"base_model.model.vision_model.encoder.layers.{number}.self_attn.{letter}_proj"
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    rank = low.a.shape[1]
    config = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "r": rank,
              "lora_alpha": low.scale * rank, "lora_dropout": 0.0,
              "target_modules": r".*vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
              "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "modules_to_save": None}
    out = run.path / "peft"
    save_tensors(out / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_text(out / "adapter_config.json", json.dumps(config, indent=2) + "\n")
    return out
