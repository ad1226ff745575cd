"""CLIP's text tower as a part of training: the texts of all classes in every step, with a gradient.

    x_0 = E[tokens] + positions,   x_l = block_l(x_{l-1})  (causal),   t_c = LN(x_L)[end of text] P_text         (C, e)

A prompt may begin with M learned vectors in the place of words (CoOp): start, v_1 ... v_M, the words, end. Deep prompts (MaPLe)
replace the vectors' outputs again before later blocks.

Every step keeps C texts' activations for the backward pass. ``memory`` says how much beforehand; ``checkpointing`` computes
them again in pieces of ``PIECE`` classes, which bounds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .backbone import Backbone

PIECE = 64
"""Classes at a time with ``checkpointing``."""
KEPT = 20
"""Floats a token, block and unit of width that the backward pass keeps of a tower that is trained; 11 to 14 of a frozen one
(counted in tests/networks/test_text.py)."""


class TextTower(nn.Module):
    """The text tower of ``backbone`` on one prompt a class; ``forward`` gives (C, e), not normalised. ``width`` w, ``layers``.

    Args:
        backbone: whose CLIP it is; the tower is that CLIP's own, trained where its parameters are.
        prompts: C sentences, without the learned vectors.
        vectors: M, learned vectors after the start of text.
        checkpointing: compute pieces again in the backward pass.

    Raises ``UserError`` for a model without such a tower, and for prompts that are longer than its context.
    """

    tokens: Tensor

    def __init__(self, backbone: Backbone, prompts: Sequence[str], vectors: int = 0, checkpointing: bool = False) -> None:
        from open_clip import CLIP  # slow to import

        super().__init__()
        clip = backbone.clip
        if not (isinstance(clip, CLIP) and clip.attn_mask is not None and clip.text_pool_type in ("argmax", "eos")
                and isinstance(clip.text_projection, nn.Parameter)):
            raise UserError(f"{backbone.name} has no plain CLIP text tower that training could go through; choose a CLIP such "
                            "as ViT-B-16-quickgelu, or a method that reads the class names once (sagekit methods).")
        self.clip = [clip]  # in a list: its parameters are the backbone's
        self.width, self.layers = clip.ln_final.normalized_shape[0], len(clip.transformer.resblocks)
        self.vectors, self.checkpointing = vectors, checkpointing
        tokens = torch.cat([backbone.tokenizer([prompt]) for prompt in prompts]).to(backbone.mean.device)
        words = int(tokens.ne(0).sum(1).max())
        if words + vectors > clip.context_length or bool(tokens[:, -1].ne(0).any() and words == clip.context_length):
            longest = prompts[int(tokens.ne(0).sum(1).argmax())]
            learned = f", and {vectors} learned vectors come on top" if vectors else ""
            raise UserError(f"the prompt '{longest[:60]}' has {words} tokens or more{learned}; {backbone.name} reads "
                            f"{clip.context_length}. Shorten the class's name{' or take fewer vectors' if vectors else ''}.")
        room = tokens.new_zeros(len(tokens), vectors)
        self.register_buffer("tokens", torch.cat([tokens[:, :1], room, tokens[:, 1:words]], 1), persistent=False)

    def forward(self, vectors: Tensor | None = None, deep: Sequence[Tensor] = ()) -> Tensor:
        """Text features (C, e). ``vectors`` (M, w), or (C, M, w) of each class's own; ``deep``: (M, w) each, that take the
        vectors' places before blocks 2, 3, ..."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return self._encode(self.tokens, vectors, *deep)
        own = vectors is not None and vectors.ndim == 3
        return torch.cat([checkpoint(self._encode, tokens, vectors[start : start + PIECE] if own and vectors is not None
                                     else vectors, *deep, use_reentrant=False)
                          for start, tokens in zip(range(0, len(self.tokens), PIECE), self.tokens.split(PIECE), strict=True)])

    def _encode(self, tokens: Tensor, vectors: Tensor | None, *deep: Tensor) -> Tensor:
        from open_clip.transformer import text_global_pool

        (clip,), m = self.clip, self.vectors
        x = clip.token_embedding(tokens)
        if vectors is not None:
            x = torch.cat([x[:, :1], vectors.to(x).expand(len(x), -1, -1), x[:, 1 + m :]], 1)
        x = x + clip.positional_embedding[: x.shape[1]]
        mask = clip.attn_mask[: x.shape[1], : x.shape[1]]
        for index, block in enumerate(clip.transformer.resblocks):
            if 0 < index <= len(deep):
                x = torch.cat([x[:, :1], deep[index - 1].to(x).expand(len(x), -1, -1), x[:, 1 + m :]], 1)
            x = block(x, attn_mask=mask)
        pooled = text_global_pool(clip.ln_final(x), tokens, clip.text_pool_type, eos_token_id=clip.text_eos_id)
        return pooled @ clip.text_projection

    def memory(self) -> int:
        """Bytes that a step's backward pass keeps of the texts, about."""
        classes, length = self.tokens.shape
        return 4 * KEPT * classes * length * self.width * self.layers

    def beforehand(self, memory: int) -> list[str]:
        """One line on what the texts cost in a device's ``memory`` (bytes). Raises ``UserError`` where it is not enough."""
        classes = len(self.tokens)
        if self.checkpointing:
            return [f"every step encodes the texts of all {classes} classes, {PIECE} at a time (checkpointing)."]
        needed = self.memory()
        if needed > memory:
            raise UserError(f"every step encodes the texts of all {classes} classes, whose backward pass keeps about "
                            f"{needed / 1e9:.1f} GB, and {memory / 1e9:.1f} GB are free; --set checkpointing=true encodes "
                            f"{PIECE} at a time, in more time.")
        return [f"every step encodes the texts of all {classes} classes and keeps about {needed / 1e9:.2g} GB of them."]
