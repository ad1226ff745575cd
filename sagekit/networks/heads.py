"""Heads: features in, logits out, always in float32 (bf16 would round a logit of 8 by 0.03 and make draws of the nearest ones).

    linear     z = W f + b
    cosine     z_i = k w_i . f                 rows and features L2-normalised
    text       cosine, its rows w_i starting from the classes' texts w^zs_i (k = 25, LIFT)
    text, free z_i = k (w_i . f + b_i)             the same start, features L2-normalised, the rows not: they may have lengths
    normalised z_i = w_i . f                       rows L2-normalised, features as they are     (LIFT's "L2Normed")
    layernorm  z_i = w_i . LN(f)                   likewise, LN without weights                 (LIFT's "LayerNormed")
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Features(NamedTuple):
    """``own`` (B, d) is the trained network's; ``frozen`` (B, d) is f^zs of the frozen one where the method uses it."""

    own: Tensor
    frozen: Tensor | None = None


class Logits(NamedTuple):
    """All (B, C). ``z_v``, ``z_t`` are None without feature interchange, and then ``prediction`` is ``z``; ``z_v`` alone where
    a folded run has dropped it."""

    z: Tensor
    z_v: Tensor | None
    z_t: Tensor | None
    prediction: Tensor

    @classmethod
    def plain(cls, z: Tensor) -> Logits:
        """Logits that are ``z`` (B, C) and nothing else."""
        return cls(z, None, None, z)


def cosine(feature: Tensor, rows: Tensor, scale: float) -> Tensor:
    """k cos(f, w_i) of features (B, d) and rows (C, d): (B, C)."""
    return scale * F.normalize(feature, dim=-1) @ F.normalize(rows, dim=-1).T


class Cosine(nn.Module):
    """k w_i . f of normalised rows and features, (B, d) -> (B, C); no bias."""

    def __init__(self, rows: Tensor, scale: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.scale = scale

    def forward(self, feature: Tensor) -> Tensor:
        """z (B, C) of features (B, d)."""
        return cosine(feature, self.rows, self.scale)

    def mean_row(self) -> Tensor:
        """w_bar (d,): the mean of the normalised rows, the guidance of Eq 7."""
        return F.normalize(self.rows, dim=-1).mean(0)


class TextLinear(nn.Module):
    """k (W f + b) of features that are normalised already, (B, d) -> (B, C); the rows of W start at the normalised ``rows``, b
    at 0."""

    def __init__(self, rows: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(rows, dim=-1).clone())
        self.bias = nn.Parameter(torch.zeros(len(rows), device=rows.device))
        self.scale = scale

    def forward(self, feature: Tensor) -> Tensor:
        """z (B, C) of features (B, d)."""
        return self.scale * F.linear(feature, self.weight, self.bias)


class Linear(nn.Module):
    """W f + b, (B, d) -> (B, C); b starts at 0."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.bias = nn.Parameter(torch.zeros(len(rows), device=rows.device))

    def forward(self, feature: Tensor) -> Tensor:
        """z (B, C) of features (B, d)."""
        return F.linear(feature, self.rows, self.bias)


class Normalised(nn.Module):
    """w_i . f of normalised rows and features as they are, or with ``layernorm`` LN(f), (B, d) -> (B, C); no scale."""

    def __init__(self, rows: Tensor, layernorm: bool = False) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.layernorm = layernorm

    def forward(self, feature: Tensor) -> Tensor:
        """z (B, C) of features (B, d)."""
        if self.layernorm:
            feature = F.layer_norm(feature, feature.shape[-1:], eps=1e-12)
        return feature @ F.normalize(self.rows, dim=-1).T


Kind = Literal["cosine", "linear", "normalised", "layernorm"]
Rows = Cosine | Linear | Normalised


def with_rows(kind: Kind, rows: Tensor, scale: float) -> Rows:
    """One of LIFT's four classifiers with the given ``rows`` (C, d); ``scale`` is the cosine's."""
    if kind == "cosine":
        return Cosine(rows, scale)
    return Linear(rows) if kind == "linear" else Normalised(rows, kind == "layernorm")


def head(kind: str, width: int, classes: int, scale: float) -> nn.Module:
    """The ``linear`` or ``cosine`` head of a network from scratch."""
    layer = nn.Linear(width, classes, bias=kind == "linear")
    return layer if kind == "linear" else Cosine(layer.weight.detach(), scale)


def right_by_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Share (0..1) of each class's images whose largest of ``logits`` (N, C) is the label's, (C,); nan without images."""
    right = (logits.argmax(1) == labels).to(logits)
    seen = torch.bincount(labels, minlength=logits.shape[1])
    return torch.zeros(logits.shape[1]).to(logits).index_add_(0, labels, right) / seen


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share (0..1) of ``logits`` (B, C) whose largest is the label's; a scalar without gradient."""
    return (logits.detach().argmax(1) == labels).float().mean()
