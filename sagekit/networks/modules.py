"""The other fine-tuning modules of Table 9 and of LIFT's code, in the blocks of any ViT backbone (parameters a block, biases
included):

    BitFit        11 d             the block's own biases (2 LayerNorms, Q K V, output, MLP)
    LayerNorm     4 d              the weights and biases of its two LayerNorms
    VPT           p d              p prompt tokens after CLS: before the first block (shallow), or new ones before each (deep)
    Adapter       (2r+3) d + r     h + ReLU(LN(h) W_down) W_up on the MLP's output h
    LoRA          4 r d            W_Q + B_Q A_Q and W_V + B_V A_V;  A uniform in +-1/sqrt(d), B = 0 at the start (Hu et al.)
    LoRA, MLP     10 r d           W + B A of both of the MLP's layers, likewise;  LIFT's code has it but does not run
    SSF           22 d             s x + t behind Q K V, the output, both of the MLP's layers and both LayerNorms (Lian et al.
                                   2022);  s ~ N(1, .02), t ~ N(0, .02) at the start, so it does not start as the frozen model
    mask          about 12 a d^2   a share a of the four layers' weights and biases, drawn once; the others stay (LIFT's
                                   "arbitrary lightweight fine-tuning")
    full          12 d^2 + 13 d    every weight of the image tower (the embedding and the last norm too)

AdaptFormer and SG-Adapter are in ``adapters``. All but VPT and Adapter train a twin of the frozen backbone that shares every
tensor with it that is not trained; feature interchange keeps the frozen one. SSF is linear, so it is taken into the weights.

LoRA is not what the PEFT library makes of open_clip, which holds Q, K and V in one matrix of ``nn.MultiheadAttention``: PEFT's
layer for it adapts that matrix as a whole (one A for Q, K and V) and the output projection as well, which is neither Table 9's
module nor its count. In Hugging Face's CLIP, where they are layers, it is PEFT's (``training.export`` writes it so).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .adapters import Down, down_projection, up_projection
from .backbone import Backbone


class Adapter(nn.Module):
    """Houlsby et al.'s bottleneck on the MLP's output: (2r + 3) d + r parameters. Starts as the identity (W_up = 0)."""

    def __init__(self, width: int, bottleneck: int, down: Down = "normal") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = down_projection(width, bottleneck, down)
        self.up = up_projection(bottleneck, width)

    def forward(self, output: Tensor) -> Tensor:
        """The MLP's ``output`` (..., d) -> what is added to it (..., d)."""
        return self.up(F.relu(self.down(self.norm(output))))


def behind_cls(tokens: Tensor, own: Tensor, old: int) -> Tensor:
    """``tokens`` (B, N, d) with prompts ``own`` (p, d) behind CLS, in the place of the ``old`` ones that the block before had:
    (B, N - old + p, d)."""
    own = own.to(tokens.dtype).expand(tokens.shape[0], -1, -1)  # len() would fix the batch in an export
    return torch.cat([tokens[:, :1], own, tokens[:, 1 + old :]], 1)


