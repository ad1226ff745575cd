"""Measuring a model: logits by view, the measures of ``metrics``, and the records of a run, one for each set of images.

A "view" is how an image is shown: ``single`` (resize, centre crop), or ``five_crops``, ``ten_crops`` or ``random_crops``
(their logits averaged, finding 10). Every number says which. A record is of certain images, and their digest is in it: the same
images may be measured again, others get a record of their own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..config import WHERE, Config
from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..data.lists import read_list
from ..data.longtail import Groups
from ..data.splits import DataSet, Split
from ..devices import accelerator_for, measuring_precision, precision
from ..errors import UserError
from ..methods import Method, Seen
from ..networks import frozen
from ..networks.heads import Features, Logits
from ..progress import bar
from ..runs.metrics import measure
from ..runs.predictions import ALL, KEPT, Predictions, joined, reduced
from ..runs.run import SPLITS, Run
from ..settings import Ensemble
from ..version import VERSION
from .build import load_model

ENSEMBLES: tuple[Ensemble, ...] = get_args(Ensemble)
MAY_DIFFER = WHERE | {"weights"}
"""What a run may be measured with that it was not trained with: where things are, not what they are."""


@torch.no_grad()
def predict(model: Method, split: Split, config: Config, accelerator: Accelerator, ensembling: bool = False,
            show: bool = True, what: str = "test") -> Predictions:
    """Logits of every image of ``split``, in order; with several processes each computes a share. ``what`` the bar says.

    ``ensembling``: crops (``config.views.ensemble``) are averaged logit by logit, z, z_v and z_t alike. Frozen features are
    computed once for all runs (``frozen``).
    """
    shown = config.views
    if shown.ensemble_margin is None:
        shown = shown.model_copy(update={"ensemble_margin": model.margin})
    device, processes = accelerator.device, accelerator.num_processes
    batches = evaluation_batches(split, shown, model.image_size, device, ensembling, accelerator.process_index,
                                 processes, config.machine.workers, interpolation=model.interpolation)
    model.eval()
    show = show and accelerator.is_main_process
    backbone = model.frozen_backbone()
    place = None
    if backbone is not None:
        place = frozen.place(backbone, split, shown, model.interpolation, config.machine, device, ensembling, show)
    known = None if place is None else frozen.read(place, len(split))
    scalars = (model.scalars().get("s_v", 0.0), model.scalars().get("s_t", 0.0))
    parts = []
    progress = bar(total=len(split), what=what + f", {shown.ensemble.replace('_', ' ')}" * ensembling, show=show)
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
    whole = joined([(index.numpy(), found) for index, found, _ in parts])
    whole.files = None if split.paths is None else np.array(split.names(config.data.data_root))
    return whole


@torch.no_grad()
def seen(model: Method, split: Split, config: Config, accelerator: Accelerator) -> Seen:
    """Features of every image of ``split`` in the single view, in order; every process has them all."""
    model.eval()
    parts = []
    for (crop,), index in evaluation_batches(split, config.views, model.image_size, accelerator.device, False,
                                             accelerator.process_index, accelerator.num_processes, config.machine.workers,
                                             interpolation=model.interpolation):
        with measuring_precision(config.machine, crop.device):
            parts.append((index, model.shown(crop).float().cpu()))
    parts = gather_object(parts)
    order = torch.cat([index for index, _ in parts]).argsort()
    return Seen(torch.cat([own for _, own in parts])[order], split.labels)


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


@dataclass
class _Measuring:
    """What every record of a run is made with."""

    run: Run
    model: Method
    config: Config
    accelerator: Accelerator
    ensembles: Sequence[Ensemble]
    show: bool
    folded: bool

    def record(self, name: str, split: Split, classes: int, groups: Mapping[str, Groups], about: dict[str, Any]) -> None:
        """Predict ``split`` and write its predictions and its record, which opens with ``about``."""
        views = {"single": predict(self.model, split, self.config, self.accelerator, False, self.show, name)}
        for ensemble in self.ensembles:
            config = self.config.changed(ensemble=ensemble)
            views[ensemble] = predict(self.model, split, config, self.accelerator, True, self.show, name)
        if self.accelerator.is_main_process:
            self.run.write_predictions(views, name)
            self.run.write_metrics({
                **about,
                "precision": precision(self.config.machine, self.accelerator.device),
                "versions": {"sagekit": VERSION, "method": self.model.version, "torch": torch.__version__},
                "folded": self.folded,
                # Of what was stored, so that whoever reads the predictions finds the same numbers.
                "results": {view: measure(self.run.predictions(view, name), classes, groups) for view in views},
            }, name)
        self.accelerator.wait_for_everyone()

    def of_data(self, name: str, split: Split, data: DataSet) -> None:
        """The record ``name`` of one of the data's splits."""
        about = _about(name, split, self.config)
        if name == "test":
            about = self._about_run(data, about["digest"])
        self.record(name, split, len(data.class_names), data.groups, about)

    def _about_run(self, data: DataSet, digest: str) -> dict[str, Any]:
        history = self.run.history
        return {
            "data": data.name,
            "mini_world": self.config.data.dataset == "world",
            "test_images": len(data.test),
            "test_digest": digest,
            "class_names": data.shown_names,
            "prompt_names": data.class_names,
            "class_counts": data.class_counts.tolist(),
            "groups": {name: {group: classes.tolist() for group, classes in of.items()} for name, of in data.groups.items()},
            "thresholds": [self.config.data.head_above, self.config.data.tail_below],
            "skipped_files": data.skipped,
            "list_labels": data.labels,
            "notes": data.notes,
            "trainable_parameters": self.model.parameter_counts(),
            "train_seconds": float(history["seconds"].sum()) if len(history) else 0.0,
        }


