"""A training step of every method, image by image, in the precision of its inputs: what the methods are held to.

``TWINS``: a method's name to its step, (model, batches, now, counts) -> the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from reference import affine, attention, compensated, features, logit_adjusted, logits
from scipy.special import ive
from torch import Tensor

from sagekit import Method
from sagekit.data.batches import Batch
from sagekit.methods import Now


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


def network_features(model: Method, images: Tensor) -> Tensor:
    """f (B, d): of a ResNet as it is, since BatchNorm makes one of a whole batch; of a CLIP image by image, normalised."""
    if not hasattr(model.net, "backbone"):
        return model.net(images)
    return torch.stack([f / f.norm() for f in (features(model, image, True) for image in images)])


def classified(model: Method, f: Tensor) -> Tensor:
    """z (C,) of one feature (d,): cosine, linear, or linear on a CLIP; each logit scaled, where the method does that."""
    if hasattr(model.head, "rows"):
        return torch.stack([model.head.scale * (row / row.norm()) @ (f / f.norm()) for row in model.head.rows])
    z = getattr(model.head, "scale", 1.0) * affine(f[None], model.head)[0]
    return torch.stack([s * v for s, v in zip(model.scale, z, strict=True)]) if hasattr(model, "scale") else z


def ce_step(model: Method, images: Tensor, labels: Tensor) -> Tensor:
    """CE(z, y)."""
    return mean([cross_entropy(classified(model, f), y)
                 for f, y in zip(network_features(model, images), labels.tolist(), strict=True)])


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
    found = network_features(model, torch.stack([image for image, _ in pairs]))
    for f, y_1, y_2 in zip(found, back.labels.tolist(), front.labels.tolist(), strict=True):
        z = classified(model, f)
        losses.append(kept * cross_entropy(z, y_1) + (1 - kept) * cross_entropy(z, y_2))
    return mean(losses)


def cmo_or_ce(model: Method, batches: tuple[Batch, ...], at: Now) -> Tensor:
    """CMO mixes in the middle of the training only."""
    if not model.settings.plain_epochs < at.epoch < model.settings.epochs - model.settings.plain_epochs:
        return ce_step(model, batches[0].views[0], batches[0].labels)
    _, *box = torch.rand(4, generator=at.random).tolist()
    return cmo_step(model, *batches, box)


def sinkhorn(cost: Tensor, regularisation: float) -> Tensor:
    """The plan (A, B) of equal marginals by its fixed point, u_i K_ij v_j with K = e^(-cost / r), in float64."""
    kernel = torch.exp(-cost.double() / regularisation)
    rows, columns = kernel.shape
    u, v = torch.ones(rows, dtype=torch.float64), torch.ones(columns, dtype=torch.float64)
    for _ in range(5000):
        for j in range(columns):
            v[j] = 1 / columns / (kernel[:, j] * u).sum()
        for i in range(rows):
            u[i] = 1 / rows / (kernel[i] * v).sum()
        if abs((u[:, None] * kernel * v).sum(0) - 1 / columns).max() < 1e-12:
            break
    return u[:, None] * kernel * v


def otmix_step(model: Method, back: Batch, front: Batch, at: Now) -> Tensor:
    """CE to both labels of patches on the backgrounds that transport gives them; CMO's where the epoch is not one of it."""
    s, size = model.settings, len(back.labels)
    if not s.plain_epochs < at.epoch < s.epochs - s.plain_epochs:
        return ce_step(model, back.views[0], back.labels)
    _, y, x = torch.rand(3, generator=at.random).tolist()
    share = np.random.default_rng(int(torch.randint(2**63 - 1, (1,), generator=at.random))).beta(s.mix_alpha, s.mix_alpha)
    chosen = list(range(size))
    if model.draw < (at.epoch / s.epochs) ** s.transport_power:
        maps_b, maps_f = (model.net.maps(batch.views[0]).detach().flatten(1) for batch in (back, front))
        cost = torch.zeros(size, size, dtype=torch.float64)
        for i, y_i in enumerate(front.labels.tolist()):
            for j, y_j in enumerate(back.labels.tolist()):
                cosine = maps_f[i] @ maps_b[j] / (maps_f[i].norm() * maps_b[j].norm())
                cost[i, j] = s.feature_weight * (1 - cosine) + (1 - s.feature_weight) * (1 - model.confused[y_i, y_j])
        chosen = [int(row.argmax()) for row in sinkhorn(cost, s.regularisation)]
    pairs = [cut_mix(back.views[0][j], image, share, y, x) for j, image in zip(chosen, front.views[0], strict=True)]
    kept, losses = pairs[0][1], []
    found = network_features(model, torch.stack([image for image, _ in pairs]))
    for f, j, y_i in zip(found, chosen, front.labels.tolist(), strict=True):
        z = classified(model, f)
        losses.append(kept * cross_entropy(z, int(back.labels[j])) + (1 - kept) * cross_entropy(z, y_i))
    return mean(losses)


