"""CLIP's weights from whatever file people have: a state dict in open_clip's names comes out, and nothing is executed.

    file       safetensors; a state dict, by itself or in a checkpoint (``files.NESTED``); a TorchScript archive (OpenAI's)
    wrapped    ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.`` (trainers), in any order
    names      open_clip's, which are OpenAI's; or Hugging Face's ``CLIPModel`` (``NAMES`` and ``BLOCK``), whose

                   in_proj = [q_proj; k_proj; v_proj],    proj = visual_projection^T

    numbers    of any precision; position embeddings of another resolution are resized as open_clip does (bicubic)

What no such file says is what the pixels went through and which GELU it was trained with: ``open_clip`` knows by its tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..files import load_tensors
from . import torchscript

WRAPPED = ("module.", "_orig_mod.", "model.")
NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # their spelling
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
}
"""What a name of Hugging Face's starts with, and what open_clip's starts with instead."""
BLOCK = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
         "self_attn.out_proj": "attn.out_proj"}
"""The same inside a block; its q, k and v go together."""
_TRANSPOSED = ("visual.proj", "text_projection")
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
"""Ends of names that hold no weight: sizes in OpenAI's archives, masks, counts from 0."""


class Found(NamedTuple):
    """A state dict in open_clip's names, and what held it: ``state dict``, ``torchscript`` or ``hugging face``."""

    state: dict[str, Tensor]
    form: str


def read(path: Path) -> Found:
    """What the weight file ``path`` holds. Raises ``UserError`` when it is missing, damaged, or no state dict of tensors."""
    scripted = path.is_file() and torchscript.is_archive(path)
    state = unwrapped(torchscript.tensors(path) if scripted else load_tensors(path))
    state = {name: value for name, value in state.items() if not name.endswith(_NO_WEIGHTS)}
    if any(name.startswith("vision_model.") for name in state):
        return Found(from_hugging_face(state, path), "hugging face")
    return Found(state, "torchscript" if scripted else "state dict")


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without what training wrappers put before every name; torch.compile also wraps modules inside."""
    named = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while prefix := next((p for p in WRAPPED if named and all(name.startswith(p) for name in named)), None):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def from_hugging_face(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A ``CLIPModel``'s state dict in open_clip's names. Raises ``UserError`` for one tower alone or an unknown name."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        start = next((start for start in NAMES if name == start or name.startswith(f"{start}.")), None)
        if start is None:
            raise UserError(f"{path} has Hugging Face's names, but '{name}' is none of CLIPModel's.")
        renamed = NAMES[start] + name.removeprefix(start)
        for theirs, ours in BLOCK.items():
            renamed = renamed.replace(f".{theirs}.", f".{ours}.")
        found[renamed] = value.T if renamed in _TRANSPOSED else value
    for first in [name for name in found if ".self_attn.q_proj." in name]:
        three = [first.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
        if not found.keys() >= set(three):
            raise UserError(f"{path} is incomplete: '{first}' has no k_proj or v_proj beside it.")
        found[first.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat([found.pop(name) for name in three])
    return found


def fill(clip: nn.Module, found: Found, path: Path, name: str) -> list[str]:
    """Put what was ``found`` in ``path`` into ``clip``, an open_clip model called ``name``; returns what was changed for it, a
    line each. Raises ``UserError`` when it does not fit."""
    from open_clip.model import resize_pos_embed, resize_text_pos_embed  # slow to import

    state = {key: value.float() if value.is_floating_point() else value for key, value in found.state.items()}
    before = {key: state[key].shape for key in ("visual.positional_embedding", "positional_embedding") if key in state}
    try:
        if "logit_scale" in state:
            state["logit_scale"] = state["logit_scale"].reshape(())  # some trainers keep it as one number in a row
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
        clip.load_state_dict(state)
    except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise UserError(f"{path} does not fit {name}: {lines[min(1, len(lines) - 1)][:160]}") from None
    return [f"{path}: {key} resized from {shape[0]} to {state[key].shape[0]} places." for key, shape in before.items()
            if state[key].shape != shape]
