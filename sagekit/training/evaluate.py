"""Measuring a model: test-set logits by view, the measures of ``metrics``, and the record of a run.

A "view" is how a test image is shown: ``single`` (resize, centre crop) or ``five_crops`` (the logits of five crops
averaged, finding 10). Every number says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..config import WHERE, Config
from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..data.splits import DataSet, Split
from ..devices import accelerator_for, measuring_precision, precision
from ..errors import UserError
from ..methods import Method
from ..networks import frozen
from ..networks.heads import Features, Logits
from ..progress import bar
from ..runs.metrics import measure
from ..runs.predictions import ALL, KEPT, Predictions, joined, reduced
from ..runs.run import Run
from ..version import VERSION
from .build import load_model

MAY_DIFFER = WHERE | {"weights"}
"""What a run may be measured with that it was not trained with: where things are, not what they are."""


@torch.no_grad()
def predict(model: Method, split: Split, config: Config, accelerator: Accelerator, ensembling: bool = False,
            show: bool = True) -> Predictions:
    """Logits of every image of ``split``, in order; with several processes each computes a share.

    Five crops are averaged logit by logit, z, z_v and z_t alike. Frozen features are computed once for all runs (``frozen``).
    """
    device, processes = accelerator.device, accelerator.num_processes
    batches = evaluation_batches(split, config.views, model.image_size, device, ensembling, accelerator.process_index,
                                 processes, config.machine.workers, model.interpolation)
    model.eval()
    show = show and accelerator.is_main_process
    backbone = model.frozen_backbone()
    place = None
    if backbone is not None:
        place = frozen.place(backbone, split, config.views, config.machine, device, ensembling, show)
    known = None if place is None else frozen.read(place, len(split))
    scalars = (model.scalars().get("s_v", 0.0), model.scalars().get("s_t", 0.0))
    parts = []
    progress = bar(total=len(split), what="test, five crops" if ensembling else "test", show=show)
    for crops, index in batches:
        views = [_view(model, crop, None if known is None else known[index, view].to(device), config)
                 for view, crop in enumerate(crops)]
        logits = [logits for logits, _ in views]
        z_v, z_t = (None if part[0] is None else _mean(part) for part in zip(*(one[1:3] for one in logits), strict=True))
        found = Predictions(split.labels[index].numpy(), _mean([one.z for one in logits]), z_v, z_t, *scalars)
        new = None
        if place is not None and known is None:
            new = torch.stack([f.frozen.float() for _, f in views if f.frozen is not None], 1).cpu()
        parts.append((index, reduced(found, KEPT) if found.z.shape[1] > ALL else found, new))
        progress.update(len(index) * processes)
    progress.close()
    parts = gather_object(parts)
    if place is not None and known is None and accelerator.is_main_process:
        frozen.write(place, [(index, new) for index, _, new in parts])
    return joined([(index.numpy(), found) for index, found, _ in parts])


def _view(model: Method, images: Tensor, known: Tensor | None, config: Config) -> tuple[Logits, Features]:
    """Logits and features of one view."""
    with measuring_precision(config.machine, images.device):
        features = model.features(images, known)
    return model.head_of(features), features


def _mean(views: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(views)).float().mean(0).cpu().numpy()


@torch.no_grad()
def likeliest(model: Method, images: Tensor, class_names: Sequence[str], count: int = 5) -> pd.DataFrame:
    """The ``count`` likeliest classes of each of ``images`` (B, 3, H, W), best first: ``image``, ``class``, ``probability``
    (0..1)."""
    found = model.eval().logits(images).prediction.softmax(-1).topk(min(count, len(class_names)))
    return pd.DataFrame([{"image": i, "class": class_names[c], "probability": p}
                         for i, (chances, classes) in enumerate(zip(found.values.tolist(), found.indices.tolist(), strict=True))
                         for p, c in zip(chances, classes, strict=True)])


def record(run: Run, model: Method, data: DataSet, config: Config, accelerator: Accelerator, ensembling: bool,
           show: bool = True, folded: bool = False) -> None:
    """Predict the test set, measure, and write ``predictions.npz`` and ``metrics.json``."""
    views = {"single": predict(model, data.test, config, accelerator, False, show)}
    if ensembling:
        views["five_crops"] = predict(model, data.test, config, accelerator, True, show)
    if accelerator.is_main_process:
        history = run.history
        run.write_predictions(views)
        run.write_metrics({
            "data": data.name,
            "mini_world": config.data.dataset == "world",
            "test_images": len(data.test),
            "test_digest": data.test.digest(config.machine.workers),
            "class_names": data.shown_names,
            "prompt_names": data.class_names,
            "class_counts": data.class_counts.tolist(),
            "groups": {name: {group: classes.tolist() for group, classes in of.items()} for name, of in data.groups.items()},
            "thresholds": [config.data.head_above, config.data.tail_below],
            "notes": data.notes,
            "trainable_parameters": model.parameter_counts(),
            "train_seconds": float(history["seconds"].sum()) if len(history) else 0.0,
            "precision": precision(config.machine, accelerator.device),
            "versions": {"sagekit": VERSION, "method": model.version, "torch": torch.__version__},
            "folded": folded,
            "results": {view: _measured(run.predictions(view), data) for view in views},
        })
    accelerator.wait_for_everyone()


def _measured(stored: Predictions, data: DataSet) -> dict[str, Any]:
    """The measures of what was stored, so that whoever reads the predictions finds the same numbers."""
    return measure(stored, len(data.class_names), data.groups)


def check_changes(keys: Iterable[str]) -> None:
    """Raise ``UserError`` for a setting that is not of this machine alone (``MAY_DIFFER``)."""
    odd = next((key for key in keys if key not in MAY_DIFFER), None)
    if odd:
        raise UserError(f"'{odd}' would change what is measured, and the record would not say so; train a run with it. "
                        f"Settings of this machine are {', '.join(sorted(MAY_DIFFER))}.")


def evaluate(run: Run | Path | str, ensembling: bool | None = None, folded: bool = False, show: bool = True,
             **changes: Any) -> dict[str, Any]:
    """Measure a trained run again and write its predictions and metrics; returns the metrics.

    ``ensembling`` adds five crops (default: where the run was configured or measured so before). ``changes`` are settings of
    this machine (``MAY_DIFFER``). Raises ``UserError`` for others, and when the run's weights do not fit. """
    run = run if isinstance(run, Run) else Run(run)
    check_changes(changes)
    config = run.config.changed(**changes) if changes else run.config
    data = load_data(config.data, config.machine.workers, show)
    accelerator = accelerator_for(config.machine)
    model = load_model(run, data.class_names, None, folded, accelerator.device, config)
    if ensembling is None:
        ensembling = config.views.ensembling or (run.finished and "five_crops" in run.metrics["results"])
    record(run, model, data, config, accelerator, ensembling, show, folded)
    return run.metrics
