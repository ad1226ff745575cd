"""A run on disk: everything that is needed to repeat it, compare it and play with it.

    config.yaml           every setting
    metrics.json          what evaluation measured on the test images: all, head, medium, tail, per class, ...
    metrics-NAME.json     the same of other images: val, train, or an image list; ``split``, ``images``, ``digest``, ``results``
    history.csv           one row an epoch, counted through all stages; "waiting" are the seconds until batches were there
    predictions.npz       labels, and the logits z, z_v, z_t in half precision (``VIEWS``: "five_crops_..." and others with
                          ensembling), each image's shifted so that its largest is 0; with very many classes the likeliest
                          (``predictions``); ``files``: the images' files, relative to data_root, of a set that has files
    predictions-NAME.npz  likewise, beside each metrics-NAME.json
    weights.safetensors   trained tensors only, with backbone and class names as metadata
    state.pt              while training: what is needed to resume
    log.txt               one line an event
    texts.json            own sentences of each class, where the run was given some

Files appear whole or not at all, and nothing in them is executed when read.
"""

from __future__ import annotations

import json
import zipfile
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open
from torch import Tensor

from ..config import Config
from ..errors import UserError
from ..files import explained, load_tensors, save_tensors, write_atomic, write_text
from .predictions import Predictions

VIEWS = {"single": "", "five_crops": "five_crops_", "ten_crops": "ten_crops_", "random_crops": "random_crops_"}
"""How an image was shown, and the prefix of its arrays in ``predictions.npz``."""
SPLITS = ("train", "val", "test")
"""The run's own images, by the names of their records."""


