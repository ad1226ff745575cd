"""Shared by the benchmarks: rows of runs over seeds, their Markdown table, a training step on made-up images, seconds of a
call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from sagekit import Backbone, Config, Method, build_model
from sagekit.data.batches import Batch
from sagekit.data.longtail import GROUPS
from sagekit.devices import training_precision
from sagekit.methods import Now
from sagekit.methods._stages import Texts
from sagekit.runs.compare import t_half_width
from sagekit.studies.sweep import over_seeds, run_points


def train_all(rows: dict[str, Config], seeds: int) -> pd.DataFrame:
    """Every row with every seed, one process a core, kept in build/points; the sweep's results."""
    return run_points(over_seeds(rows, seeds), Path("build/points"))


def accuracy_table(results: pd.DataFrame, compared_with: dict[str, str]) -> str:
    """A Markdown table: each row's mean and interval over seeds, and its difference to the row ``compared_with[row]``.

    The difference is taken seed by seed; its interval is the t interval of those differences.
    """
    frames = {str(name): frame for name, frame in results.groupby("row", sort=False)}
    rows = []
    for name, frame in frames.items():
        row = {"": name, **{g: _cell(frame[g].to_numpy()) for g in ("all", *GROUPS)}}
        base = compared_with.get(name)
        for g in ("all", "tail") if compared_with else ():
            row[f"{g}: difference"] = "" if base is None else f"{_difference(frame, frames[base], g)} (to {base})"
        rows.append(row | {"seconds": f"{frame['seconds'].mean():.0f}"})
    return markdown(pd.DataFrame(rows))


def _difference(frame: pd.DataFrame, base: pd.DataFrame, group: str) -> str:
    values = frame[group].to_numpy() - base[group].to_numpy()
    return f"{values.mean():+.1f} ± {t_half_width(values):.1f}"


def _cell(values: np.ndarray) -> str:
    half = t_half_width(values)
    return f"{values.mean():.1f} ± {half:.1f}" if half >= 0.05 else f"{values.mean():.1f}"


def markdown(frame: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()])


# --- a training step ----------------------------------------------------------------------------------------------------


def model_of(config: Config, backbone: Backbone, classes: int = 100, device: torch.device | str = "cpu") -> Method:
    """The method of ``config`` for made-up classes with ``classes``, ..., 2, 1 images.

    The rows of their texts are random: encoding them would take longer than what is measured, and changes nothing of it.
    """
    g = torch.Generator().manual_seed(0)
    proj = getattr(backbone.visual, "proj", None)
    rows = F.normalize(torch.randn(classes, backbone.width, generator=g), dim=1).to(device)

    def made_up_rows(*_: object, shared: bool = False) -> torch.Tensor:
        return F.normalize(rows @ proj, dim=1) if shared and proj is not None else rows

    with mock.patch.object(Texts, "rows", side_effect=made_up_rows):
        names, counts = [f"thing {c}" for c in range(classes)], list(range(classes, 0, -1))
        return build_model(config, names, backbone, device, counts)


def made_up(batch: int, size: int, classes: int = 100, device: torch.device | str = "cpu") -> tuple[Batch]:
    """What one sampler hands to a step: ``batch`` images of noise, one view each."""
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(batch, 3, size, size, generator=g), torch.randint(classes, (batch,), generator=g)
    return (Batch((images.to(device),), labels.to(device), torch.arange(batch, device=device)),)


def start() -> Now:
    """The first step of a training."""
    return Now(0, 0, 0.0, torch.Generator().manual_seed(0))


def optimizer_of(model: Method, config: Config) -> torch.optim.Optimizer:
    """Of the first stage, which is LIFT's and Sage's only one and trains all."""
    return config.stages[0].optimizer({name: p for name, p in model.trained().items() if isinstance(p, nn.Parameter)})


def loss_of(model: Method, batches: tuple[Batch, ...], config: Config, device: torch.device) -> Callable[[], torch.Tensor]:
    """The forward half of a training step, as the trainer makes it."""
    model.train()
    model.start_epoch(start())

    def loss() -> torch.Tensor:
        with training_precision(config.machine, device):
            return model(batches, start())["loss"]

    return loss


def step_of(model: Method, batches: tuple[Batch, ...], config: Config, device: torch.device) -> Callable[[], None]:
    """A whole training step; it returns when the device is done."""
    optimizer, loss = optimizer_of(model, config), loss_of(model, batches, config, device)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
        wait(device)

    return step


def wait(device: torch.device) -> None:
    """Until ``device`` has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- time ---------------------------------------------------------------------------------------------------------------


def best(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of some calls, the first left out."""
    return best_of(repeats, {"": call})[""]


def best_of(repeats: int, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each call, the best of ``repeats``; interleaved, so that a slow moment meets all alike."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):  # the first round warms up
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if turn:
                found[name] = min(found[name], time.perf_counter() - begun)
    return found
