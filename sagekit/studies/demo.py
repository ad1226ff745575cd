"""The three runs that everything starts from: zero-shot, LIFT and Sage on the mini world.

``sagekit demo`` trains them, and the notebooks use the same ones: what is finished is not trained again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import methods
from ..config import Config
from ..data.datasets import load_data
from ..networks.backbone import load_backbone
from ..runs.run import Run
from ..training.train import train

METHODS = ("zero_shot", "lift", "sage")


def demo_path(folder: Path | str, method: str, seed: int = 0) -> Path:
    """Where the demo's run of ``method`` lives."""
    return Path(folder) / f"demo-{method}-{seed}"


def progress(folder: Path | str, seed: int = 0) -> float:
    """How much of the demo is done (0..1), read from its run folders: epochs, and one part more for each measurement."""
    done = total = 0
    for method in METHODS:
        run, epochs = Run(demo_path(folder, method, seed)), Config.preset("mini", method).epochs
        total += epochs + 1
        done += epochs + 1 if run.finished else len(run.history)
    return done / total


def demo_runs(folder: Path | str, /, seed: int = 0, **changes: Any) -> dict[str, Run]:
    """The finished runs by method, in ``folder``/demo-METHOD-SEED; ``changes`` are settings of those of the three that have
    them."""
    configs = [_config(method, seed, changes) for method in METHODS]
    data, backbone = load_data(configs[-1].data), load_backbone(configs[-1].network)
    return {config.method: train(config, demo_path(folder, config.method, seed), resume=True, data=data, backbone=backbone)
            for config in configs}


def _config(method: str, seed: int, changes: dict[str, Any]) -> Config:
    known = Config.preset("mini", method).flat
    foreign = set().union(*(methods.load(m).Settings.model_fields for m in METHODS)) - known.keys()
    return Config.preset("mini", method, **{**{k: v for k, v in changes.items() if k not in foreign}, "seed": seed})