def blended(batch: Batch, a: float, g: torch.Generator) -> tuple[Tensor, list[int], float]:
    """Mixup, image by image: the blends, the second labels, and the first ones' share."""
    share = np.random.default_rng(int(torch.randint(2**63 - 1, (1,), generator=g))).beta(a, a)
    order = torch.randperm(len(batch.labels), generator=g).tolist()
    images = [share * batch.views[0][i] + (1 - share) * batch.views[0][j] for i, j in enumerate(order)]
    return torch.stack(images), [int(batch.labels[j]) for j in order], share


def mixup_step(model: Method, batch: Batch, at: Now) -> Tensor:
    """CE to both labels of blends."""
    images, others, share = blended(batch, model.settings.mix_alpha, at.random)
    losses = []
    for f, y, other in zip(network_features(model, images), batch.labels.tolist(), others, strict=True):
        z = classified(model, f)
        losses.append(share * cross_entropy(z, y) + (1 - share) * cross_entropy(z, other))
    return mean(losses)


def remix_step(model: Method, batch: Batch, at: Now, n: Tensor) -> Tensor:
    """CE to both labels of blends, the rarer of very unequal classes first."""
    images, others, share = blended(batch, model.settings.mix_alpha, at.random)
    losses = []
    for f, y, other in zip(network_features(model, images), batch.labels.tolist(), others, strict=True):
        own, z = share, classified(model, f)
        if n[y] >= 3 * n[other] and share < 0.5:
            own = 0.0
        elif 3 * n[y] <= n[other] and 1 - share < 0.5:
            own = 1.0
        losses.append(own * cross_entropy(z, y) + (1 - own) * cross_entropy(z, other))
    return mean(losses)


def disalign_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """CE of the calibrated logits, weighted by (1 / pi_y)^rho and divided by the batch's sum of weights."""
    align, losses, weights = model.align, [], []
    for f, y in zip(network_features(model, batch.views[0]), batch.labels.tolist(), strict=True):
        sure = 1 / (1 + torch.exp(-(sum(a * b for a, b in zip(align.v, f, strict=True)) + align.v0)))
        z = torch.stack([(1 + sure * align.a[j]) * v + sure * align.b[j] for j, v in enumerate(classified(model, f))])
        weights.append((n.sum() / n[y]) ** model.settings.rho)
        losses.append(weights[-1] * cross_entropy(z, y))
    return sum(losses) / sum(weights)


def mislas_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """CE with labels smoothed over all classes, by the class's count."""
    losses, s = [], model.settings
    for f, y in zip(network_features(model, batch.views[0]), batch.labels.tolist(), strict=True):
        z = classified(model, f)
        e = s.smooth_tail + (s.smooth_head - s.smooth_tail) * math.sin(
            math.pi * (n[y] - n.min()) / (2 * (n.max() - n.min())))
        losses.append((1 - e) * cross_entropy(z, y) + e * sum(cross_entropy(z, k) for k in range(len(n))) / len(n))
    return mean(losses)


