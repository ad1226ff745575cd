"""A folded network that leaves Python: ONNX; images float (B, 3, S, S) in 0..1 go in, logits of Eq 23 (B, C) come out."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..files import write_atomic
from ..methods import Method
from ..runs.run import Run
from .build import load_model


class _Predicted(nn.Module):
    """Images in, the logits that the model predicts with out."""

    def __init__(self, model: Method) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.logits(images).prediction


def export_onnx(path: Path) -> Path:
    """Write ``folded.onnx`` beside a run's ``folded.safetensors``, for any batch size; the class names are in its metadata.

    Raises ``UserError`` when the run is not folded yet or the packages for ONNX are missing.
    """
    try:
        import onnxscript  # noqa: F401 (torch needs it, and says so late)
    except ImportError:
        raise UserError("ONNX export needs two packages: pip install onnx onnxscript.") from None
    run = Run(path)
    names = run.metrics["prompt_names"]
    model = load_model(run, names, folded=True).eval()
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
