"""A frozen CLIP with a trained module in every block, and the frozen branch beside it.

    f~ = MSA(LN_1(f)) + f,    f_next = MLP(LN_2(f~)) + f~ + module(...)                  (Eq 4, 6, 9; ``modules``, ``adapters``)

The branch of f^zs (Eq 23) and the tuned one share what is identical: the patch embedding and, since adapters enter after them,
block 1's attention and MLP. Only the CLS token leaves the last block, so its query, MLP and adapter run for that token alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .adapters import AdaptFormer, Down
from .backbone import Backbone
from .heads import Features
from .modules import Adapter, Prompts, twin

Module = Literal["none", "bitfit", "vpt-shallow", "vpt-deep", "adapter", "lora", "adaptformer", "full", "layernorm", "ssf",
                 "lora-mlp", "mask"]
"""Table 9's modules, but for the SG-Adapter, and then those that LIFT's code has beside them."""


class Step(NamedTuple):
    """One block of ``Tuned.stream``: its number ``block`` from 0, what goes in, f~ after attention, and what comes out; (B, N,
    d) each."""

    block: int
    tokens: Tensor
    mid: Tensor
    output: Tensor


class Tuned(nn.Module):
    """Attributes: ``backbone`` is frozen; ``tuned`` is the one that images go through: the same, or a twin of it that trains
    some of its tensors (bitfit, lora, full and others). ``adapters`` (one a block, or None where a block has none) and
    ``prompts`` are None where the module has none.

    Args:
        backbone: the frozen CLIP.
        adapters: a module (or None) for each block, from f~ (B, N, d) and the guidance (d,) to what is added.
        prompts: VPT's tokens, or another module from a block's number and its tokens (B, N, d) to those with prompts.
        tuned: a twin of ``backbone`` in its place.
        checkpointing: compute each block again in the backward pass.
    """

    def __init__(self, backbone: Backbone, adapters: Sequence[nn.Module | None] | None = None, prompts: nn.Module | None = None,
                 tuned: Backbone | None = None, checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.tuned = tuned or backbone
        self.adapters = None if adapters is None else nn.ModuleList(adapters)  # type: ignore[arg-type]  # None is allowed
        self.prompts = prompts
        self.checkpointing = checkpointing
        self.bare = adapters is None and prompts is None and tuned is None
        self.shares_start = tuned is None and prompts is None  # block 1 is frozen up to its adapter

    def forward(self, images: Tensor, guidance: Tensor | None = None, frozen: Tensor | None = None,
                with_frozen: bool = False) -> Features:
        """The tuned feature and, ``with_frozen``, the frozen one, both (B, d), of ``images`` (B, 3, H, W).

        ``guidance`` (d,) goes to every adapter. ``frozen`` (B, d) is f^zs where it is known. Without a module both are f^zs.
        """
        net, last = self.backbone, self.backbone.layers - 1
        if self.bare:
            with torch.no_grad():
                frozen = net.features(images) if frozen is None else frozen
            return Features(frozen, frozen)
        needed = with_frozen and frozen is None
        tokens = self.tuned.embed(images)
        cold = net.embed(images) if needed and self.tuned is not net else tokens
        for index in range(last + 1):
            mid, output, tokens = self._run(index, tokens, guidance, index == last)
            if needed and index == 0 and self.shares_start:
                cold = mid + output
            elif needed:
                with torch.no_grad():
                    cold = net.attend(index, cold, cls_only=index == last)
                    cold = cold + net.mlp(index, cold)
        return Features(self.tuned.pool(tokens), net.pool(cold) if needed else frozen if with_frozen else None)

    def _run(self, index: int, tokens: Tensor, guidance: Tensor | None, cls_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.block, index, tokens, guidance, cls_only, use_reentrant=False)
        return self.block(index, tokens, guidance, cls_only)

    def block(self, index: int, tokens: Tensor, guidance: Tensor | None = None,
              cls_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Block ``index`` with its module, on ``tokens`` (B, N, d): f~ (after attention), MLP(LN(f~)), and the block's output.

        All (B, N, d) (N + p with prompts), or (B, 1, d) with ``cls_only``.
        """
        tokens = self.prompted(index, tokens)
        mid = self.tuned.attend(index, tokens, cls_only)
        output = self.tuned.mlp(index, mid)
        adapter = None if self.adapters is None else self.adapters[index]
        if adapter is None:
            return mid, output, mid + output
        change = adapter(output) if isinstance(adapter, Adapter) else adapter(mid, guidance)
        return mid, output, mid + output + change

    def prompted(self, index: int, tokens: Tensor) -> Tensor:
        """``tokens`` as block ``index`` takes them: with the prompts where there are some."""
        return tokens if self.prompts is None else self.prompts(index, tokens)

    def stream(self, images: Tensor, guidance: Tensor | None = None, frozen: bool = False) -> Iterator[Step]:
        """Every block of ``images`` in turn, all tokens, in the tuned or the ``frozen`` branch: what analyses look at."""
        net = self.backbone if frozen else self.tuned
        tokens = net.embed(images)
        for index in range(net.layers):
            if frozen:
                inside, mid = tokens, net.attend(index, tokens)
                tokens = mid + net.mlp(index, mid)
            else:
                inside = self.prompted(index, tokens)
                mid, _, tokens = self.block(index, tokens, guidance)
            yield Step(index, inside, mid, tokens)


def tuned(backbone: Backbone, module: Module, bottleneck: int, prompts: int = 10, scale_init: float = 1.0,
          lora_scale: float = 1.0, slope: float = 0.0, checkpointing: bool = False, mask_share: float = 0.001,
          last_blocks: int | None = None, down: Down = "normal") -> Tuned:
    """``backbone`` with one of the modules of ``bottleneck`` r (LoRA's rank) or ``prompts`` p, as it starts.

    ``slope`` is of adaptformer's activation below zero, ``down`` how its and adapter's down projection starts, ``mask_share``
    what mask trains of the weights. With ``last_blocks`` the module is in so many blocks only (vpt-shallow: in the first all
    the same). Raises ``UserError`` where there are fewer.
    """
    width, layers = backbone.width, backbone.layers
    if last_blocks is not None and last_blocks > layers:
        raise UserError(f"last_blocks is {last_blocks} and {backbone.name} has {layers} blocks; choose 1 to {layers}.")
    first = 0 if last_blocks is None else layers - last_blocks
    if module in ("vpt-shallow", "vpt-deep"):
        deep = module == "vpt-deep"
        tokens = Prompts(width, prompts, layers - first if deep else 1, backbone.patch_size, first if deep else 0)
        return Tuned(backbone, prompts=tokens, checkpointing=checkpointing)
    if module == "none":
        return Tuned(backbone, checkpointing=checkpointing)
    if module in ("adapter", "adaptformer"):
        made = [Adapter(width, bottleneck, down) if module == "adapter" else
                AdaptFormer(width, bottleneck, scale_init, slope, down) for _ in range(first, layers)]
        return Tuned(backbone, [*[None] * first, *made], checkpointing=checkpointing)
    blocks = None if last_blocks is None else range(first, layers)
    own = twin(backbone, module, bottleneck, lora_scale, mask_share, blocks)
    return Tuned(backbone, tuned=own, checkpointing=checkpointing)