class Run:
    """Read access to ``runs/NAME``. Every reader raises ``UserError`` with the reason when a file is missing or broken."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run at all."""
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        """Whether it was trained and measured."""
        return (self.path / "metrics.json").is_file()

    @cached_property
    def config(self) -> Config:
        """Every setting of the run."""
        if not self.exists:
            raise UserError(f"{self.path} is not a run: it has no config.yaml.")
        return Config.from_yaml(self.path / "config.yaml")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What evaluation measured on the test images."""
        metrics = _read_json(self.path / "metrics.json", f"{self.path} has no metrics.json: the run is not finished. "
                             "Continue it with --resume.")
        if not {"results", "class_names", "class_counts", "groups"} <= metrics.keys():
            raise UserError(f"{self.path / 'metrics.json'} is not the record of a run.")
        return metrics

    @property
    def records(self) -> list[str]:
        """What it was measured on: ``test`` first, then the other records by name."""
        others = sorted(path.stem.removeprefix("metrics-") for path in self.path.glob("metrics-*.json"))
        return ["test"] * self.finished + others

    def record(self, split: str = "test") -> dict[str, Any]:
        """What was measured on the images of ``split``: ``split``, ``images`` (how many), ``digest`` (``Split.digest``),
        ``results`` by view, ``versions``; for the test all of ``metrics`` too."""
        if split == "test":
            metrics = self.metrics
            return {**metrics, "split": split, "images": metrics.get("test_images"), "digest": metrics.get("test_digest")}
        file = self.file("metrics", split)
        found = _read_json(file, f"{self.path} has no record of '{split}'; run `sagekit evaluate {self.path} --split {split}`.")
        if not {"results", "images", "digest"} <= found.keys():
            raise UserError(f"{file} is not a record of a run.")
        return found

    def file(self, kind: str, split: str) -> Path:
        """The file of ``kind`` (metrics or predictions) of a split's record."""
        return self.path / f"{kind}{'' if split == 'test' else f'-{split}'}{'.json' if kind == 'metrics' else '.npz'}"

    def groups(self, definition: str = "own") -> dict[str, np.ndarray]:
        """Class indices of head, medium and tail. Raises ``UserError`` where the run's data have no such definition."""
        known = self.metrics["groups"]
        if definition not in known:
            raise UserError(f"{self.path} has no groups '{definition}'; it has {', '.join(known)}.")
        return {group: np.array(classes, int) for group, classes in known[definition].items()}

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch; empty for a run without training."""
        try:
            return pd.read_csv(self.path / "history.csv")
        except (FileNotFoundError, pd.errors.EmptyDataError):
            return pd.DataFrame()
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / 'history.csv'} is damaged ({error}).") from None

    @property
    def seconds_left(self) -> float:
        """What the epochs that are still to do will cost, by the mean of those that are done; nan before the first."""
        history = self.history
        if not len(history):
            return float("nan")
        return float(history["seconds"].mean() * (self.config.epochs - len(history)))

    def predictions(self, view: str = "single", split: str = "test") -> Predictions:
        """The stored logits of one way of showing the images (``VIEWS``) of one of ``records``."""
        file, prefix = self.file("predictions", split), VIEWS[view]
        command = f"`sagekit evaluate {self.path}" + ("" if split == "test" else f" --split {split}")
        try:
            with np.load(file, allow_pickle=False) as arrays:
                z, z_v, z_t, rest = (arrays[prefix + name].astype(np.float32) if prefix + name in arrays else None
                                     for name in ("z", "z_v", "z_t", "rest"))
                classes = arrays.get(prefix + "classes")
                labels, files, (s_v, s_t) = arrays["labels"], arrays.get("files"), arrays["scalars"].tolist()
        except FileNotFoundError:
            raise UserError(f"{self.path} has no {file.name}; run {command}`.") from None
        except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
            raise UserError(f"{file} is damaged ({error}).") from None
        if z is None:
            raise UserError(f"{self.path} has no '{view}' predictions of '{split}'; run {command} --ensemble {view}`.")
        if any(part is not None and (part.ndim != 2 or len(part) != len(labels)) for part in (z, z_v, z_t, classes)):
            raise UserError(f"{file} is damaged: its arrays have different lengths.")
        if classes is not None and (rest is None or classes.shape != z.shape or len(rest) != len(z)):
            raise UserError(f"{file} is damaged: its classes do not fit its logits.")
        if files is not None and files.shape != labels.shape:
            raise UserError(f"{file} is damaged: it names {files.size} files for {len(labels)} images.")
        return Predictions(labels, z, z_v, z_t, s_v, s_t, classes, rest, files)

    @cached_property
    def sentences(self) -> list[list[str]] | None:
        """Own sentences of each class that the run was trained with; None: prompts."""
        file = self.path / "texts.json"
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is damaged ({error}).") from None

    def weights(self, file: str = "weights.safetensors") -> dict[str, Tensor]:
        """The trained tensors."""
        return load_tensors(self.path / file)

    def check_fits(self, backbone: str, class_names: list[str], file: str = "weights.safetensors") -> None:
        """Raise ``UserError`` unless the weights were trained on this backbone and these classes."""
        load_tensors(self.path / file)
        with safe_open(self.path / file, framework="pt") as tensors:
            said = tensors.metadata() or {}
        if said.get("backbone") != backbone:
            raise UserError(f"{self.path} was trained on the backbone '{said.get('backbone')}', not on '{backbone}'.")
        names = json.loads(said.get("class_names", "[]"))
        if len(names) != len(class_names):
            raise UserError(f"{self.path} was trained for {len(names)} classes; the data has {len(class_names)}.")
        odd = next((i for i, (a, b) in enumerate(zip(names, class_names, strict=True)) if a != b), None)
        if odd is not None:
            raise UserError(f"{self.path} knows class {odd} as '{names[odd]}'; the data calls it '{class_names[odd]}'.")

    # --- writing ---

    def write_config(self, config: Config) -> None:
        """Write ``config.yaml``."""
        write_text(self.path / "config.yaml", config.to_yaml())

    def write_metrics(self, metrics: dict[str, Any], split: str = "test") -> None:
        """Write ``metrics.json``, or the record of another split."""
        write_text(self.file("metrics", split), json.dumps(metrics, indent=1) + "\n")
        self.__dict__.pop("metrics", None)

    def write_sentences(self, sentences: list[list[str]]) -> None:
        """Write ``texts.json``."""
        write_text(self.path / "texts.json", json.dumps(sentences, indent=1, ensure_ascii=False) + "\n")

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write ``history.csv``, one row an epoch."""
        write_atomic(self.path / "history.csv", lambda path: pd.DataFrame(rows).to_csv(path, index=False))
        self.__dict__.pop("history", None)

    def write_predictions(self, views: dict[str, Predictions], split: str = "test") -> None:
        """Store each view's logits in half precision, shifted so that an image's largest is 0.

        A constant added to an image's logits changes no probability and no prediction, also after Eq 23; near 0, where the
        likely classes now are, half precision is fine.
        """
        arrays: dict[str, np.ndarray] = {}
        for view, p in views.items():
            prefix, shift = VIEWS[view], np.zeros(len(p.labels))
            for name, part, scale in (("z", p.z, 1.0), ("z_v", p.z_v, p.s_v), ("z_t", p.z_t, p.s_t)):
                if part is not None:
                    largest = part.max(1)
                    arrays[prefix + name] = (part - largest[:, None]).astype(np.float16)
                    shift += scale * largest
            if p.classes is not None and p.rest is not None:
                arrays |= {prefix + "classes": p.classes, prefix + "rest": (p.rest - shift).astype(np.float32)}
            arrays |= {"labels": p.labels, "scalars": np.array([p.s_v, p.s_t])}
            if p.files is not None:
                arrays["files"] = p.files

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        write_atomic(self.file("predictions", split), write)

    def write_weights(self, tensors: dict[str, Tensor], backbone: str, class_names: list[str],
                      file: str = "weights.safetensors") -> None:
        """Write the trained tensors with what they belong to."""
        save_tensors(self.path / file, tensors, {"backbone": backbone, "class_names": json.dumps(class_names)})

    def log(self, text: str) -> None:
        """Append one line with the time to ``log.txt``."""
        with explained(self.path / "log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}  {text}\n")


def _read_json(file: Path, missing: str) -> dict[str, Any]:
    """A record's content; ``missing`` says what to do where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(missing) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not the record of a run.")
    return content


def find_runs(folder: Path) -> list[Run]:
    """Every run directly in ``folder``, by name."""
    return [Run(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
