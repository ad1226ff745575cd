"""The mini CLIP: an ``open_clip`` model of 1.7 million parameters that knows the mini world's words and images.

It stands where OpenAI's CLIP stands in the paper: a frozen foundation model, pretrained contrastively on captions
(``pretrain``), shipped as package data. Width d = 128, 6 blocks, 4 heads, 48-px images in 8-px patches (6 x 6 + 1
tokens), a 96-d shared space, and a tokenizer with one token a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.world import IMAGE_SIZE, vocabulary
from ..errors import UserError

if TYPE_CHECKING:
    from open_clip.model import CLIP

CONTEXT_LENGTH = 20
WEIGHTS = Path(__file__).parent / "mini.safetensors"
CARD = WEIGHTS.with_suffix(".json")


class WordTokenizer:
    """One token a word. Ids: 0 padding, then the words, then start and end of text (the largest, as CLIP pools there)."""

    def __init__(self) -> None:
        self.ids = {word: i + 1 for i, word in enumerate(vocabulary())}
        self.start = len(self.ids) + 1
        self.end = len(self.ids) + 2

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids int64 (len(texts), 20). Raises ``UserError`` for a word that the mini world lacks."""
        tokens = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            words = re.findall(r"[a-z0-9-]+", text.lower())
            unknown = [word for word in words if word not in self.ids]
            if unknown:
                raise UserError(f"the mini model does not know the word '{unknown[0]}'; it was pretrained on the mini world "
                                "only. Use --set backbone=ViT-B-16-quickgelu for own class names.")
            ids = [self.start, *[self.ids[word] for word in words][: CONTEXT_LENGTH - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


def create() -> CLIP:
    """A mini CLIP with fresh random weights."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # slow to import

    return CLIP(
        embed_dim=96,
        vision_cfg=CLIPVisionCfg(layers=6, width=128, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
        text_cfg=CLIPTextCfg(context_length=CONTEXT_LENGTH, vocab_size=len(vocabulary()) + 3, width=128, heads=4, layers=2),
    )
