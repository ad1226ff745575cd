"""Folding a trained Sage run (finding 4): each SG-Adapter becomes a plain bottleneck adapter with the same output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..errors import UserError
from ..methods.sage import Sage
from ..networks.adapters import count
from ..runs.run import Run
from .build import load_model


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
    if run.config.method != "sage":
        raise UserError(f"{path} is a run of {run.config.method}, which has no SG-Adapters to fold; sage has.")
    if run.config.settings.gate == "folded":
        raise UserError(f"{path} was trained in the folded form (gate=folded); there is nothing to fold.")
    data = load_data(run.config.data)
    model = load_model(run, data.class_names).eval()
    assert isinstance(model, Sage)
    assert model.net.adapters is not None
    cpu = torch.device("cpu")
    (images,), _ = next(evaluation_batches(data.test, run.config.views, model.image_size, cpu, False,
                                           interpolation=model.interpolation))
    before, parameters = model.logits(images).prediction, count(model.net.adapters)
    model.fold()
    run.write_weights(model.trained(), run.config.network.backbone, data.class_names, "folded.safetensors")
    difference = (model.logits(images).prediction - before).abs().max().item()
    return Folding(parameters, count(model.net.adapters), difference, len(images))
