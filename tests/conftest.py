from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

import sagekit as sk
from sagekit.settings import DataSettings

DATA = {"largest_class": 30, "imbalance_ratio": 10.0, "test_per_class": 4, "val_per_class": 2}
SMALL = {**DATA, "epochs": 1, "batch_size": 64}


def small(method: str = "sage", **changes: object) -> sk.Config:
    """The mini preset on a data set of about 600 images, one epoch."""
    start = DATA if method == "zero_shot" else SMALL
    return sk.Config.preset("mini", method, **{**start, "share_stages": False, **changes})


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frozen features go to a folder of this test session, not to the user's."""
    os.environ["SAGEKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["SAGEKIT_CACHE"])


@pytest.fixture(scope="session")
def backbone() -> sk.Backbone:
    return sk.load_backbone(small().network)


@pytest.fixture(scope="session")
def data() -> sk.DataSet:
    return sk.load_data(small().data)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, backbone: sk.Backbone, data: sk.DataSet) -> dict[str, sk.Run]:
    """One finished small run of each method."""
    folder = tmp_path_factory.mktemp("runs")
    return {method: sk.train(small(method), folder / method, data=data, backbone=backbone, show=False)
            for method in ("zero_shot", "classifier", "lift", "sage")}


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module in float64 with every parameter moved, so that nothing is at its special initial value."""
    module.double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return module


def write_images(folder: Path, count: int, size: int = 40, seed: int = 0) -> list[Path]:
    """A few small random JPEG photographs."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        Image.fromarray(rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in CIFAR-100's format with 20 + 2 images a class, and the checksums that torchvision wants."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, per_class in (("train", 20), ("test", 2)):
        labels = np.tile(np.arange(100), per_class).tolist()
        content = {"data": rng.integers(0, 255, (len(labels), 3072), dtype=np.uint8), "fine_labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"thing_{i}" for i in range(100)]}))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return tmp_path


def tree(root: Path, *places: str) -> Path:
    """Class folders under ``root``: ``"train/ant/3"`` are three images, which differ from folder to folder, in train/ant."""
    for place in places:
        folder, _, count = place.rpartition("/")
        write_images(root / folder, int(count), seed=sum(map(ord, folder)))
    return root


def own(root: Path, **changes: object) -> DataSettings:
    """The settings of a folder with its own counts."""
    return DataSettings.model_validate({"dataset": "folder", "data_root": root, "imbalance_ratio": None, **changes})
