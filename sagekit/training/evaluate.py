"""Measuring a model: test-set logits by view, the measures of ``metrics``, and the record of a run.

A "view" is how a test image is shown: ``single`` (resize, centre crop) or ``five_crops`` (the logits of five crops
averaged, finding 10). Every number says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..config import SCRATCH, Config
from ..data.batches import evaluation_batches
from ..data.datasets import DataSet, Split, load_data
from ..devices import accelerator_for, measuring_precision
from ..networks import frozen
from ..networks.backbone import Backbone, load_backbone
from ..networks.heads import Classifier, Logits
from ..networks.tuned import Model, build_classifier
from ..progress import bar
from ..runs.metrics import measure
from ..runs.predictions import ALL, KEPT, Predictions, joined, reduced
from ..runs.run import Run


@torch.no_grad()
def predict(model: Classifier, split: Split, config: Config, accelerator: Accelerator, ensembling: bool = False,
            show: bool = True) -> Predictions:
    """Logits of every image of ``split``, in order; with several processes each computes a share.

    Five crops are averaged logit by logit, z, z_v and z_t alike. Frozen features are computed once for all runs (``frozen``).
    """
    device, processes = accelerator.device, accelerator.num_processes
    batches = evaluation_batches(split, config, model.image_size, device, ensembling,
                                 accelerator.process_index, processes)
    model.eval()
    show = show and accelerator.is_main_process
    place = None
    if isinstance(model, Model) and (model.fit or model.frozen_alone):
        place = frozen.place(model.backbone, split, config, device, ensembling, show)
    known = None if place is None else frozen.read(place, len(split))
    scalars = (model.s_v.item(), model.s_t.item()) if model.fit else (0.0, 0.0)
    parts = []
    progress = bar(total=len(split), what="test, five crops" if ensembling else "test", show=show)
    for crops, index in batches:
        views = [_view(model, crop, None if known is None else known[index, view].to(device), config)
                 for view, crop in enumerate(crops)]
        logits = [logits for logits, _ in views]
        z_v, z_t = (None if part[0] is None else _mean(part) for part in zip(*(one[1:3] for one in logits), strict=True))
        found = Predictions(split.labels[index].numpy(), _mean([one.z for one in logits]), z_v, z_t, *scalars)
        new = None if place is None or known is not None else torch.stack([zs for _, zs in views], 1).cpu()
        parts.append((index, reduced(found, KEPT) if found.z.shape[1] > ALL else found, new))
        progress.update(len(index) * processes)
    progress.close()
    parts = gather_object(parts)
    if place is not None and known is None and accelerator.is_main_process:
        frozen.write(place, [(index, new) for index, _, new in parts])
    return joined([(index.numpy(), found) for index, found, _ in parts])


def _view(model: Classifier, images: Tensor, known: Tensor | None, config: Config) -> tuple[Logits, Tensor]:
    """Logits of one view, and the frozen feature (the feature itself where nothing else is frozen), in float32: the head too,
    as bf16 would round a logit of 8 by 0.03 and make draws of the nearest ones."""
    with measuring_precision(config, images.device):
        feature, zs = model.features(images, known)
    feature, zs = feature.float(), None if zs is None else zs.float()
    return model.classify(feature, zs), feature if zs is None else zs


def _mean(views: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(views)).float().mean(0).cpu().numpy()


@torch.no_grad()
def likeliest(model: Classifier, images: Tensor, class_names: Sequence[str], count: int = 5) -> pd.DataFrame:
    """The ``count`` likeliest classes of each of ``images`` (B, 3, H, W), best first: ``image``, ``class``, ``probability``
    (0..1)."""
    found = model.eval()(images).prediction.softmax(-1).topk(min(count, len(class_names)))
    return pd.DataFrame([{"image": i, "class": class_names[c], "probability": p}
                         for i, (chances, classes) in enumerate(zip(found.values.tolist(), found.indices.tolist(), strict=True))
                         for p, c in zip(chances, classes, strict=True)])


def record(run: Run, model: Classifier, data: DataSet, config: Config, accelerator: Accelerator, ensembling: bool,
           show: bool = True) -> None:
    """Predict the test set, measure, and write ``predictions.npz`` and ``metrics.json``."""
    views = {"single": predict(model, data.test, config, accelerator, False, show)}
    if ensembling:
        views["five_crops"] = predict(model, data.test, config, accelerator, True, show)
    if accelerator.is_main_process:
        history = run.history
        run.write_predictions(views)
        run.write_metrics({
            "data": data.name,
            "mini_world": config.dataset == "world",
            "test_images": len(data.test),
            "class_names": data.class_names,
            "class_counts": data.class_counts.tolist(),
            "group_counts": {name: counts.tolist() for name, counts in data.group_counts.items()},
            "trainable_parameters": {} if config.method == "zero-shot" else model.parameter_counts(),
            "train_seconds": float(history["seconds"].sum()) if len(history) else 0.0,
            "results": {view: _measured(run.predictions(view), data) for view in views},
        })
    accelerator.wait_for_everyone()


def _measured(stored: Predictions, data: DataSet) -> dict[str, Any]:
    """The measures of what was stored, so that whoever reads the predictions finds the same numbers."""
    return measure(stored, len(data.class_names), data.group_counts)


def load_model(run: Run, class_names: list[str], backbone: Backbone | None = None, folded: bool = False,
               device: torch.device | str = "cpu") -> Classifier:
    """The trained model of ``run`` for data with ``class_names``; ``folded`` loads what ``sagekit fold`` wrote."""
    file = "folded.safetensors" if folded else "weights.safetensors"
    if run.config.method != "zero-shot":
        run.check_fits(backbone.name if backbone else run.config.backbone, class_names, file)
    model = build_classifier(run.config, class_names, backbone, device)
    if run.config.method == "zero-shot":
        return model
    if folded and isinstance(model, Model):
        model.fold()
    model.load_trained(run.weights(file), str(run.path / file))
    return model


def evaluate(run: Run | Path | str, ensembling: bool | None = None, folded: bool = False, show: bool = True,
             **changes: Any) -> dict[str, Any]:
    """Measure a trained run again and write its predictions and metrics; returns the metrics.

    ``ensembling`` adds five crops (default: as the run was configured); ``changes`` are settings of this machine
    (device, workers, data_root, weights, ...). Raises ``UserError`` when the run's weights do not fit.
    """
    run = run if isinstance(run, Run) else Run(run)
    config = run.config.changed(**changes) if changes else run.config
    data = load_data(config)
    accelerator = accelerator_for(config)
    backbone = None if config.backbone == SCRATCH else load_backbone(config)
    model = load_model(run, data.class_names, backbone, folded, accelerator.device)
    record(run, model, data, config, accelerator, config.ensembling if ensembling is None else ensembling, show)
    return run.metrics
