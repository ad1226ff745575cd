"""timm's plain ViTs, such as those of ImageNet-21k, as the open_clip ViT that every module of this kit works on.

    timm                                            open_clip
    blocks.l.norm1, norm2, attn.proj, mlp.fc1, fc2  transformer.resblocks.l.ln_1, ln_2, attn.out_proj, mlp.c_fc, c_proj
    blocks.l.attn.qkv (3d, d), its bias             attn.in_proj_weight, in_proj_bias
    cls_token, norm                                 class_embedding, ln_post
    patch_embed.proj: E x + b, pos_embed            conv1: E x;  positional_embedding: pos, and pos + b at the patches

There is no LayerNorm before the blocks, GELU is exact, LayerNorm's eps is timm's. The feature is timm's ``forward_head(...,
pre_logits=True)``: the norm of the CLS token. A classifier in a file is left out. Since b is a part of the positions, ``full``
fine-tuning has d parameters less than timm's.

Such a model has no text tower and no space that it shares with one: ``Backbone`` refuses what asks for texts.

A name is timm's with its tag, ``vit_base_patch16_224.augreg_in21k``: without one, timm's versions mean other weights by it, and
LIFT's "ImageNet-21k" (timm 0.6's ``vit_base_patch16_224``) had been fine-tuned on ImageNet-1k as well.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError, few, nearest
from ..settings import NetworkSettings
from . import pretrained, weights

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer
    from timm.models.vision_transformer import VisionTransformer as TimmViT

PREFIX = "vit_"
"""Of timm's names; open_clip's begin with ViT."""
NAMES = {"cls_token": "class_embedding", "pos_embed": "positional_embedding", "patch_embed.proj.weight": "conv1.weight",
         "norm.weight": "ln_post.weight", "norm.bias": "ln_post.bias"}
BLOCK = {"norm1.": "ln_1.", "norm2.": "ln_2.", "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.",
         "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj."}
"""timm's names and open_clip's, of the tower and inside a block."""
CLASSIFIER = ("head.", "pre_logits.", "fc_norm.")
"""What comes after the feature. ``pre_logits`` is of timm's old ImageNet-21k files."""


class ImageTower(nn.Module):
    """A ``visual`` tower where ``Backbone`` expects a CLIP."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual


class Loaded(NamedTuple):
    """The tower, how its images are normalised and resized (``mean``, ``std``, ``interpolation``), and ``notes``."""

    tower: ImageTower
    look: dict[str, Any]
    notes: list[str]


def load(settings: NetworkSettings) -> Loaded:
    """The timm ViT ``settings.backbone``, with the weights of ``settings.weights``, of the name's tag from Hugging Face's hub
    or this machine, or random ones (``pretrained=random``).

    Raises ``UserError`` for an unknown name or one without a tag, a model that is no plain ViT, a file of another network, and
    where the weights cannot be had.
    """
    import timm  # slow to import

    name, path = settings.backbone, settings.weights
    known = timm.list_models(f"{PREFIX}*", pretrained=True)
    if name not in known:
        tags = [full for full in known if full.split(".")[0] == name]
        if tags:
            raise UserError(f"{name} does not say which weights; name them as timm does, with a tag: {few(tags)}.")
        raise UserError(f"timm has no model '{name}'.{nearest(name, known)}")
    if settings.pretrained not in ("", "random"):
        raise UserError(f"{name} names its weights itself, and pretrained={settings.pretrained} is one of open_clip's; leave "
                        "it empty (--set pretrained=).")
    with torch.device("meta"):  # its shapes, without its memory
        theirs = timm.create_model(name, pretrained=False)
    cfg = theirs.pretrained_cfg
    tower = ImageTower(build(theirs, name))
    look = {key: cfg[key] for key in ("mean", "std", "interpolation")}
    if settings.pretrained == "random" and path is None:
        return Loaded(tower, look, ["the weights are random (pretrained=random)."])
    notes = [*_seen(name, str(cfg["tag"])), *_tested(name, cfg)]
    file = path or pretrained.fetch(str(cfg["architecture"]), str(cfg["tag"]), {
        "url": cfg.get("url", ""), "hf_hub": f"{cfg['hf_hub_id']}/{cfg.get('hf_hub_filename') or 'model.safetensors'}"})
    found = weights.read(file).state
    _same_classes(found, cfg, file, name)
    if path is not None:
        notes.insert(0, f"{path} is taken for the weights of {name}: timm says how their images were normalised.")
    notes += weights.fill(tower, weights.Found(converted(found, file, name), "state dict"), file, name)
    return Loaded(tower, look, notes)


def build(theirs: TimmViT, name: str) -> VisionTransformer:
    """open_clip's ViT of the shape of timm's ``theirs``, with random weights: the same ones whenever a run is opened again.
    Raises ``UserError`` where ``theirs`` is no plain ViT."""
    from open_clip.transformer import LayerNorm, VisionTransformer

    _check_plain(theirs, name)
    block = theirs.blocks[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        visual = VisionTransformer(
            image_size=theirs.patch_embed.img_size[0], patch_size=theirs.patch_embed.patch_size[0], width=theirs.embed_dim,
            layers=len(theirs.blocks), heads=block.attn.num_heads, mlp_ratio=block.mlp.fc1.out_features / theirs.embed_dim,
            output_dim=1, no_ln_pre=True, norm_layer=partial(LayerNorm, eps=theirs.norm.eps))
    visual.proj = None
    return visual


def converted(state: dict[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
    """timm's ``state``, of the file ``path``, in the names of an ``ImageTower``. Raises ``UserError`` where it has not the
    parts of a ViT in timm's names."""
    needed = [*NAMES, "patch_embed.proj.bias", "blocks.0.attn.qkv.weight"]
    missing = next((part for part in needed if part not in state), None)
    if missing is not None:
        raise UserError(f"{path} does not fit {name}: it has no '{missing}', in timm's names.")
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith((*CLASSIFIER, "patch_embed.proj.bias")):
            continue
        renamed = NAMES.get(key, key)
        if key.startswith("blocks."):
            number, _, rest = key.removeprefix("blocks.").partition(".")
            start = next((start for start in BLOCK if rest.startswith(start)), "")
            renamed = f"transformer.resblocks.{number}.{BLOCK.get(start, '')}{rest.removeprefix(start)}"
        found[f"visual.{renamed}"] = value
    positions = found["visual.positional_embedding"].squeeze(0).clone()
    if positions.ndim != 2 or state["patch_embed.proj.bias"].shape != positions.shape[1:]:
        raise UserError(f"{path} does not fit {name}: its positions have the shape {tuple(state['pos_embed'].shape)}.")
    positions[1:] += state["patch_embed.proj.bias"]
    return {**found, "visual.positional_embedding": positions, "visual.class_embedding": state["cls_token"].flatten()}


