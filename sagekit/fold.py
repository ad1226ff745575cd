"""Folding a trained Sage run (finding 4): each SG-Adapter becomes a plain bottleneck adapter with the same output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .adapters import count
from .batches import evaluation_batches
from .datasets import load_data
from .errors import UserError
from .evaluate import load_model
from .model import Model
from .runs import Run


@dataclass
class Folding:
    """Adapter parameters before and after, and the largest difference of a predicted logit on ``images`` images."""

    before: int
    after: int
    difference: float
    images: int


@torch.no_grad()
def fold_run(path: Path) -> Folding:
    """Write ``folded.safetensors`` into the run at ``path`` and say how exact it is on its first test images.

    Raises ``UserError`` when the run has no SG-Adapters.
    """
    run = Run(path)
    data = load_data(run.config)
    model = load_model(run, data.class_names).eval()
    if not isinstance(model, Model):
        raise UserError(f"{path} was trained from scratch and has no SG-Adapters to fold.")
    (images,), _ = next(evaluation_batches(data.test, run.config, model.image_size, torch.device("cpu"), False))
    before = model(images).prediction
    parameters = 0 if model.adapters is None else count(model.adapters)
    model.fold()
    assert model.adapters is not None
    run.write_weights(model.trained(), model.name, data.class_names, "folded.safetensors")
    return Folding(parameters, count(model.adapters), (model(images).prediction - before).abs().max().item(), len(images))
