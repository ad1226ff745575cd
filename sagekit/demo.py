"""The three runs that everything starts from: zero-shot, LIFT and Sage on the mini world.

``sagekit demo`` trains them, and the notebooks use the same ones: what is finished is not trained again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .backbone import load_backbone
from .config import Config
from .datasets import load_data
from .runs import Run
from .train import train

METHODS = ("zero-shot", "lift", "sage")


def demo_runs(folder: Path | str, seed: int = 0, **changes: Any) -> dict[str, Run]:
    """The finished runs by method, in ``folder``/demo-METHOD-SEED; ``changes`` are settings of all three."""
    configs = [Config.preset("mini", method, **{**changes, "seed": seed, **({"epochs": 0} if method == "zero-shot" else {})})
               for method in METHODS]
    data, backbone = load_data(configs[-1]), load_backbone(configs[-1])
    paths = {config.method: Path(folder) / f"demo-{config.method}-{seed}" for config in configs}
    return {config.method: train(config, paths[config.method], resume=True, data=data, backbone=backbone) for config in configs}
