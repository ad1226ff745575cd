"""The ends of shared stages: two methods with the same first stage, data and seed train it once.

A file of the cache is named by a hash of all that its content depends on: the stage (what it computes, its samplers, views,
optimizer, rate, epochs), the tensors it trains, the network, data and view settings, the training images, the seed, the
precision, the device's kind, and the versions of sagekit and torch. ``share_stages=false`` leaves it
alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..config import WHERE, Config
from ..data.splits import DataSet
from ..devices import precision
from ..errors import UserError
from ..files import load_tensors, save_tensors, write_text
from ..methods import Method, Stage
from ..networks.frozen import cache_folder
from ..version import VERSION


def place(config: Config, stage: Stage, number: int, model: Method, data: DataSet, accelerator: Accelerator) -> Path | None:
    """Where the end of ``stage`` lies or will lie; None where it is not shared: a later stage starts from the earlier ones, and
    several processes would have to agree on what is there."""
    if not stage.shared or number or not config.machine.share_stages or accelerator.num_processes > 1:
        return None
    settings = {key: value for part in (config.data, config.network, config.views)
                for key, value in part.model_dump(mode="json").items() if key not in WHERE}
    own = {n: [list(t.shape), n.startswith(stage.trains)] for n, t in _own(model, stage).items()}  # what, and whether trained
    said = [stage.shared, _described(stage), settings, config.seed, own,
            precision(config.machine, accelerator.device), config.machine.accumulate, accelerator.device.type, VERSION,
            torch.__version__]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    digest.update(data.train.labels.numpy().tobytes())
    if data.train.images is not None:
        digest.update(data.train.images.cpu().contiguous().numpy().tobytes())
    start = config.network.weights
    for path in (*(data.train.paths or ()), *((start,) if start else ())):
        status = path.stat()
        digest.update(f"{path}\n{status.st_size} {status.st_mtime_ns}\n".encode())
    return cache_folder() / f"stage-{digest.hexdigest()[:32]}.safetensors"


def _described(stage: Stage) -> dict[str, str]:
    """The stage's fields as text; functions by their names."""
    return {key: _name(value) for key, value in vars(stage).items() if key != "trains"}


def _name(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_name, value))})"
    return f"{value.__module__}.{value.__qualname__}" if callable(value) and hasattr(value, "__qualname__") else repr(value)


def _own(model: Method, stage: Stage) -> dict[str, Tensor]:
    """The parts that the stage trains something of: their parameters, trained or not, and the buffers beside them."""
    starts = (stage.trains,) if isinstance(stage.trains, str) else stage.trains
    parts = {start.partition(".")[0] for start in starts}
    return {name: t for name, t in model.trained().items() if parts == {""} or name.partition(".")[0] in parts}


def read(path: Path, model: Method) -> list[dict[str, float]] | None:
    """Fill ``model`` with a stage's end; its history, or None where there is none."""
    with contextlib.suppress(UserError, OSError, ValueError):
        tensors = load_tensors(path)
        history = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        own = model.trained()
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
        return list(history)
    return None


def write(path: Path, model: Method, stage: Stage, history: list[dict[str, float]]) -> None:
    """Keep the end of ``stage``. Does nothing where the disk is full or forbidden."""
    with contextlib.suppress(UserError, OSError):
        write_text(path.with_suffix(".json"), json.dumps(history))
        save_tensors(path, _own(model, stage))
