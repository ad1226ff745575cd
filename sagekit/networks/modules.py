"""The other fine-tuning modules of Table 9, in every block of any ViT backbone (parameters a block, biases included):

    BitFit        11 d             the block's own biases (2 LayerNorms, Q K V, output, MLP)
    VPT           p d              p prompt tokens after CLS: before the first block (shallow), or new ones before each (deep)
    Adapter       (2r+3) d + r     h + ReLU(LN(h) W_down) W_up on the MLP's output h
    LoRA          4 r d            W_Q + B_Q A_Q and W_V + B_V A_V;  A uniform in +-1/sqrt(d), B = 0 at the start (Hu et al.)
    full          12 d^2 + 13 d    every weight of the image tower (the embedding and the last norm too)

AdaptFormer and SG-Adapter are in ``adapters``. BitFit, LoRA and full train a twin of the frozen backbone that shares every
tensor with it that is not trained; feature interchange keeps the frozen one.

LoRA is not what the PEFT library makes of open_clip, which holds Q, K and V in one matrix of ``nn.MultiheadAttention``: PEFT's
layer for it adapts that matrix as a whole (one A for Q, K and V) and the output projection as well, which is neither Table 9's
module nor its count. In Hugging Face's CLIP, where they are layers, it is PEFT's (``training.export`` writes it so).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .adapters import down_projection, up_projection
from .backbone import Backbone


class Adapter(nn.Module):
    """Houlsby et al.'s bottleneck on the MLP's output: (2r + 3) d + r parameters. Starts as the identity (W_up = 0)."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = down_projection(width, bottleneck)
        self.up = up_projection(bottleneck, width)

    def forward(self, output: Tensor) -> Tensor:
        """The MLP's ``output`` (..., d) -> what is added to it (..., d)."""
        return self.up(F.relu(self.down(self.norm(output))))


class Prompts(nn.Module):
    """VPT's tokens (Jia et al. 2022): p of them after CLS; ``deep`` replaces them by new ones before each block."""

    def __init__(self, width: int, prompts: int, layers: int, patch_size: int, deep: bool) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(layers if deep else 1, prompts, width))
        limit = math.sqrt(6 / (3 * patch_size**2 + width))
        nn.init.uniform_(self.tokens, -limit, limit)

    def forward(self, index: int, tokens: Tensor) -> Tensor:
        """``tokens`` before block ``index``: (B, N, d) -> (B, p + N, d) for the first, then (B, p + N, d) always."""
        if index >= len(self.tokens):
            return tokens
        own = self.tokens[index].to(tokens.dtype).expand(tokens.shape[0], -1, -1)  # len() would fix the batch in an export
        old = 0 if index == 0 else own.shape[1]  # prompts of the block before, which deep prompts replace
        return torch.cat([tokens[:, :1], own, tokens[:, 1 + old :]], 1)


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


def twin(backbone: Backbone, kind: str, rank: int, scale: float = 1.0) -> Backbone:
    """A second backbone for ``kind`` bitfit, lora (its product times ``scale``) or full, with its own trained tensors; all
    others are shared."""
    is_own = _OWN[kind]
    visual = {id(p): name for name, p in backbone.visual.named_parameters() if name != "proj"}
    shared = {id(p): p for p in [*backbone.parameters(), *backbone.buffers()]
              if not (id(p) in visual and is_own(visual[id(p)]))}
    copied = copy.deepcopy(backbone, {**shared, id(backbone.tokenizer): backbone.tokenizer})
    for p in copied.visual.parameters():
        p.requires_grad_(id(p) not in shared)
    if kind == "lora":
        for block in copied.blocks:
            parametrize.register_parametrization(block.attn, "in_proj_weight", LowRank(backbone.width, rank, scale))
    return copied


_OWN: dict[str, Callable[[str], bool]] = {
    "bitfit": lambda name: "resblocks" in name and name.endswith("bias"),
    "lora": lambda name: False,
    "full": lambda name: True,
}
"""Which of the image tower's tensors a twin holds itself, by name."""