def gcl_step(model: Method, batch: Batch, at: Now, n: Tensor) -> Tensor:
    """Cosines lowered by noise, for both labels of blends; in stage 2 with a margin, and (1 - p) without gradient."""
    s, classes = model.settings, len(n)
    images, others, share = blended(batch, s.mix_alpha, at.random)
    found, total = network_features(model, images), torch.zeros((), dtype=torch.float64)
    rarity = [math.log(n.max() / v) / math.log(n.max() / n.min()) for v in n]
    for targets, part in ((batch.labels.tolist(), share), (others, 1 - share)):
        draws = torch.randn((len(targets), classes), generator=at.random)
        losses = []
        for i, (f, y) in enumerate(zip(found, targets, strict=True)):
            z = []
            for j, cosine in enumerate(classified(model, f) / s.logit_scale):
                noise = abs(min(1.0, max(-1.0, float(draws[i, j]) / 3)))
                z.append(cosine - s.noise * noise * rarity[j] - (s.margin if at.stage == 1 and j == y else 0))
            loss = cross_entropy((s.second_scale if at.stage == 1 else s.logit_scale) * torch.stack(z), y)
            losses.append((1 - math.exp(-loss.item())) * loss if at.stage == 1 else loss)
        total = total + part * mean(losses)
    return total


def h2t_step(model: Method, balanced: Batch, natural: Batch, at: Now) -> Tensor:
    """CE of features a quarter of which come from the other batch's image."""
    maps, others = model.net.maps(balanced.views[0]).detach(), model.net.maps(natural.views[0]).detach()
    chosen = torch.randperm(64, generator=at.random)[: int(64 * model.settings.exchanged)].tolist()
    losses = []
    for i, y in enumerate(balanced.labels.tolist()):
        f = torch.stack([(others if channel in chosen else maps)[i, channel].sum() / maps[i, 0].numel()
                         for channel in range(64)])
        losses.append(cross_entropy(classified(model, f), y))
    return mean(losses)


def dive_step(model: Method, batch: Batch, n: Tensor, at: Now) -> Tensor:
    """Balanced Softmax, and the divergence from the teacher's flattened probabilities."""
    s, losses = model.settings, []
    own = network_features(model, batch.views[0])
    other = model.teacher["net"](batch.views[0]) if at.stage else own
    for f, g, y in zip(own, other, batch.labels.tolist(), strict=True):
        z = classified(model, f)
        loss = logit_adjusted(z, y, n)
        if at.stage:
            p, q = torch.exp(z / s.temperature), torch.exp(affine(g[None], model.teacher["head"])[0] / s.temperature).detach()
            p, q = p / p.sum(), (q / q.sum()) ** s.flatten
            q = q / q.sum()
            kl = sum(b * (torch.log(b) - torch.log(a)) for a, b in zip(p, q, strict=True))
            loss = (1 - s.distil) * loss + s.distil * s.temperature**2 * kl
        losses.append(loss)
    return mean(losses)


