"""Pretraining of the mini CLIP: contrastive learning on noisy captions of the mini world.

For a batch of B images and captions with normalised features a_i and t_j and temperature s:

    loss = 1/2 [ CE(s a t^T, T) + CE(s t a^T, T) ],   T_ij = 1 / #{k : caption k = caption i} if caption j = caption i

Equal captions are positives of each other, so that chance twins in a batch do not push each other away.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import world
from ..data.prompts import TEMPLATES, fill
from ..devices import autocast
from ..errors import UserError
from ..files import load_tensors, save_tensors, sha256, write_atomic, write_text
from ..progress import bar
from . import mini

if TYPE_CHECKING:
    from open_clip.model import CLIP

BATCH = 256
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARMUP = 500  # steps
SAVE_EVERY = 1000  # steps


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """The loss above; ``image`` and ``text`` (B, e) normalised, ``captions`` int64 (B, context) token ids."""
    same = (captions[:, None] == captions[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    logits = scale * image.float() @ text.float().T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def batch(seed: int, step: int, tokenizer: mini.WordTokenizer) -> tuple[Tensor, Tensor]:
    """The images float (B, 3, 48, 48) in -1..1 and caption tokens of one step; a function of (seed, step) alone."""
    g = world.generator(seed * 1_000_003 + step)
    labels = torch.randint(len(world.CLASS_NAMES), (BATCH,), generator=g)
    scenes = world.sample(labels, world.PRETRAIN, g)
    images, _ = world.render(scenes, world.PRETRAIN, g)
    return normalise(images), tokenizer(world.captions(scenes, g))


def normalise(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float in -1..1: the mini model's own mean and standard deviation are 1/2."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def zero_shot(model: CLIP, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy (0..1) of the 60-template text classifier in CLIP's shared space."""
    model.eval()
    tokenizer = mini.WordTokenizer()
    text = torch.stack([
        F.normalize(model.encode_text(tokenizer(fill(TEMPLATES, name)), normalize=True).mean(0), dim=0)
        for name in world.CLASS_NAMES
    ])
    logits = torch.cat([model.encode_image(normalise(part), normalize=True) for part in images.split(500)]) @ text.T
    model.train()
    return (logits.argmax(1) == labels).float().mean().item()


def own_test(seed: int, per_class: int = 50) -> tuple[Tensor, Tensor]:
    """Balanced unseen images of the pretraining domain and their labels."""
    g = world.generator(seed + 777_777_777)
    labels = torch.arange(len(world.CLASS_NAMES)).repeat(per_class)
    return world.render(world.sample(labels, world.PRETRAIN, g), world.PRETRAIN, g)[0], labels


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def pretrain(out: Path, steps: int, seed: int = 0, resume: bool = False) -> dict[str, object]:
    """Train a mini CLIP for ``steps`` batches of 256 and write ``out`` (safetensors) and its card beside it (JSON).

    A killed run continues from its last thousand steps with ``resume=True``. Returns the card. Raises ``UserError``
    when ``out`` exists, or when the kept state is of another run.
    """
    if not out.name.endswith(".safetensors"):
        raise UserError(f"--out {out} should be a .safetensors file.")
    state_path = out.with_suffix(".state.pt")
    if not resume and (out.exists() or state_path.exists()):
        raise UserError(f"{out} or its training state exists already; name another --out, or continue with --resume.")
    torch.manual_seed(seed)
    model, tokenizer = mini.create(), mini.WordTokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    start, seconds = 0, 0.0
    if resume and state_path.exists():
        state = torch.load(state_path, weights_only=True)
        if (state["steps"], state["seed"]) != (steps, seed):
            raise UserError(f"{state_path} is of --steps {state['steps']} --seed {state['seed']}; resume with those.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]

    clock = time.monotonic() - seconds
    progress = bar(range(start, steps), total=steps, initial=start, what="pretrain")
    for step in progress:
        images, captions = batch(seed, step, tokenizer)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with autocast(torch.device("cpu")):
            image, text, scale = model(images, captions)[:3]
        loss = contrastive_loss(image, text, scale, captions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", lr=f"{learning_rate(step, steps):.1e}")
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "steps": steps,
                     "seed": seed, "seconds": time.monotonic() - clock}
            write_atomic(state_path, lambda path, state=state: torch.save(state, path))  # type: ignore[misc]

    card = write_model(out, model, steps, seed, time.monotonic() - clock)
    with contextlib.suppress(FileNotFoundError):
        state_path.unlink()
    return card


def write_model(out: Path, model: CLIP, steps: int, seed: int, seconds: float) -> dict[str, object]:
    """Write the weights and the card that says how they were made and how good they are; returns the card."""
    save_tensors(out, model.state_dict())
    images, labels = own_test(seed)
    card: dict[str, object] = {
        "what": "mini CLIP of sagekit: a toy foundation model, pretrained on the generated mini world only",
        "architecture": "open_clip CLIP: ViT d=128, 6 blocks, 4 heads, patch 8, 48 px; text d=128, 2 blocks; shared space 96",
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": {"command": f"sagekit pretrain --steps {steps} --seed {seed}", "images": steps * BATCH, "batch": BATCH,
                   "optimizer": "AdamW (0.9, 0.98)", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY,
                   "warmup_steps": WARMUP, "precision": "bf16 autocast, float32 weights"},
        "seed": seed,
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "date": date.today().isoformat(),
        "zero_shot_pretraining_domain": round(zero_shot(model, images, labels), 4),
        "zero_shot_images": len(labels),
        "sha256": sha256(out),
    }
    write_text(out.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return card


def load(path: Path = mini.WEIGHTS) -> CLIP:
    """The mini CLIP with the weights at ``path``, in evaluation mode."""
    model = mini.create()
    model.load_state_dict(load_tensors(path))
    return model.eval()
