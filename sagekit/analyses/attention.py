"""Attention maps (Figures 1, 2, 3, 5), how much of them falls on the object, and the expansion of Eq 13.

    Eq 10   head_j = Softmax(Q K^T / sqrt(d_k)) V

A map is the row of the CLS token in Softmax(...): how much it takes from each patch, head by head and block by block. The paper
shows maps; where the object's pixels are known (the mini world), ``on_object`` measures them:

    share = sum_p a_p m_p / sum_p a_p,    m_p the covered part of patch p;   attention spread evenly has the mean of m_p

    Eq 13   with f = [f_1, f_2]:  (Q K^T) V = sum over a, b, c in {1, 2} of  (f_a W_q^a) (f_b W_k^b)^T (f_c W_v^c)
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..methods import Method
from .inside import guidance_of, tuned_of


@torch.no_grad()
def maps(model: Method, images: Tensor, frozen: bool = False) -> Tensor:
    """CLS attention to the patches, (L, B, h, G, G), of ``images`` (B, 3, H, W) in the tuned or the ``frozen`` branch.

    The rest to 1 is what CLS takes from itself (and from prompts). Raises ``UserError`` for a network without attention.
    """
    net = tuned_of(model)
    rows = []
    for step in net.stream(images, guidance_of(model), frozen):
        weights = (net.backbone if frozen else net.tuned).attention_weights(step.block, step.tokens)[:, :, 0]
        rows.append(weights[..., -net.backbone.patches :])
    side = round(net.backbone.patches**0.5)
    return torch.stack(rows).unflatten(-1, (side, side))


def on_object(attention: Tensor, masks: Tensor) -> Tensor:
    """Share (0..1) of the patches' attention that falls on the object: (..., B, h) of ``attention`` (..., B, h, G, G).

    ``masks`` bool (B, H, W). Raises ``UserError`` when their numbers of images differ.
    """
    if len(masks) != attention.shape[-4]:
        raise UserError(f"there are {len(masks)} masks for {attention.shape[-4]} images.")
    cover = covered(masks, attention.shape[-1]).to(attention)[:, None]  # (B, 1, G, G)
    return (attention * cover).sum((-1, -2)) / attention.sum((-1, -2))


def covered(masks: Tensor, side: int) -> Tensor:
    """The covered part (0..1) of every patch: (B, G, G) of ``masks`` bool (B, H, W)."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0]


def expansion(first: Tensor, second: Tensor, query: Tensor, key: Tensor, value: Tensor) -> dict[tuple[int, int, int], Tensor]:
    """The eight terms of Eq 13 by (a, b, c), each (N, d_k); their sum is (Q K^T) V.

    ``first``, ``second`` (N, d/2) are the halves of f; ``query``, ``key``, ``value`` (d, d_k). The split does not ask for the
    halves to be orthogonal, and it is symmetric: seven of eight terms hold f_1, and seven hold f_2.
    """
    half = first.shape[1]
    parts = {1: (first, slice(None, half)), 2: (second, slice(half, None))}

    def projected(which: int, weight: Tensor) -> Tensor:
        features, rows = parts[which]
        return features @ weight[rows]

    return {(a, b, c): (projected(a, query) @ projected(b, key).T) @ projected(c, value)
            for a, b, c in itertools.product((1, 2), repeat=3)}
