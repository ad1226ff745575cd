"""Literal, slow transcriptions of the paper's equations, in the precision of their inputs: what the library is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from sagekit import AdaptFormer, Method, SGAdapter


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def affine(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def adaptformer(adapter: AdaptFormer, tokens: Tensor) -> Tensor:
    """s * a of Eq 5-6."""
    f = layer_norm(tokens, adapter.norm.weight, adapter.norm.bias)
    return adapter.scale * affine(torch.clamp(affine(f, adapter.down), min=0), adapter.up)


def sg_adapter(adapter: SGAdapter, tokens: Tensor, w_bar: Tensor) -> Tensor:
    """s * f' of Eq 7-9, with w_bar repeated for every one of the b tokens (b, d), as the paper writes it."""
    b = tokens.shape[0]
    f_v = layer_norm(tokens, adapter.norm.weight, adapter.norm.bias)  # (b, d)
    f_t = layer_norm(w_bar.repeat(b, 1), adapter.norm.weight, adapter.norm.bias)  # (b, d)
    f_vt = affine(f_t, adapter.proj) * f_v  # Eq 7
    down = affine(f_vt, adapter.down_vt) + adapter.scale_vt * affine(f_t, adapter.down_t)
    joined = torch.cat([affine(f_v, adapter.down_v), down], dim=1)  # (b, 2r), Eq 8
    relu = torch.where(joined > 0, joined, torch.zeros_like(joined))
    weight, bias = adapter.up.weight.T, adapter.up.bias
    out = adapter.alpha * (relu @ weight) + (1 - adapter.alpha) * (joined @ weight) + bias
    return adapter.scale * out


def attention(block: torch.nn.Module, tokens: Tensor) -> Tensor:
    """MSA(LN(f)) of Eq 2-3, head by head, for one image (N, d)."""
    attn, x = block.attn, block.ln_1(tokens)
    d, heads = tokens.shape[1], attn.num_heads
    size = d // heads
    q, k, v = ((x @ attn.in_proj_weight[i * d : (i + 1) * d].T + attn.in_proj_bias[i * d : (i + 1) * d]) for i in range(3))
    parts = []
    for j in range(heads):
        mine = slice(j * size, (j + 1) * size)
        weights = torch.softmax(q[:, mine] @ k[:, mine].T / size**0.5, dim=-1)
        parts.append(weights @ v[:, mine])
    return affine(torch.cat(parts, 1), attn.out_proj)


def features(model: Method, image: Tensor, adapted: bool) -> Tensor:
    """The feature of one image (3, H, W): every token through every block, adapter after attention (Eq 4, 6, 9)."""
    net = model.net.backbone
    f = net.embed(image[None])[0]
    for block, adapter in zip(net.blocks, model.net.adapters or [None] * net.layers, strict=True):
        mid = attention(block, f) + f
        f = block.mlp(block.ln_2(mid)) + mid
        if adapted and isinstance(adapter, SGAdapter):
            w_bar = torch.stack([row / row.norm() for row in model.head.rows]).sum(0) / len(model.head.rows)
            f = f + sg_adapter(adapter, mid, w_bar)
        elif adapted and isinstance(adapter, AdaptFormer):
            f = f + adaptformer(adapter, mid)
    return net.visual.ln_post(f[0])


def logits(model: Method, image: Tensor) -> dict[str, Tensor]:
    """z, z^v, z^t and z^ of Eq 23 for one image, each (C,)."""
    f, f_zs = features(model, image, True), features(model, image, False)
    f, f_zs = f / f.norm(), f_zs / f_zs.norm()
    w = torch.stack([row / row.norm() for row in model.head.rows])
    k = model.head.scale
    z, z_v, z_t = k * w @ f, k * w @ f_zs, k * model.text @ f
    return {"z": z, "z_v": z_v, "z_t": z_t, "prediction": z + model.s_v * z_v + model.s_t * z_t}


def logit_adjusted(z: Tensor, target: int, n: Tensor, tau: float = 1.0) -> Tensor:
    """Eq 1 for one image, by its fraction."""
    weighted = torch.exp(z) * n**tau
    return -torch.log(weighted[target] / weighted.sum())


def compensated(z: Tensor, target: int, n: Tensor, gamma: float, mu: float) -> Tensor:
    """Eq 21-22 for one image, by their fractions."""
    factor = mu * n**gamma * n.sum() / (len(n) * n.min())
    weighted = torch.exp(z) * n * factor
    return -torch.log(weighted[target] / weighted.sum())