def _check_plain(theirs: nn.Module, name: str) -> None:
    """Raise ``UserError`` with what about timm's network an open_clip ViT of CLS pooling lacks."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(theirs, VisionTransformer) or type(theirs.patch_embed) is not PatchEmbed:
        other = theirs if not isinstance(theirs, VisionTransformer) else theirs.patch_embed
        raise UserError(f"{name} is not a plain ViT (timm's {type(other).__name__}). Try vit_base_patch16_224.augreg_in21k.")
    block = theirs.blocks[0]
    odd = [reason for reason, true in {
        "its blocks are of another kind": type(block) is not Block or block.attn.qkv.bias is None,
        "its blocks have layer scale": not isinstance(getattr(block, "ls1", None), nn.Identity),
        "its queries are normalised": not isinstance(getattr(getattr(block, "attn", None), "q_norm", None), nn.Identity),
        "it has another activation than GELU":
            getattr(getattr(getattr(block, "mlp", None), "act", None), "approximate", "") != "none",
        "it does not pool the CLS token": theirs.global_pool != "token" or not isinstance(theirs.fc_norm, nn.Identity),
        "it has register tokens": theirs.num_prefix_tokens != 1 or bool(theirs.no_embed_class),
        "it normalises before its blocks, as CLIPs do (open_clip has them: ViT-B-16-quickgelu)":
            not isinstance(theirs.norm_pre, nn.Identity) or theirs.patch_embed.proj.bias is None,
    }.items() if true]
    if odd:
        raise UserError(f"{name} does not work here: {odd[0]}. Try vit_base_patch16_224.augreg_in21k.")


def _seen(name: str, tag: str) -> list[str]:
    """What the weights' training makes unfair, as far as the tag tells."""
    if "in1k" in tag:
        return [f"{name} has been trained on ImageNet-1k with its labels, so it has seen ImageNet-LT's classes with all their "
                "images: no long tail to it, and its results there are not comparable."]
    if "in21k" in tag:
        return [f"{name} has been trained on ImageNet-21k, whose classes include those of ImageNet-1k (and so of ImageNet-LT, "
                "with other counts)."]
    if tag in ("mae", "dino"):
        return [f"{name} has been trained on the images of ImageNet-1k, without labels: all of those of ImageNet-LT's classes."]
    return []


def _tested(name: str, cfg: dict[str, Any]) -> list[str]:
    """Where timm tests at another resized side than LIFT, which had these models too."""
    size = cfg["input_size"][-1]
    side = int(size / cfg["crop_pct"])
    if side == size * 8 // 7:
        return []
    return [f"timm resizes test images to {side} pixels for {name}, and here, as in LIFT, to {size * 8 // 7}; --set "
            f"test_resize={side} does as timm."]


def _same_classes(state: dict[str, Tensor], cfg: dict[str, Any], path: Path, name: str) -> None:
    """Raise ``UserError`` where a classifier in the file tells that its weights are not those of the name's tag."""
    found, expected = state.get("head.weight"), cfg["num_classes"]
    if found is not None and expected and len(found) != expected:
        raise UserError(f"{path} has a classifier of {len(found)} classes, and {name} one of {expected}: it holds "
                        "other weights. Name what it holds (_ft_in1k: 1000 classes), or leave the classifier (head.) out.")
