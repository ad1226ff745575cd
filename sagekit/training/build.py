"""From a configuration or a run to the network: built fresh, or with the run's trained tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from .. import methods
from ..config import WHERE, Config
from ..data.splits import DataSet
from ..data.world import CLASS_NAMES
from ..errors import UserError
from ..methods import Method, Task
from ..networks.backbone import Backbone, load_backbone
from ..runs.run import Run


def build_model(config: Config, class_names: Sequence[str] | None = None, backbone: Backbone | None = None,
                device: torch.device | str = "cpu", class_counts: Sequence[int] | None = None,
                sentences: list[list[str]] | None = None) -> Method:
    """The method of ``config`` for ``class_names`` on ``device``, freshly initialised from ``config.seed``.

    ``class_names`` may be left out for the mini world. ``backbone`` saves loading the frozen weights again. ``class_counts``
    (C,) are training images a class, which only training needs (1 each without them). ``sentences`` are each class's own, in
    place of prompts. Raises ``UserError`` as ``load_backbone`` does. """
    if class_names is None and config.data.dataset != "world":
        raise UserError("the class names of this data set are needed; load_data(config.data).class_names has them.")
    known = list(CLASS_NAMES if class_names is None else class_names)
    method = methods.load(config.method)
    if config.needs == "clip":
        backbone = (backbone or load_backbone(config.network)).to(device)
    counts = torch.ones(len(known), dtype=torch.long) if class_counts is None else torch.as_tensor(class_counts)
    clip = backbone if config.needs == "clip" else None
    size = config.network.image_size if clip is None else clip.image_size
    network = config.network
    task = Task(known, counts, size, clip, config.machine.checkpointing, network.backbone, network.weights, sentences)
    torch.manual_seed(config.seed)
    return method(config.settings, task).to(device)


def teacher_of(config: Config) -> Path | None:
    """The folder of the run that ``config`` is taught by."""
    return getattr(config.settings, "teacher", None)


def load_teacher(config: Config, data: DataSet, device: torch.device | str = "cpu") -> Method:
    """The trained model of ``config``'s teacher, frozen and in test mode.

    Raises ``UserError`` for a run that is not finished, or of other images, classes or image size."""
    run = Run(cast(Path, teacher_of(config)))
    if not run.finished:
        raise UserError(f"the teacher {run.path} is no finished run; train it, or leave out teacher.")
    odd = next((key for key, value in config.data if key not in WHERE and run.config.flat.get(key) != value), None)
    if odd is not None:
        raise UserError(f"the teacher {run.path} was trained on other data: its {odd} is {run.config.flat.get(odd)}, not "
                        f"{config.flat[odd]}.")
    model = load_model(run, data.class_names, device=device)
    if model.image_size != config.network.image_size:
        raise UserError(f"the teacher {run.path} sees {model.image_size} pixels and the student {config.network.image_size}; "
                        "they have to see the same view.")
    return model.eval().requires_grad_(False)


def load_model(run: Run, class_names: list[str], backbone: Backbone | None = None, folded: bool = False,
               device: torch.device | str = "cpu", config: Config | None = None) -> Method:
    """The trained model of ``run`` for data with ``class_names``; ``folded`` loads what ``sagekit fold`` wrote. ``config`` is
    the run's with this machine's settings."""
    config = config or run.config
    if not config.stages:  # nothing was trained
        return build_model(config, class_names, backbone, device, sentences=run.sentences)
    file = "folded.safetensors" if folded else "weights.safetensors"
    run.check_fits(backbone.name if backbone else config.network.backbone, class_names, file)
    model = build_model(config, class_names, backbone, device, sentences=run.sentences)
    if folded:
        model.fold()  # type: ignore[operator]  # whoever wrote the file could
    for stage in range(len(config.stages)):
        model.start_stage(stage)  # the shape that the last stage left
    model.load_trained(run.weights(file), str(run.path / file))
    return model.to(device)  # a stage may have put a new part on the CPU
