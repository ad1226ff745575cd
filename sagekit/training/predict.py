"""Using a run: its classes for any images, one row an image, in batches, so that a million images need no more memory than a
hundred.

    file                       absolute path; of a split that is held in memory: the place in it
    class, probability         the likeliest class and its softmax probability (0..1); then class_2, probability_2, ...
    true_class, right          with the run's own splits only
    error                      why a file could not be read; its classes are then empty

The training data is not needed: class names come from the run's record.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data import photos
from ..data.batches import evaluation_batches
from ..data.datasets import load_data
from ..data.folders import hidden
from ..data.splits import Split
from ..data.views import Interpolation
from ..devices import accelerator_for, measuring_precision
from ..errors import UserError
from ..files import explained, write_atomic
from ..methods import Method
from ..progress import bar
from ..runs.run import SPLITS, Run
from ..settings import ViewSettings
from .build import load_model
from .evaluate import check_changes

BATCH = 64


class Part(NamedTuple):
    """A batch: ``rows`` (n) with the columns above, and the tuned features (n, d), float32, nan where a file was not read."""

    rows: pd.DataFrame
    features: np.ndarray


def predict(run: Run | Path | str, images: Path | str | Sequence[Path] | None = None, split: str | None = None, top: int = 5,
            show: bool = True, **changes: Any) -> Iterator[Part]:
    """The ``top`` likeliest classes of ``images`` (what ``found_images`` takes, or paths), or of the run's own ``split``.

    ``pd.concat(part.rows for part in predict(run, "photos"))`` is the whole table. ``changes`` are settings of this machine
    (``evaluate.MAY_DIFFER``). A damaged file gets a row with its ``error``. Raises ``UserError`` before the first row when the
    run is not finished or the images are not there.
    """
    run = run if isinstance(run, Run) else Run(run)
    check_changes(changes)
    config = run.config.changed(**changes) if changes else run.config
    names, prompts = run.metrics["class_names"], run.metrics["prompt_names"]
    if (images is None) == (split is None):
        raise UserError("name either images (a folder, a file, or a list) or --split test, val or train.")
    if split is not None:
        chosen = _own(load_data(config.data, config.machine.workers, show).splits, split, run)
        truth = np.array(names, object)[chosen.labels.numpy()]
    else:
        paths = found_images(Path(images), changes.get("data_root")) if isinstance(images, (str, Path)) else list(images or ())
        if not paths:
            raise UserError("there are no images to predict.")
        chosen, truth = Split(torch.zeros(len(paths), dtype=torch.long), paths=paths), None
    files = [str(place) for place in range(len(chosen))] if chosen.paths is None else list(map(os.path.abspath, chosen.paths))
    accelerator = accelerator_for(config.machine)
    if accelerator.num_processes > 1:
        raise UserError("predicting runs in one process; start it without accelerate.")
    model = load_model(run, prompts, None, False, accelerator.device, config).eval()
    return _parts(model, chosen, files, names, truth, min(top, len(names)), config, accelerator.device, show)


def _own(splits: dict[str, Split], name: str, run: Run) -> Split:
    if name not in splits:
        raise UserError(f"{run.path} has no {name} images." if name in SPLITS else
                        f"there is no split '{name}'; splits are {', '.join(SPLITS)}.")
    return splits[name]


def found_images(place: Path, root: Path | None = None) -> list[Path]:
    """A folder's images at any depth, but for hidden and system entries; a list's (``.txt``: a path a line, relative to
    ``root``, or else to the list's folder); or one image. Raises ``UserError`` where there is none."""
    if place.is_dir():
        paths = [Path(folder) / name for folder, names in _walked(place) for name in names
                 if Path(name).suffix.lower() in photos.SUFFIXES]
        if not paths:
            raise UserError(f"there are no images in {place}.")
        return paths
    if not place.is_file():
        raise UserError(f"there is no folder, list or image {place}.")
    if place.suffix.lower() != ".txt":
        return [place]
    lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    paths = [(root or place.parent) / line.strip() for line in lines if line.strip()]
    if not any(path.is_file() for path in paths):
        raise UserError(f"{place} names {len(paths):,} files and none of them is there"
                        f"{f' (first: {paths[0]})' if paths else ''}; --data-root says what paths are relative to.")
    return paths


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        yield here, sorted(name for name in files if not hidden(name))


def _parts(model: Method, split: Split, files: list[str], names: list[str], truth: np.ndarray | None, top: int, config: Any,
           device: torch.device, show: bool) -> Iterator[Part]:
    with bar(total=len(split), what="predict", show=show) as progress:
        for pixels, errors, index in _views(split, config.views, model, device, config.machine.workers):
            chances, classes, features = _answers(model, pixels, top, config.machine)
            bad = np.array([bool(error) for error in errors])
            columns: dict[str, Any] = {"file": [files[i] for i in index]}
            for k in range(top):
                said = np.where(bad, "", np.array(names, object)[classes[:, k]])
                end = f"_{k + 1}" if k else ""
                columns |= {f"class{end}": said, f"probability{end}": np.where(bad, np.nan, chances[:, k])}
            if truth is not None:
                columns |= {"true_class": truth[index], "right": columns["class"] == truth[index]}
            features[bad] = np.nan
            yield Part(pd.DataFrame({**columns, "error": errors}), features)
            progress.update(len(index))


@torch.no_grad()
def _answers(model: Method, pixels: Tensor, top: int, machine: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities and classes (n, top), likeliest first, and features (n, d)."""
    with measuring_precision(machine, pixels.device):
        features = model.features(pixels)
    found = model.head_of(features).prediction.float().softmax(-1).topk(top)
    return found.values.cpu().numpy(), found.indices.cpu().numpy(), features.own.float().cpu().numpy().copy()


def _views(split: Split, settings: ViewSettings, model: Method, device: torch.device,
           workers: int) -> Iterator[tuple[Tensor, list[str], list[int]]]:
    """Centre views (n, 3, S, S) as ``model`` sees them, in order, why a file has none (or ""), and the places."""
    if split.images is not None:
        for (shown,), index in evaluation_batches(split, settings, model.image_size, device, False,
                                                   interpolation=model.interpolation):
            yield shown, [""] * len(index), index.tolist()
        return
    files = _Files(split.paths or [], model.image_size, settings, model.interpolation)
    loader = DataLoader(files, BATCH, num_workers=workers, pin_memory=device.type == "cuda")
    done = 0
    for pixels, errors in loader:
        yield pixels.to(device, non_blocking=True), list(errors), list(range(done, done + len(errors)))
        done += len(errors)


@dataclass
class _Files(Dataset[tuple[Tensor, str]]):
    """Each file's centre view, or black pixels and the reason."""

    paths: Sequence[Path]
    size: int
    settings: ViewSettings
    interpolation: Interpolation

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor, str]:
        try:
            return photos.evaluation_views(self.paths[place], self.size, self.settings, False, self.interpolation)[0], ""
        except Exception as error:  # whatever a damaged file makes Pillow raise: it must not end a long run
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            return torch.zeros(3, self.size, self.size), reason


def save(parts: Iterator[Part], csv: Path | None, embeddings: Path | None = None) -> tuple[pd.DataFrame, int, int]:
    """Write ``parts`` as they come: rows to ``csv``, and ``features`` (N, d) with ``files`` (N,) of the files that could be
    read to ``embeddings`` (npz). Each file appears when it is whole. Returns the first batch's rows, the number of rows, and of
    those with an error; each of these is a line on stderr."""
    kept: list[pd.DataFrame] = []
    count = [0, 0]

    def told() -> Iterator[Part]:
        for part in parts:
            kept[:] = kept or [part.rows]
            bad = part.rows[part.rows["error"] != ""]
            for row in bad.itertuples():
                line = str(row.error) if str(row.file) in str(row.error) else f"{row.file}: {row.error}"
                tqdm.write(f"sagekit: {line}", file=sys.stderr)
            count[0], count[1] = count[0] + len(part.rows), count[1] + len(bad)
            yield part

    _through(told(), csv, embeddings)
    return kept[0] if kept else pd.DataFrame(), count[0], count[1]


def _through(parts: Iterator[Part], csv: Path | None, embeddings: Path | None) -> None:
    if csv is not None:
        write_atomic(csv, lambda path: _through(_into_csv(parts, path), None, embeddings))
    elif embeddings is not None:
        write_atomic(embeddings, lambda path: _into_npz(parts, path))
    else:
        for _ in parts:
            pass


def _into_csv(parts: Iterator[Part], path: Path) -> Iterator[Part]:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            part.rows.to_csv(file, index=False, header=number == 0, float_format="%.6f")
            yield part


def _into_npz(parts: Iterator[Part], path: Path) -> None:
    """Features go to a file without a name first: an npz wants to know how many there are."""
    files: list[str] = []
    first = next(parts)
    width = first.features.shape[1]
    with explained(path), tempfile.TemporaryFile(dir=path.parent) as raw, path.open("wb") as file:
        for part in chain([first], parts):
            read = (part.rows["error"] == "").to_numpy()
            files += part.rows["file"][read].tolist()
            raw.write(part.features[read].tobytes())
        raw.flush()
        shape = (len(files), width)
        features = np.memmap(raw, np.float32, "r", shape=shape) if files else np.zeros(shape, np.float32)
        np.savez(file, allow_pickle=False, features=features, files=np.array(files, str))
