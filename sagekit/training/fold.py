"""Folding a trained Sage run (finding 4): each SG-Adapter becomes a plain bottleneck adapter with the same output.

The folded network can leave Python: ``export_onnx`` writes it as ONNX; images float (B, 3, S, S) in 0..1 go in, logits of Eq 23
(B, C) come out.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..errors import UserError
from ..files import write_atomic
from ..networks.adapters import count
from ..networks.tuned import Model
from ..runs.run import Run
from .evaluate import load_model


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


class _Predicted(nn.Module):
    """Images in, the logits that the model predicts with out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).prediction


def export_onnx(path: Path) -> Path:
    """Write ``folded.onnx`` beside a run's ``folded.safetensors``, for any batch size; the class names are in its metadata.

    Raises ``UserError`` when the run is not folded yet or the packages for ONNX are missing.
    """
    try:
        import onnxscript  # noqa: F401 (torch needs it, and says so late)
    except ImportError:
        raise UserError("ONNX export needs two packages: pip install onnx onnxscript.") from None
    run = Run(path)
    names = run.metrics["class_names"]
    model = load_model(run, names, folded=True).eval()
    assert isinstance(model, Model)  # others have no folded weights
    example = torch.zeros(2, 3, model.image_size, model.image_size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(_Predicted(model).eval(), (example,), input_names=["images"], output_names=["logits"],
                                    dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False)
    assert program is not None
    program.model.metadata_props["class_names"] = json.dumps(names)
    out = run.path / "folded.onnx"
    write_atomic(out, lambda file: program.save(str(file), external_data=False))
    return out
