"""Many runs: points of a sweep or rows of a study, trained in parallel, never twice.

A point is a label and a whole configuration. Its folder is named by a hash of that configuration (without the settings
that only say where it runs), so the same point in another sweep, or in the same sweep after a kill, is the same run. A point
that failed keeps its reason in ``error.txt`` and is tried again on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from joblib import Parallel, cpu_count, delayed, parallel_config

from .. import methods
from ..config import Config
from ..data.datasets import load_data
from ..data.splits import DataSet
from ..errors import UserError, nearest
from ..files import write_text
from ..networks.backbone import Backbone, load_backbone
from ..progress import bar
from ..runs.compare import table
from ..runs.run import Run
from ..settings import DataSettings, NetworkSettings
from ..training.train import train


@dataclass(frozen=True)
class Point:
    """One run to do: ``row`` names it in tables (runs with one name differ in their seed)."""

    row: str
    config: Config

    @property
    def name(self) -> str:
        """The folder: the method and a hash of its version, the preset, the seed, and the settings that differ from their
        defaults: a new setting renames nothing, and a method whose results change raises its version."""
        config = self.config
        said = [config.method, methods.load(config.method).version, config.preset_name, config.seed, config.from_defaults()]
        digest = hashlib.sha256(yaml.safe_dump(said, sort_keys=True).encode()).hexdigest()
        return f"{config.method}-{digest[:12]}"


def over_seeds(rows: dict[str, Config], seeds: int) -> list[Point]:
    """Every row with seeds 0..seeds-1; seed by seed, so that a stopped study has whole repetitions."""
    return [Point(row, config.changed(seed=seed)) for seed in range(seeds) for row, config in rows.items()]


def grid(base: Config, axes: dict[str, Sequence[Any]]) -> dict[str, Config]:
    """One configuration for every combination of the axes' values, named ``key=value, ...``."""
    rows = {}
    for values in itertools.product(*axes.values()):
        changes = dict(zip(map(str, axes), values, strict=True))
        rows[", ".join(f"{key}={value}" for key, value in changes.items())] = base.changed(**changes)
    return rows


def read_grid(path: Path) -> tuple[dict[str, Config], int]:
    """A YAML sweep: ``preset``, ``method``, ``set`` (settings of all points), ``grid`` (lists of values), ``seeds``.

    Returns the rows and the number of seeds. Raises ``UserError`` for what is missing, unknown or misspelt.
    """
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the sweep {path} ({str(error).splitlines()[0]}).") from None
    known = {"preset", "method", "set", "grid", "seeds"}
    if not isinstance(spec, dict) or not isinstance(spec.get("grid"), dict):
        raise UserError(f"{path} needs 'grid:' with a list of values for each setting.")
    for key in spec.keys() - known:
        raise UserError(f"{path}: there is no key '{key}'.{nearest(str(key), known)}")
    for key, values in spec["grid"].items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: 'grid: {key}' must be a list of values.")
    seeds = spec.get("seeds", 1)
    if not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"{path}: 'seeds' is {seeds!r}; it must be a whole number of at least 1.")
    for key, kind, what in (("preset", str, "one name"), ("method", str, "one name"), ("set", dict, "settings 'key: value'")):
        if not isinstance(spec.get(key) or kind(), kind):
            raise UserError(f"{path}: '{key}' must be {what}.")
    settings = {str(key): value for key, value in (spec.get("set") or {}).items()}
    base = Config.preset(spec.get("preset") or "mini", spec.get("method") or "sage", **settings)
    return grid(base, spec["grid"]), seeds