class Prompts(nn.Module):
    """VPT's tokens (Jia et al. 2022): p of them after CLS; with ``layers`` above 1 new ones before each of so many blocks, the
    first of which is ``first``."""

    def __init__(self, width: int, prompts: int, layers: int, patch_size: int, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.tokens = nn.Parameter(torch.empty(layers, prompts, width))
        limit = math.sqrt(6 / (3 * patch_size**2 + width))
        nn.init.uniform_(self.tokens, -limit, limit)

    def forward(self, index: int, tokens: Tensor) -> Tensor:
        """``tokens`` before block ``index``: (B, N, d) -> (B, p + N, d) for the first, then (B, p + N, d) always."""
        place = index - self.first
        if not 0 <= place < len(self.tokens):
            return tokens
        own = self.tokens[place]
        return behind_cls(tokens, own, len(own) if place else 0)


class LowRank(nn.Module):
    """LoRA (Hu et al. 2022) on the fused projection: rows of Q and of V get B A, those of K nothing: 4 r d parameters."""

    def __init__(self, width: int, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(2, rank, width))
        self.b = nn.Parameter(torch.zeros(2, width, rank))
        for one in self.a.unbind():  # each (r, d) by itself: its fan-in is d
            nn.init.kaiming_uniform_(one, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` (3d, d) of Q, K, V -> (3d, d)."""
        q, v = self.scale * self.b @ self.a
        return weight + torch.cat([q, torch.zeros_like(q), v])


class LowRankLayer(nn.Module):
    """LoRA on one layer's weight (n, m): B A of rank r, r (n + m) parameters."""

    def __init__(self, outputs: int, inputs: int, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` (n, m) -> (n, m)."""
        return weight + self.scale * self.b @ self.a


class Scaled(nn.Module):
    """SSF's half on a layer's weight: the layer's n outputs times s."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(outputs))
        nn.init.normal_(self.scale, 1.0, 0.02)

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` (n, m), or a LayerNorm's (n,), -> the same shape."""
        return self.scale.view(-1, *[1] * (weight.ndim - 1)) * weight


class Shifted(nn.Module):
    """SSF's half on that layer's bias: s b + t, with the s of ``Scaled``."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale
        self.shift = nn.Parameter(torch.empty_like(scale))
        nn.init.normal_(self.shift, 0.0, 0.02)

    def forward(self, bias: Tensor) -> Tensor:
        """``bias`` (n,) -> (n,)."""
        return self.scale * bias + self.shift


class Chosen(nn.Module):
    """Some entries of a tensor, its flat places ``index`` (n,), are trained from where they are; the others stay. The places
    follow from a seed and are not written to files."""

    index: Tensor

    def __init__(self, tensor: Tensor, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index.to(tensor.device), persistent=False)
        self.values = nn.Parameter(tensor.detach().flatten()[self.index])

    def forward(self, tensor: Tensor) -> Tensor:
        """``tensor`` with the trained values in their places."""
        return tensor.flatten().scatter(0, self.index, self.values).view_as(tensor)


def default_share(classes: int, layers: int, width: int) -> float:
    """LIFT's rule for the share that ``mask`` trains: C / (12 L d) in whole thousandths, at least one."""
    return max(1, 1000 * classes // (12 * layers * width)) / 1000


def twin(backbone: Backbone, kind: str, rank: int = 1, scale: float = 1.0, share: float = 0.0,
         blocks: Sequence[int] | None = None) -> Backbone:
    """A second backbone for ``kind`` (a key of ``_OWN``), with its own trained tensors; all others are shared.

    ``rank`` and ``scale`` are LoRA's (its product times ``scale``), ``share`` is mask's. ``blocks``: those that are changed;
    none: all of them, and with ``full`` the rest of the tower too.
    """
    places = range(backbone.layers) if blocks is None else blocks
    inside = tuple(f"transformer.resblocks.{place}." for place in places)

    def is_own(name: str) -> bool:
        return bool(re.search(_OWN[kind], name)) and (blocks is None or name.startswith(inside))

    visual = {id(p): name for name, p in backbone.visual.named_parameters() if name != "proj"}
    shared = {id(p): p for p in [*backbone.parameters(), *backbone.buffers()]
              if not (id(p) in visual and is_own(visual[id(p)]))}
    copied = copy.deepcopy(backbone, {**shared, id(backbone.tokenizer): backbone.tokenizer})
    for p in copied.visual.parameters():
        p.requires_grad_(id(p) not in shared)
    g = torch.Generator().manual_seed(MASK_SEED)
    for block in (copied.blocks[place] for place in places):
        if kind == "lora":
            _change(block.attn, "in_proj_weight", LowRank(backbone.width, rank, scale))
        elif kind == "lora-mlp":
            for layer in (block.mlp.c_fc, block.mlp.c_proj):
                _change(layer, "weight", LowRankLayer(layer.out_features, layer.in_features, rank, scale))
        elif kind == "ssf":
            for layer, weight, bias in (*_linears(block), (block.ln_1, "weight", "bias"), (block.ln_2, "weight", "bias")):
                scaled = _change(layer, weight, Scaled(len(getattr(layer, weight))))
                _change(layer, bias, Shifted(scaled.scale))
        elif kind == "mask":
            for layer, weight, bias in _linears(block):
                _mask(layer, weight, bias, share, g)
    return copied


MASK_SEED = 0
"""Of the places that ``mask`` trains (LIFT's code)."""
_OWN = {"bitfit": r"resblocks.*bias$", "layernorm": r"resblocks\.\d+\.ln_", "full": "", **dict.fromkeys(
    ("lora", "lora-mlp", "ssf", "mask"), "(?!)")}
"""What the names match of the image tower's tensors that a twin holds itself; ``(?!)``: none, it changes shared ones."""


def _linears(block: Any) -> Iterator[tuple[nn.Module, str, str]]:
    """The four linear layers of a block, each with the names of its weight and its bias."""
    yield block.attn, "in_proj_weight", "in_proj_bias"
    for layer in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
        yield layer, "weight", "bias"


_Changes = TypeVar("_Changes", bound=nn.Module)


def _change(layer: nn.Module, name: str, change: _Changes) -> _Changes:
    """From now on ``layer``'s tensor ``name`` is what ``change`` makes of it."""
    parametrize.register_parametrization(layer, name, change.to(getattr(layer, name)))
    return change


def _mask(layer: nn.Module, weight: str, bias: str, share: float, g: torch.Generator) -> None:
    """LIFT's draw: out of the rows of [W | b] all at once, so a bias is as likely as a weight."""
    outputs, inputs = getattr(layer, weight).shape
    count = outputs * (inputs + 1)
    chosen = torch.randperm(count, generator=g)[: int(count * share)].sort().values
    row, column = chosen // (inputs + 1), chosen % (inputs + 1)
    inside = column < inputs
    for name, index in ((weight, (row * inputs + column)[inside]), (bias, row[~inside])):
        if len(index):
            _change(layer, name, Chosen(getattr(layer, name), index))