def oltr_step(model: Method, batch: Batch) -> Tensor:
    """CE of the meta-embedding and the feature loss, with the authors' gradient of the memory put in by hand."""
    f, m, b = network_features(model, batch.views[0]), model.memory, len(batch.labels)
    labels, losses, apart = batch.labels.tolist(), [], torch.zeros((), dtype=f.dtype)
    for own, y in zip(f, labels, strict=True):
        asked = torch.exp(affine(own[None], model.head)[0])
        hallucinated = sum(a * row for a, row in zip(asked / asked.sum(), m.detach(), strict=True))
        v = own + torch.tanh(affine(own[None], model.selector)[0]) * hallucinated
        v = v * 10 / min((own - row).norm() for row in m.detach())
        squashed = v.norm() / (1 + v.norm()) * v / v.norm()
        z = torch.stack([model.settings.logit_scale * squashed @ row / row.norm() for row in model.rows])
        near = ((own - m.detach()[y]) ** 2).sum()
        losses.append(cross_entropy(z, y) + model.settings.feature_weight * near / 2)
        apart = apart + sum(((own - row) ** 2).sum() for k, row in enumerate(m) if k != y)
    push = model.settings.feature_weight * 0.01 * torch.clamp(10 - apart / (b * len(m)), min=0)
    loss = mean(losses) + push
    for j, row in enumerate(m):
        members = [own.detach() for own, y in zip(f, labels, strict=True) if y == j]
        step = sum((row.detach() - own for own in members), torch.zeros_like(row)) / (1 + len(members)) / b
        loss = loss + (step * (row - row.detach())).sum()
    return loss


def fur_step(model: Method, batch: Batch, at: Now) -> Tensor:
    """CE of features that are moved, direction by direction, where the class is no head class."""
    f, losses = network_features(model, batch.views[0]), []
    draws = torch.randn(f.shape, generator=at.random)
    for i, y in enumerate(batch.labels.tolist()):
        moved = f[i]
        if model.partner[y] >= 0:
            for e, row in zip(draws[i].tolist(), model.shapes[model.partner[y]], strict=True):
                moved = moved + e * row
        losses.append(cross_entropy(classified(model, moved), y))
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


def block_output(block: torch.nn.Module, tokens: Tensor, position: int) -> Tensor:
    """What a block makes of one of the ``tokens`` (N, d) that it sees."""
    mid = attention(block, tokens)[position] + tokens[position]
    return mid + block.mlp(block.ln_2(mid))


def text_of(model: Method, sentence: str, prompts: list[Tensor]) -> Tensor:
    """t (e) of one class: ``prompts`` (M, w) stand behind the start, the first before block 1, another before each block after
    it as long as there are some; each token sees those before it."""
    backbone, m = model.net.tuned, len(prompts[0]) if prompts else 0
    clip, ids = backbone.clip, backbone.tokenizer([sentence])[0].tolist()
    end = ids.index(max(ids))
    x = [clip.token_embedding.weight[i] for i in ids[: end + 1]]
    x = [x[0], *(prompts[0] if m else []), *x[1:]]
    x = torch.stack([token + clip.positional_embedding[i] for i, token in enumerate(x)])
    for number, block in enumerate(clip.transformer.resblocks):
        if 0 < number < len(prompts):
            x = torch.cat([x[:1], prompts[number], x[1 + m :]])
        x = torch.stack([block_output(block, x[: i + 1], i) for i in range(len(x))])
    return clip.ln_final(x[-1]) @ clip.text_projection


def image_of(model: Method, image: Tensor, prompts: list[Tensor]) -> Tensor:
    """f P (e) of one image: ``prompts`` (M, d) behind the patches, before the first norm, and then in their own places before
    block after block."""
    net = model.net.tuned
    visual, pixels = net.visual, (image[None] - net.mean) / net.std
    patches = visual.conv1(pixels)[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    own = len(x)
    x = visual.ln_pre(torch.cat([x, *prompts[:1]]))
    for number, block in enumerate(net.blocks):
        if 0 < number < len(prompts):
            x = torch.cat([x[:own], prompts[number]])
        x = torch.stack([block_output(block, x, i) for i in range(len(x))])
    return visual.ln_post(x[0]) @ visual.proj


def to_texts(model: Method, f: Tensor, texts: list[Tensor]) -> Tensor:
    """z (C,) of one image."""
    return torch.stack([model.settings.logit_scale * (t / t.norm()) @ (f / f.norm()) for t in texts])


def prompted_step(model: Method, batch: Batch, n: Tensor, sentence: str, words: list[Tensor], seen: list[Tensor]) -> Tensor:
    """Eq 1 of the cosines of prompted images and prompted texts."""
    texts = [text_of(model, sentence.format(name), words) for name in NAMES]
    return mean([logit_adjusted(to_texts(model, image_of(model, image, seen), texts), y, n)
                 for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True)])


