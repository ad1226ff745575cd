"""Literal, slow transcriptions of the paper's equations, in the precision of their inputs: what the library is held to."""

from __future__ import annotations

import math

import torch
from scipy.special import ive
from torch import Tensor

from sagekit import AdaptFormer, Method, SGAdapter
from sagekit.data.batches import Batch


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
    w_bar = torch.stack([row / row.norm() for row in model.head.rows]).sum(0) / len(model.head.rows)
    for block, adapter in zip(net.blocks, model.net.adapters or [None] * net.layers, strict=True):
        mid = attention(block, f) + f
        f = block.mlp(block.ln_2(mid)) + mid
        if adapted and isinstance(adapter, SGAdapter):
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


# --- a training step of every method, image by image --------------------------------------------------------------------------


def cross_entropy(z: Tensor, target: int) -> Tensor:
    """-log of the target's share, for one image's logits (C,)."""
    e = torch.exp(z - z.max())
    return -torch.log(e[target] / e.sum())


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum() / len(losses)


def lift_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Eq 1 with tau = 1 of z_i = k w_i . f; without adapters it is classifier only."""
    losses = []
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        f = features(model, image, True)
        z = torch.stack([model.head.scale * (row / row.norm()) @ (f / f.norm()) for row in model.head.rows])
        losses.append(logit_adjusted(z, y, n))
    return mean(losses)


def sage_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Eq 24 of Eq 22."""
    s, losses = model.settings, []
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        known = logits(model, image)
        z, z_v, z_t, both = (compensated(known[name], y, n, s.gamma, s.mu) for name in ("z", "z_v", "z_t", "prediction"))
        losses.append(z + s.lambda_1 * z_v + s.lambda_2 * z_t + s.lambda_3 * both)
    return mean(losses)


def ce_step(model: Method, images: Tensor, labels: Tensor) -> Tensor:
    """CE(W f + b, y); the network's features, since BatchNorm makes one of a whole batch."""
    return mean([cross_entropy(affine(f[None], model.head)[0], y)
                 for f, y in zip(model.net(images), labels.tolist(), strict=True)])


def bbn_step(model: Method, natural: Batch, reversed_: Batch, epoch: int, epochs: int) -> Tensor:
    """Two branches, weighted by a in the features and in the loss."""
    a, losses = 1 - (epoch / epochs) ** 2, []
    maps_a = model.branch_a(model.trunk.maps(natural.views[0]))
    maps_b = model.branch_b(model.trunk.maps(reversed_.views[0]))
    for i, (y_a, y_b) in enumerate(zip(natural.labels.tolist(), reversed_.labels.tolist(), strict=True)):
        f_a, f_b = (maps[i].flatten(1).sum(1) / maps[i][0].numel() for maps in (maps_a, maps_b))
        own, other = model.head.weight[:, :64], model.head.weight[:, 64:]
        z = own @ (2 * a * f_a) + other @ (2 * (1 - a) * f_b) + model.head.bias
        losses.append(a * cross_entropy(z, y_a) + (1 - a) * cross_entropy(z, y_b))
    return mean(losses)


def cut_mix(back: Tensor, front: Tensor, share: float, y: float, x: float) -> tuple[Tensor, float]:
    """One image (3, H, W), pixel by pixel: the mixed one, and the share of ``back`` that is left."""
    _, height, width = back.shape
    half_h, half_w = (int(side * (1 - share) ** 0.5) // 2 for side in (height, width))
    mixed, left = back.clone(), 0
    for row in range(height):
        for column in range(width):
            inside = -half_h <= row - int(y * height) < half_h and -half_w <= column - int(x * width) < half_w
            if inside:
                mixed[:, row, column] = front[:, row, column]
            left += not inside
    return mixed, left / (height * width)


def cmo_step(model: Method, back: Batch, front: Batch, box: tuple[float, float, float]) -> Tensor:
    """CE to both labels of the mixed images."""
    pairs = [cut_mix(a, b, *box) for a, b in zip(back.views[0], front.views[0], strict=True)]
    kept = pairs[0][1]
    losses = []
    for f, y_1, y_2 in zip(model.net(torch.stack([image for image, _ in pairs])), back.labels.tolist(), front.labels.tolist(),
                           strict=True):
        z = affine(f[None], model.head)[0]
        losses.append(kept * cross_entropy(z, y_1) + (1 - kept) * cross_entropy(z, y_2))
    return mean(losses)


def log_c(kappa: float, p: int) -> float:
    """log I_v(k) - v log k by scipy, v = p/2 - 1."""
    v = p / 2 - 1
    return math.log(ive(v, kappa)) + kappa - v * math.log(kappa)


def proco_step(model: Method, batch: Batch, n: Tensor, starts: Tensor) -> Tensor:
    """Eq 1 on view 1's logits, and on those of views 2 and 3 to the class densities of what was seen so far in a first epoch.

    ``starts`` (C, p) are the means of classes without an image. The contrast is a number here, without gradient."""
    labels, b = batch.labels.tolist(), len(batch.labels)
    f = model.net(torch.cat(batch.views))
    total = mean([logit_adjusted(affine(f[i : i + 1], model.head)[0], y, n) for i, y in enumerate(labels)])
    first, norm, _, last = model.projection
    hidden = affine(f, first)
    hidden = (hidden - hidden.mean(0)) / torch.sqrt(hidden.var(0, unbiased=False) + norm.eps) * norm.weight + norm.bias
    u = affine(torch.clamp(hidden, min=0), last)
    u = torch.stack([row / row.norm() for row in u])
    for view in (1, 2):
        losses = []
        for i, y in enumerate(labels):
            z = []
            for j in range(len(n)):
                seen = [u[v * b + k].detach() for v in range(1, view + 1) for k in range(b) if labels[k] == j]
                a = sum(seen) / len(seen) if seen else starts[j]
                length, p = a.norm().item(), len(a)
                kappa = min(1e5, p * length / max(1e-12, 1 - length**2))
                moved = (kappa * a / length + u[view * b + i] / model.settings.temperature).norm().item()
                z.append(log_c(moved, p) - log_c(kappa, p))
            losses.append(logit_adjusted(torch.tensor(z, dtype=torch.float64), y, n))
        total = total + mean(losses) / 2
    return total
