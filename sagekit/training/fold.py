"""Folding a trained Sage run (finding 4): each SG-Adapter becomes a plain bottleneck adapter with the same output.

With ``without_frozen`` z^v of Eq 23 is dropped too (s_1 = 0), and with it the second pass through the frozen network: about
half of the time of a test image (finding 13). That is another predictor, so the validation images are asked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..errors import UserError
from ..methods.sage import Sage
from ..networks.adapters import count
from ..runs.metrics import over_classes
from ..runs.run import Run
from .build import load_model


@dataclass
class Folding:
    """Adapter parameters before and after, and the largest difference of a predicted logit on ``images`` images. Where z^v was
    dropped, ``kept`` and ``dropped``: the validation images' mean over classes with it and without, 0..1."""

    before: int
    after: int
    difference: float
    images: int
    kept: float | None = None
    dropped: float | None = None


@torch.no_grad()
def fold_run(path: Path, without_frozen: bool = False) -> Folding:
    """Write ``folded.safetensors`` into the run at ``path`` and say how exact it is on its first test images (of what it
    predicts without z^v, if that is dropped).

    Raises ``UserError`` when the run has no SG-Adapters; and with ``without_frozen`` where there is no z^v, or no validation
    image, or where their mean over classes is lower without it.
    """
    run = Run(path)
    if run.config.method != "sage":
        raise UserError(f"{path} is a run of {run.config.method}, which has no SG-Adapters to fold; sage has.")
    if run.config.settings.gate == "folded":
        raise UserError(f"{path} was trained in the folded form (gate=folded); there is nothing to fold.")
    kept, dropped = _asked(run) if without_frozen else (None, None)
    data = load_data(run.config.data)
    model = load_model(run, data.class_names).eval()
    assert isinstance(model, Sage)
    assert model.net.adapters is not None
    if without_frozen:
        model.drop_frozen()
    cpu = torch.device("cpu")
    (images,), _ = next(evaluation_batches(data.test, run.config.views, model.image_size, cpu, False,
                                           interpolation=model.interpolation))
    before, parameters = model.logits(images).prediction, count(model.net.adapters)
    model.fold()
    run.write_weights(model.trained(), run.config.network.backbone, data.class_names, "folded.safetensors")
    difference = (model.logits(images).prediction - before).abs().max().item()
    return Folding(parameters, count(model.net.adapters), difference, len(images), kept, dropped)


def _asked(run: Run) -> tuple[float, float]:
    """The validation images' mean over classes with z^v and without, 0..1; refused where it is lower without."""
    off = next((key for key in ("fit", "fit_learned") if not getattr(run.config.settings, key)), None)
    if off is not None:
        raise UserError(f"{run.path} has no z^v to drop: it was trained with {off}=false; fold it without --without-frozen.")
    if "val" not in run.records:
        raise UserError(f"{run.path} has no validation images to ask whether z^v may go; train it with --set val_share=0.1, or "
                        "fold it without --without-frozen.")
    stored = run.predictions("single", "val")
    weights = over_classes(stored.labels, stored.labels)
    kept, dropped = (float(weights @ (stored.named(stored.summed(s_v, stored.s_t).argmax(1)) == stored.labels))
                     for s_v in (stored.s_v, 0.0))
    if dropped < kept:
        raise UserError(f"without z^v the validation images' mean over classes falls from {100 * kept:.2f} to "
                        f"{100 * dropped:.2f} %; nothing was written. Fold it without --without-frozen.")
    return kept, dropped