def maple_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Each image prompt is a linear map of the text prompt of its block."""
    words = list(model.net.prompts.vectors)
    seen = [affine(own, one) for own, one in zip(words, model.net.prompts.maps, strict=True)]
    return prompted_step(model, batch, n, "of a {}.", words, seen)


def ballad_step(model: Method, batch: Batch, stage: int) -> Tensor:
    """CE; in stage 2 of mixed features, to the texts that were kept."""
    a, losses = model.settings.adapter_weight, []
    texts = list(model.rows) if stage else [text_of(model, f"a photo of a {name}.", []) for name in NAMES]
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        f = image_of(model, image, [])
        if stage:
            f = a * torch.stack([row @ f for row in model.adapter.weight]) + (1 - a) * f
        losses.append(cross_entropy(to_texts(model, f, texts), y))
    return mean(losses)


NAMES = ["plain circle", "striped star", "dotted heart", "dotted star"]
"""The classes that ``test_methods`` asks about."""


def shared_feature(model: Method, image: Tensor) -> Tensor:
    """f^zs P (e,) of one image (3, H, W), coordinate by coordinate of the shared space."""
    f = features(model, image, False)
    return torch.stack([(f * column).sum() for column in model.net.backbone.visual.proj.T])


def clip_adapter_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Eq 1 of the scaled cosines between texts and 0.2 A(f) + 0.8 f."""
    first, _, second, _ = model.adapter
    losses = []
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        f = shared_feature(model, image)
        adapted = torch.clamp(second.weight @ torch.clamp(first.weight @ f, min=0), min=0)
        mixed = 0.2 * adapted + 0.8 * f
        z = torch.stack([model.settings.logit_scale * t @ mixed / mixed.norm() for t in model.texts])
        losses.append(logit_adjusted(z, y, n))
    return mean(losses)


def tip_adapter_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Eq 1 of the texts' logits plus each class's sum over its own keys, as if there were K of them."""
    s, losses = model.settings, []
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        f = shared_feature(model, image)
        f, z = f / f.norm(), []
        for j, t in enumerate(model.texts):
            own = [torch.exp(-model.beta * (1 - key @ f))
                   for key, k in zip(model.keys, model.of_class.tolist(), strict=True) if k == j]
            z.append(s.logit_scale * t @ f + model.alpha * s.shots / len(own) * sum(own))
        losses.append(logit_adjusted(torch.stack(z), y, n))
    return mean(losses)


def decoder_step(model: Method, batch: Batch, n: Tensor) -> Tensor:
    """Eq 1 of W CLS + b after the new blocks, every token through every block, the frozen ones without a gradient."""
    net, losses = model.net.backbone, []
    for image, y in zip(batch.views[0], batch.labels.tolist(), strict=True):
        f = net.embed(image[None])[0]
        for block in (*net.blocks, *model.decoder.blocks):
            mid = attention(block, f) + f
            f = block.mlp(block.ln_2(mid)) + mid
        losses.append(logit_adjusted(affine(f[:1], model.head)[0], y, n))
    return mean(losses)


def deep_prompted(model: Method, image: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Every token of one image (3, H, W) through every block, with the blocks' prompts behind CLS and, from the middle on,
    ``own`` (l, p, d) at the end: CLS after the last norm (d,), and what the last block makes of its prompts (p, d)."""
    net, tokens = model.net.backbone, model.net.prompts.tokens
    f = net.embed(image[None])[0]
    p, early = tokens.shape[1], net.layers // 2
    for number, block in enumerate(net.blocks):
        x = torch.cat([f[:1], tokens[number], f[1:], *([] if own is None or number < early else [own[number - early]])])
        mid = attention(block, x) + x
        x = block.mlp(block.ln_2(mid)) + mid
        f = torch.cat([x[:1], x[1 + p : 1 + p + net.patches]])
    return net.visual.ln_post(f[0]), x[1 : 1 + p]