def run_points(points: Iterable[Point], folder: Path, workers: int | None = None, backend: str = "loky",
               retry_failed: bool = False, show: bool = True) -> pd.DataFrame:
    """Train what is not trained yet and return ``results``.

    ``workers`` processes (default: one a core, at most one a point) share the cores evenly. ``backend`` is joblib's: loky;
    dask, on the cluster that DASK_SCHEDULER_ADDRESS names or else on local processes; ray, where it is installed. Two points
    with one configuration are one run.
    """
    points = list(points)
    todo = {p.name: p for p in points if not _done(folder / p.name, retry_failed)}
    cores = cpu_count()
    workers = max(1, min(workers or cores, len(todo)))
    with _back_end(backend, workers), _watched([folder / name for name in todo], show):
        Parallel()(delayed(_run)(p.config, (folder / p.name).resolve(), max(1, cores // workers)) for p in todo.values())
    return results(points, folder)


@contextlib.contextmanager
def _watched(paths: list[Path], show: bool) -> Iterator[None]:
    """One progress bar over all points, by what has appeared on disk: not every back end reports a single point."""
    start, over = time.time(), threading.Event()
    progress = bar(total=len(paths), what="runs", show=show)

    def ended(path: Path) -> bool:
        with contextlib.suppress(OSError):
            return Run(path).finished or (path / "error.txt").stat().st_mtime >= start
        return False

    def watch() -> None:
        while not over.wait(1.0):
            progress.update(sum(map(ended, paths)) - progress.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join()
        progress.update(len(paths) - progress.n)
    finally:
        over.set()
        progress.close()


@contextlib.contextmanager
def _back_end(name: str, workers: int) -> Iterator[None]:
    """joblib set to a back end, with the Dask client that ``dask`` needs."""
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, dict(os.environ))  # starting Dask's workers changes this process's own settings
        try:
            if name == "dask":
                stack.enter_context(_dask_client(workers))
            if name == "ray":
                from ray.util.joblib import register_ray

                register_ray()
            stack.enter_context(parallel_config(name, n_jobs=workers))
        except (ValueError, ImportError):
            raise UserError(f"joblib has no back end '{name}' here; loky works, dask and ray where installed.") from None
        yield


def _restore(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _dask_client(workers: int) -> contextlib.AbstractContextManager[Any]:
    from distributed import Client

    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        return Client(address)
    return Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def _done(path: Path, retry_failed: bool) -> bool:
    return Run(path).finished or ((path / "error.txt").exists() and not retry_failed)


def _run(config: Config, path: Path, threads: int) -> None:
    """One point in a worker process. A failure becomes ``error.txt``; the other points go on."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    (path / "error.txt").unlink(missing_ok=True)
    try:
        clip = config.needs == "clip"
        backbone, data = _backbone(config.network) if clip else None, _data(config.data)
        train(config, path, resume=True, data=data, backbone=backbone, show=False)
    except Exception as error:
        write_text(path / "error.txt", f"{type(error).__name__}: {error}\n")
    finally:
        torch.set_num_threads(before)  # a single worker is the caller's own process


@lru_cache(maxsize=1)
def _backbone(settings: NetworkSettings) -> Backbone:
    """The frozen model, loaded once a worker."""
    return load_backbone(settings)


@lru_cache(maxsize=1)
def _data(settings: DataSettings) -> DataSet:
    """The data set, read or rendered once a worker."""
    return load_data(settings)


def results(points: Iterable[Point], folder: Path) -> pd.DataFrame:
    """One row a point: ``row``, ``seed``, ``status`` (finished, failed, open), ``error``, ``path``, then ``compare.table``'s
    accuracies on the test images in percent, and ``val``: the mean over classes on the validation images, percent (nan unless
    finished; ``val`` also where there are no such images)."""
    rows = []
    for point in points:
        run = Run(folder / point.name)
        error = run.path / "error.txt"
        base = {"row": point.row, "seed": point.config.seed, "path": str(run.path), "error": ""}
        if run.finished:
            measured = table([run]).drop(columns=["run", "seed"]).iloc[0].to_dict()
            rows.append({**base, "status": "finished", **measured, "val": _validated(run)})
        elif error.exists():
            rows.append({**base, "status": "failed", "error": error.read_text(encoding="utf-8").strip()})
        else:
            rows.append({**base, "status": "open"})
    return pd.DataFrame(rows)


def _validated(run: Run) -> float:
    return 100 * float(run.record("val")["results"]["single"]["mean"]["accuracy"]) if "val" in run.records else float("nan")


def best(results: pd.DataFrame) -> tuple[str, str]:
    """The best row of ``results`` and on which images it was chosen: ``val`` (the highest mean of ``val``), or ``test`` where
    no run has validation images. Only rows with as many finished seeds as any other compete; of equals the first wins.

    Raises ``UserError`` when nothing is finished.
    """
    means = _means(results)
    if means.empty:
        raise UserError("no run is finished, so none is the best.")
    on = "val" if means["val"].notna().any() else "test"
    return str(means[on].idxmax()), on


def best_line(results: pd.DataFrame) -> str:
    """``best``, in a sentence with the numbers on both."""
    row, on = best(results)
    chosen = _means(results).loc[row]
    if on == "test":
        return (f"No validation images: {row} is the best on the test images, so its number flatters it (chosen on the test "
                f"images; test {chosen['test']:.1f} %)")
    return f"Best by validation images: {row} (val {chosen['val']:.1f} %, test {chosen['test']:.1f} %)"


def _means(results: pd.DataFrame) -> pd.DataFrame:
    """``val`` and ``test`` (percent) of the rows that may win, by name in their order."""
    done = results[results["status"] == "finished"].drop_duplicates(["row", "seed"])
    if done.empty:
        return pd.DataFrame(columns=["val", "test"])
    seeds = done.groupby("row", sort=False)["seed"].size()
    done = done[done["row"].isin(seeds.index[seeds == seeds.max()])]
    test = done["mean" if "mean" in done else "all"]  # a table of an older version has no means
    return done.assign(val=done.get("val", np.nan), test=test).groupby("row", sort=False)[["val", "test"]].mean()