def _about(name: str, split: Split, config: Config) -> dict[str, Any]:
    return {"split": name, "images": len(split), "digest": split.digest(config.machine.workers)}


def record(run: Run, model: Method, data: DataSet, config: Config, accelerator: Accelerator, show: bool = True) -> None:
    """What a training leaves: a record of the validation images, where there are some, and then that of the test images, which
    says that the run is finished."""
    ensembles: list[Ensemble] = [config.views.ensemble] if config.views.ensembling else []
    measuring = _Measuring(run, model, config, accelerator, ensembles, show, folded=False)
    if data.val is not None:
        measuring.of_data("val", data.val, data)
    measuring.of_data("test", data.test, data)


def check_changes(keys: Iterable[str]) -> None:
    """Raise ``UserError`` for a setting that is not of this machine alone (``MAY_DIFFER``)."""
    odd = next((key for key in keys if key not in MAY_DIFFER), None)
    if odd:
        raise UserError(f"'{odd}' would change what is measured, and the record would not say so; train a run with it. "
                        f"Settings of this machine are {', '.join(sorted(MAY_DIFFER))}.")


def evaluate(run: Run | Path | str, ensembling: bool | None = None, folded: bool = False, show: bool = True,
             split: str | Path = "test", name: str | None = None, ensemble: str | None = None,
             **changes: Any) -> dict[str, Any]:
    """Measure a trained run and write the predictions and the record of ``split``; returns the record (``Run.record``).

    ``split``: train, val or test of the run's own data, or an image list ("path label" a line, labels as the run's classes,
    paths relative to data_root). ``name``: of the record; a split's is its own, a list's its file's, without suffix.
    ``ensembling`` adds crops, those of ``ensemble`` or of the run's setting (default: where the run was configured so); what
    crops the record has are measured again, and none with ``ensembling=False``. ``changes`` are settings of this machine
    (``MAY_DIFFER``). Raises ``UserError`` for others, for an unknown ensemble, when the run's weights do not fit, and when the
    record would replace one of other images.
    """
    run = run if isinstance(run, Run) else Run(run)
    check_changes(changes)
    if ensemble is not None and ensemble not in ENSEMBLES:
        raise UserError(f"there is no ensemble '{ensemble}'; there are {', '.join(ENSEMBLES)}.")
    name = _record_name(str(split), name)
    config = run.config.changed(**changes) if changes else run.config
    data = load_data(config.data, config.machine.workers, show) if str(split) in SPLITS else None
    images = _listed(run, Path(split), config, show) if data is None else _own(run, str(split), data)
    class_names = run.metrics["prompt_names"] if data is None else data.class_names
    _same_images(run, name, images, config)
    accelerator = accelerator_for(config.machine)
    model = load_model(run, class_names, None, folded, accelerator.device, config)
    asked = ensemble or config.views.ensemble
    wanted = {*(run.record(name)["results"] if name in run.records else ()),
              *[asked] * (ensemble is not None or bool(ensembling) or config.views.ensembling)}
    ensembles = [] if ensembling is False else [known for known in ENSEMBLES if known in wanted]
    measuring = _Measuring(run, model, config, accelerator, ensembles, show, folded)
    if data is None:
        groups = {definition: run.groups(definition) for definition in run.metrics["groups"]}
        measuring.record(name, images, len(class_names), groups, _about(name, images, config))
    else:
        measuring.of_data(name, images, data)
    return run.record(name)


def _own(run: Run, split: str, data: DataSet) -> Split:
    """One of the run's own splits."""
    if split not in data.splits:
        raise UserError(f"{run.path} has no validation images: its data names none. Train with val_share (or val_list, or "
                        "a folder val), or name an image list.")
    if run.finished and run.metrics["prompt_names"] != data.class_names:
        raise UserError(f"{run.path} and the data have other classes; name the run's own data with --data-root.")
    return data.splits[split]


def _listed(run: Run, file: Path, config: Config, show: bool) -> Split:
    """The images of a list, in the run's own classes."""
    root = config.data.data_root
    if not file.is_file() and not (root / file).is_file():
        raise UserError(f"there is no split '{file}', and no image list of that name; splits are {', '.join(SPLITS)}.")
    file = file if file.is_file() else root / file
    images, notes = read_list(file.resolve(), root)
    known = run.metrics["list_labels"] or list(range(len(run.metrics["class_names"])))
    places = {label: place for place, label in enumerate(known)}  # the run's own lists may have started at 1, or lost a class
    odd = next((label for label in images.labels.tolist() if label not in places), None)
    if odd is not None:
        raise UserError(f"{file} has the label {odd}; the run has {len(known)} classes, {min(known)}..{max(known)}.")
    images.labels = torch.tensor([places[label] for label in images.labels.tolist()])
    if show and notes:
        print("\n".join(notes), file=sys.stderr)
    return images


def _record_name(split: str, name: str | None) -> str:
    """``name``, or what a split's record is called without one."""
    chosen = name or (split if split in SPLITS else Path(split).stem)
    if chosen in SPLITS and chosen != split:
        raise UserError(f"'{chosen}' is the record of the run's own {chosen} images; choose another with --name.")
    if not re.fullmatch(r"\w[\w.-]*", chosen):
        raise UserError(f"'{chosen}' is no name for a record: letters, digits, '.', '_' and '-' make one; say --name NAME.")
    return chosen


def _same_images(run: Run, name: str, images: Split, config: Config) -> None:
    """Raise ``UserError`` where the record ``name`` is there and is of other images."""
    if name in run.records and run.record(name)["digest"] != images.digest(config.machine.workers):
        raise UserError(f"{run.file('metrics', name)} is of other images and is not overwritten; give this record a name of "
                        "its own with --name NAME.")