def cosine_row(model: Method, f: Tensor) -> list[Tensor]:
    """cos(f, w_j) of one feature (d,) with every row."""
    return [(row / row.norm()) @ (f / f.norm()) for row in model.head.rows]


def clouded(cosines: list[Tensor], draws: Tensor, y: int, n: Tensor, noise: float, margin: float) -> Tensor:
    """(C,): every cosine lowered by its draw, the more the rarer the class, and the target's by the margin."""
    rarity = [math.log(n.max() / v) / math.log(n.max() / n.min()) for v in n]
    return torch.stack([c - noise * abs(min(1.0, max(-1.0, float(e) / 3))) * d - (margin if j == y else 0)
                        for j, (c, e, d) in enumerate(zip(cosines, draws, rarity, strict=True))])


def lpt_batch(model: Method, batch: Batch, at: Now, n: Tensor, a: float, b: float) -> Tensor:
    """A, less half of h in stage 2, of one batch."""
    s, labels, losses = model.settings, batch.labels.tolist(), []
    kept = torch.rand((len(labels), model.net.backbone.width), generator=at.random)
    draws = torch.randn((len(labels), len(n)), generator=at.random)
    for i, (image, y) in enumerate(zip(batch.views[0], labels, strict=True)):
        f, _ = deep_prompted(model, image)
        h = torch.zeros((), dtype=f.dtype)
        if at.stage == 1:
            q = f.detach()
            likeness = [(key / key.norm()) @ (q / q.norm()) for key in model.net.pool.keys]
            first, second = sorted(range(len(likeness)), key=lambda k: -likeness[k].item())[:2]
            h = likeness[first] + likeness[second]
            f, _ = deep_prompted(model, image, (model.net.pool.prompts[first] + model.net.pool.prompts[second]) / 2)
        f = torch.stack([v / (1 - s.dropout) if k >= s.dropout else 0 * v for v, k in zip(f, kept[i], strict=True)])
        e = torch.exp(s.logit_scale * clouded(cosine_row(model, f), draws[i], y, n, s.noise, s.margin))
        loss = torch.zeros((), dtype=f.dtype)
        for j, p in enumerate(e / e.sum()):
            target = s.smoothing / len(n) + (1 - s.smoothing if j == y else 0)
            loss = loss - target * ((1 - p) ** a if j == y else p**b) * torch.log(p)
        losses.append(loss - s.key_weight * h)
    return mean(losses)


def lpt_step(model: Method, batches: tuple[Batch, ...], at: Now, n: Tensor) -> Tensor:
    """A of the first batch and, ever less, of the second."""
    total = lpt_batch(model, batches[0], at, n, 0.0, 4.0)
    if at.stage == 1:
        left = (model.settings.pool_epochs - at.epoch) / model.settings.pool_epochs
        total = total + 0.5 * left * lpt_batch(model, batches[1], at, n, 0.5, 8.0)
    return total


