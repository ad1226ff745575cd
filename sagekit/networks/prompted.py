"""Deep visual prompts of which more is asked than of VPT's (``modules.Prompts``): LPT's pool, GNM-PT's mean.

    deep      [CLS, p prompts, patches]         the prompts new before every block                      pass 1
    mean      f = (LN_post(CLS) + the mean of the last block's outputs of its prompts) / 2
    pool      q = LN_post(CLS) of pass 1;  the k groups of prompts whose keys have the highest cos(q, key_i), averaged:
              [CLS, p prompts, p of the image's own, patches]   in the later half of the blocks         pass 2

Attention does not look at the tokens' order; patches stay last for analyses. The earlier blocks are the same in both passes,
and are run once. The query has no gradient, so the deep prompts learn nothing from a pass 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone
from .heads import Features
from .modules import Prompts
from .tuned import Step, Tuned

START = 0.02
"""Deviation that prompts, keys and GNM-PT's rows start with, around 0 (authors' code of both)."""


class Prompted(Tuned):
    """A frozen backbone with ``prompts`` p in every block."""

    def __init__(self, backbone: Backbone, prompts: int, checkpointing: bool = False) -> None:
        deep = Prompts(backbone.width, prompts, backbone.layers, patch_size=1)
        nn.init.trunc_normal_(deep.tokens, std=START)  # in place of VPT's own start, which looks at the patch
        super().__init__(backbone, prompts=deep, checkpointing=checkpointing)
        self.each = prompts

    def through(self, tokens: Tensor, first: int = 0, stop: int | None = None, own: Tensor | None = None,
                cls_only: bool = False) -> Tensor:
        """``tokens`` (B, N, d) after the blocks ``first``, first + 1, ... before ``stop`` (None: the end): (B, 1 + p + N, d),
        CLS first. ``own`` (B, l, q, d): q prompts of each image's own in each of these l blocks. With ``cls_only`` the last
        block gives CLS alone, (B, 1, d).
        """
        layers = self.backbone.layers
        for index in range(first, layers if stop is None else stop):
            if own is not None:
                tokens = self.beside(tokens, own[:, index - first])
            tokens = self._run(index, tokens, None, cls_only and index == layers - 1)[2]
        return tokens

    def beside(self, tokens: Tensor, own: Tensor) -> Tensor:
        """``tokens`` between two blocks with ``own`` (B, q, d) beside the deep prompts, in the place of earlier ones."""
        return torch.cat([tokens[:, : 1 + self.each], own.to(tokens.dtype), tokens[:, -self.backbone.patches :]], 1)

    def mean_feature(self, images: Tensor) -> Tensor:
        """f (B, d) of CLS and the last block's prompts, which are taken as they come, without LN_post (GNM-PT's code)."""
        tokens = self.through(self.tuned.embed(images))
        return (self.tuned.pool(tokens) + tokens[:, 1 : 1 + self.each].mean(1)) / 2


class Pool(nn.Module):
    """``groups`` of prompts, p for each of ``blocks`` blocks, and their keys; an image takes the mean of ``chosen`` groups."""

    def __init__(self, groups: int, blocks: int, prompts: int, width: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.prompts = nn.Parameter(torch.empty(groups, blocks, prompts, width))
        self.keys = nn.Parameter(torch.empty(groups, width))
        for p in (self.prompts, self.keys):
            nn.init.trunc_normal_(p, std=START)

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """For queries (B, d): the images' own prompts (B, blocks, p, d), and the sum of the chosen keys' cosines (B,)."""
        with torch.autocast(query.device.type, enabled=False):  # rounded cosines would choose other groups
            q = query.to(self.keys.dtype)
            cosines, chosen = (F.normalize(q, dim=-1) @ F.normalize(self.keys, dim=-1).T).topk(self.chosen, dim=1)
        return self.prompts[chosen].mean(1), cosines.sum(1)


class Pooled(Prompted):
    """Deep prompts, and with ``second`` pass 2, which asks the pool."""

    def __init__(self, backbone: Backbone, prompts: int, groups: int, chosen: int, checkpointing: bool = False) -> None:
        super().__init__(backbone, prompts, checkpointing)
        self.early = backbone.layers // 2
        self.pool = Pool(groups, backbone.layers - self.early, prompts, backbone.width, chosen)
        self.second = False

    def forward(self, images: Tensor, guidance: Tensor | None = None, frozen: Tensor | None = None,
                with_frozen: bool = False) -> Features:
        """As ``Tuned``; the feature is that of pass 2 where there is one, and then there is no frozen one beside it."""
        if not self.second:
            return super().forward(images, guidance, frozen, with_frozen)
        return Features(self.asked(images)[0])

    def asked(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pass 2: f (B, d), and the sum of the chosen keys' cosines (B,)."""
        tokens, query = self.query(images)
        own, likeness = self.pool(query)
        return self.tuned.pool(self.through(tokens, self.early, own=own, cls_only=True)), likeness

    @torch.no_grad()
    def query(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pass 1: the tokens after the earlier half of the blocks, and q (B, d)."""
        tokens = self.through(self.tuned.embed(images), stop=self.early)
        return tokens, self.tuned.pool(self.through(tokens, self.early, cls_only=True))

    def stream(self, images: Tensor, guidance: Tensor | None = None, frozen: bool = False) -> Iterator[Step]:
        """As ``Tuned``; of pass 2 where there is one."""
        if frozen or not self.second:
            yield from super().stream(images, guidance, frozen)
            return
        own, _ = self.pool(self.query(images)[1])
        tokens = self.tuned.embed(images)
        for index in range(self.tuned.layers):
            if index >= self.early:
                tokens = self.beside(tokens, own[:, index - self.early])
            inside = self.prompted(index, tokens)
            mid, _, tokens = self.block(index, tokens)
            yield Step(index, inside, mid, tokens)
