"""A run's network that leaves Python: ONNX; images float (B, 3, S, S) in 0..1 go in, the logits (B, C) that the run predicts
with come out. Pixels are normalised inside."""

from __future__ import annotations

import contextlib
import io
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


def export_onnx(path: Path, folded: bool = False) -> Path:
    """Write ``model.onnx`` into a run of any method, or, from what ``sagekit fold`` wrote, ``folded.onnx``; for any batch size.

    Its metadata: ``class_names`` (JSON, in the logits' order), ``image_size`` (S) and ``images`` (what goes in). Raises
    ``UserError`` when the packages for ONNX are missing, and when the network has a part that ONNX cannot hold.
    """
    try:
        import onnxscript  # noqa: F401 (torch needs it, and says so late)
    except ImportError:
        raise UserError("ONNX export needs two packages: pip install onnx onnxscript.") from None
    run = Run(path)
    model = load_model(run, run.metrics["prompt_names"], folded=folded).eval().requires_grad_(False)
    example = torch.zeros(2, 3, model.image_size, model.image_size)
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # it prints whole graphs
            warnings.simplefilter("ignore")
            program = torch.onnx.export(_Predicted(model).eval(), (example,), input_names=["images"], output_names=["logits"],
                                        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:120]
        raise UserError(f"the network of {run.config.method} cannot be exported to ONNX ({reason}).") from error
    assert program is not None
    side = model.image_size
    program.model.metadata_props.update({
        "class_names": json.dumps(run.metrics["class_names"]), "image_size": str(side), "interpolation": model.interpolation,
        "images": f"float32 (B, 3, {side}, {side}), RGB in 0..1; the network normalises them itself"})
    out = run.path / ("folded.onnx" if folded else "model.onnx")
    write_atomic(out, lambda file: program.save(str(file), external_data=False))
    return out