def gnm_pt_step(model: Method, batch: Batch, at: Now, n: Tensor) -> Tensor:
    """CE of clouded cosines at a point near the weights, whose distance has no gradient; weighted by class when late."""
    s, late = model.settings, at.epoch >= model.settings.late_from * model.settings.epochs
    for module, name in ((model.net.prompts, "tokens"), (model.head, "rows")):
        w = getattr(module, name)
        e = torch.tensor([min(1.0, max(-1.0, v / 3)) for v in torch.randn(w.shape, generator=at.random).flatten().tolist()])
        model.register_parameter(f"true_{name}", w)
        del module._parameters[name]
        setattr(module, name, w + s.rho * 0.1 * (0.5 if late else 1) * e.view(w.shape).double())
    draws = torch.randn((len(batch.labels), len(n)), generator=at.random)
    weights, losses = [], []
    for i, (image, y) in enumerate(zip(batch.views[0], batch.labels.tolist(), strict=True)):
        cls, prompts = deep_prompted(model, image)
        f = (cls + sum(prompts) / len(prompts)) / 2
        z = s.logit_scale * clouded(cosine_row(model, f), draws[i], y, n, s.noise, s.margin)
        weights.append((1 - s.weight_beta) / (1 - s.weight_beta ** n[y]) if late else 1.0)
        losses.append(weights[-1] * cross_entropy(z, y))
    for module, name in ((model.net.prompts, "tokens"), (model.head, "rows")):
        delattr(module, name)
        module.register_parameter(name, model._parameters.pop(f"true_{name}"))
    return sum(losses) / sum(weights)


Step = Callable[[Method, tuple[Batch, ...], Now, Tensor], Tensor]
TWINS: dict[str, Step] = {
    "ballad": lambda m, b, at, n: ballad_step(m, *b, at.stage),
    "bbn": lambda m, b, at, n: bbn_step(m, *b, at.epoch, m.settings.epochs),
    "classifier": lambda m, b, at, n: lift_step(m, *b, n),
    "clip_adapter": lambda m, b, at, n: clip_adapter_step(m, *b, n),
    "cmo": lambda m, b, at, n: cmo_or_ce(m, b, at),
    "coop": lambda m, b, at, n: prompted_step(m, *b, n, "{}.", [m.vectors], []),
    "crt": lambda m, b, at, n: ce_step(m, b[0].views[0], b[0].labels),
    "decoder": lambda m, b, at, n: decoder_step(m, *b, n),
    "disalign": lambda m, b, at, n: disalign_step(m, *b, n) if at.stage else ce_step(m, b[0].views[0], b[0].labels),
    "dive": lambda m, b, at, n: dive_step(m, *b, n, at),
    "fur": lambda m, b, at, n: fur_step(m, *b, at) if at.stage == 1 else ce_step(m, b[0].views[0], b[0].labels),
    "gcl": lambda m, b, at, n: gcl_step(m, *b, at, n),
    "gnm_pt": lambda m, b, at, n: gnm_pt_step(m, *b, at, n),
    "h2t": lambda m, b, at, n: h2t_step(m, *b, at) if at.stage else mixup_step(m, *b, at),
    "lift": lambda m, b, at, n: lift_step(m, *b, n),
    "lift_plus": lambda m, b, at, n: lift_step(m, *b, n),
    "lpt": lambda m, b, at, n: lpt_step(m, b, at, n),
    "lws": lambda m, b, at, n: ce_step(m, b[0].views[0], b[0].labels),
    "maple": lambda m, b, at, n: maple_step(m, *b, n),
    "mislas": lambda m, b, at, n: mislas_step(m, *b, n) if at.stage else mixup_step(m, *b, at),
    "mixup": lambda m, b, at, n: mixup_step(m, *b, at),
    "ncm": lambda m, b, at, n: ce_step(m, b[0].views[0], b[0].labels),
    "otmix": lambda m, b, at, n: otmix_step(m, *b, at),
    "oltr": lambda m, b, at, n: oltr_step(m, *b) if at.stage else ce_step(m, b[0].views[0], b[0].labels),
    "proco": lambda m, b, at, n: proco_step(m, *b, n, m.statistics.means.clone()),
    "remix": lambda m, b, at, n: remix_step(m, *b, at, n),
    "sage": lambda m, b, at, n: sage_step(m, *b, n),
    "scratch": lambda m, b, at, n: ce_step(m, b[0].views[0], b[0].labels),
    "tau_norm": lambda m, b, at, n: ce_step(m, b[0].views[0], b[0].labels),
    "tip_adapter": lambda m, b, at, n: tip_adapter_step(m, *b, n),
}
