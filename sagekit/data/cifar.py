"""CIFAR-10-LT and CIFAR-100-LT: the whole sets as torchvision reads them; ``datasets`` draws the long tail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..settings import DataSettings
from .splits import Found, Split

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def read(settings: DataSettings) -> Found:
    """All training and test images. Downloads them where they are not there; raises ``UserError`` when that fails."""
    from torchvision import datasets  # slow to import

    name = settings.dataset
    kind, shown = {"cifar10": (datasets.CIFAR10, "CIFAR-10"), "cifar100": (datasets.CIFAR100, "CIFAR-100")}[name]
    there = (settings.data_root / FOLDERS[name]).is_dir()
    parts = {}
    for split in ("train", "test"):
        try:
            parts[split] = kind(str(settings.data_root), train=split == "train", download=not there)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{shown} is not under {settings.data_root} and could not be downloaded ({_first_line(error)}). "
                            f"Put the folder {FOLDERS[name]} there, or name its parent with --data-root.") from None
    keys = list(parts["train"].classes)
    ratio = settings.imbalance_ratio or 1
    splits = {split: Split(torch.tensor(part.targets), _channels_first(part.data)) for split, part in parts.items()}
    return Found(f"{shown}-LT (imbalance ratio {ratio:g})", keys, [key.replace("_", " ") for key in keys], splits)


def has(root: Path) -> str | None:
    """Which of the two lies in ``root``."""
    return next((name for name, folder in FOLDERS.items() if (root / folder).is_dir()), None)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
