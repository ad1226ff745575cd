"""Every run of a folder, the broken ones with their reason: what a listing can say without opening a model.

    finished      measured, and its files agree
    unfinished    started; it is training, or was stopped
    broken        a file is missing, damaged, or does not fit the others

Only headers of predictions are read, so hundreds of runs take seconds. ``stamp`` is what a cache keys a run by.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import UserError
from . import compare
from .metrics import group_names
from .run import VIEWS, Run

FILES = ("config.yaml", "metrics.json", "history.csv", "predictions.npz", "weights.safetensors", "log.txt", "error.txt")
Stamp = tuple[tuple[int, int], ...]


def folders(base: Path) -> list[Path]:
    """``base`` and the folders one level below it that hold runs directly, by name; only those with at least one run."""
    below = sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    return [folder for folder in (base, *below) if run_paths(folder)]


def run_paths(folder: Path) -> list[Path]:
    """Folders directly in ``folder`` that are runs, or were: any of a run's own files is there."""
    own = ("config.yaml", "metrics.json", "predictions.npz")
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and any((path / name).is_file() for name in own))


def sweeps(base: Path) -> list[Path]:
    """Folders directly in ``base`` that hold a sweep's or a study's table (``results.csv``)."""
    return sorted(path.parent for path in base.glob("*/results.csv"))


def read_sweep(folder: Path) -> pd.DataFrame:
    """A sweep's ``results.csv``. Raises ``UserError`` when it is damaged."""
    wanted = {"row", "seed", "status", "error", "path"}
    try:
        frame = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{folder / 'results.csv'} is damaged ({str(error).splitlines()[0]}).") from None
    if not wanted <= set(frame.columns):
        raise UserError(f"{folder / 'results.csv'} is damaged: it has no column '{min(wanted - set(frame.columns))}'.")
    return frame


def stamp(path: Path) -> Stamp:
    """Time and size of each of a run's files: another stamp means that something has changed."""
    result = []
    for name in (*FILES, *sorted(file.name for file in path.glob("*-*") if file.suffix in (".json", ".npz"))):
        try:
            status = (path / name).stat()
            result.append((status.st_mtime_ns, status.st_size))
        except OSError:
            result.append((0, 0))
    return tuple(result)


def problem(run: Run) -> str:
    """Why a finished or unfinished run cannot be used, in one line; empty when it can."""
    try:
        config = run.config
        history = run.history
        if config.epochs and len(history) and not {"epoch", "loss", "seconds"} <= set(history.columns):
            raise UserError(f"{run.path / 'history.csv'} is damaged: columns are missing.")
        if run.finished:
            for definition in run.metrics["groups"]:
                compare.line(run, definition=definition)
            _check_shapes(run)
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a file of ours with other content
        return f"{run.path / 'metrics.json'} is not the record of a run ({type(error).__name__}: {error})."
    return ""


def _check_shapes(run: Run) -> None:
    """The arrays' headers against ``metrics.json``."""
    file, images, classes = run.path / "predictions.npz", run.metrics["test_images"], len(run.metrics["class_names"])
    try:
        shapes = _headers(file)
    except FileNotFoundError:
        raise UserError(f"{run.path} has no predictions.npz; run `sagekit evaluate {run.path}`.") from None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}).") from None
    wanted: dict[str, tuple[int, ...]] = {"labels": (images,), "scalars": (2,), "z": (images, classes)}
    for prefix in VIEWS.values():
        kept = shapes.get(prefix + "classes", (images, classes))[-1:]  # not all classes may be stored
        wanted |= {prefix + z: (images, *kept) for z in ("z", "z_v", "z_t", "classes") if prefix + z in shapes}
    if "files" in shapes:
        wanted["files"] = (images,)
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            raise UserError(f"{file} is damaged: '{name}' has the shape {shapes.get(name)} in place of {shape}.")
    if (counts := len(run.metrics["class_counts"])) != classes:
        raise UserError(f"{run.path / 'metrics.json'} is damaged: {counts} counts for {classes} classes.")


def _headers(file: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[name.removesuffix(".npy")] = read(member)[0]
    return shapes


def row(path: Path) -> dict[str, object]:
    """One run's line: ``run``, ``status``, ``problem``, and for a usable one its method, preset, seed and data; for a finished
    one also accuracies (percent, with ends of the Wilson interval) by view and definition as ``VIEW/DEFINITION/mean_low``."""
    run = Run(path)
    reason = problem(run)
    status = "broken" if reason else "finished" if run.finished else "unfinished"
    line: dict[str, object] = {"run": run.name, "path": str(path), "status": status, "problem": reason}
    if reason:
        return line
    config = run.config
    line |= {"method": config.method, "preset": config.preset_name, "seed": config.seed, "epochs": config.epochs,
             "changed": path.stat().st_mtime}
    if status == "unfinished":
        error = path / "error.txt"
        failure = error.read_text(encoding="utf-8", errors="replace").strip() if error.is_file() else ""
        return line | {"done": len(run.history), "problem": failure}
    metrics = run.metrics
    line |= {"data": metrics["data"], "mini_world": bool(metrics["mini_world"]), "images": metrics["test_images"],
             "parameters": sum(metrics["trainable_parameters"].values()), "seconds": metrics["train_seconds"],
             "balanced": all(result["balanced"] for result in metrics["results"].values())}
    for view in metrics["results"]:
        for definition in metrics["groups"]:
            found = compare.line(run, view, definition)
            line |= {f"{view}/{definition}/{g}{end}": found[g + end] for g in group_names() for end in ("", "_low", "_high")}
    return line


def shown(lines: pd.DataFrame, view: str, definition: str) -> pd.DataFrame:
    """The finished rows that were measured in ``view``, with plain columns mean / all / head / ... of these."""
    prefix = f"{view}/{definition}/"
    if f"{prefix}mean" not in lines:
        return lines.head(0)
    found = lines[(lines["status"] == "finished") & lines[f"{prefix}mean"].notna()]
    plain = found[[c for c in lines if "/" not in str(c)]]
    values = found[[c for c in lines if str(c).startswith(prefix)]].rename(columns=lambda c: str(c).removeprefix(prefix))
    return pd.concat([plain, values], axis=1).reset_index(drop=True)
