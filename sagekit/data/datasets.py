"""The data sets: the mini world, CIFAR-100-LT, image lists (Places-LT, ImageNet-LT, iNaturalist 2018), image folders.

Every loader returns a ``DataSet``: a long-tailed training split, a balanced (or given) test split, class names, and
the training counts by which classes are grouped. Whatever is wrong with the files is one ``UserError`` line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..settings import DataSettings
from . import longtail, world
from .splits import DataSet, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CLASS_NAMES_FILE = "classnames.txt"


def load_data(settings: DataSettings) -> DataSet:
    """The data of ``settings``. Raises ``UserError`` when files are missing, damaged or inconsistent, or when a class has no
    training image."""
    data = {"world": _world, "cifar100": _cifar100, "list": _lists, "folder": _folder}[settings.dataset](settings)
    empty = np.flatnonzero(data.class_counts == 0)
    if len(empty):
        raise UserError(f"class {empty[0]} ('{data.class_names[empty[0]]}') has no training images; remove the class, "
                        "or add some.")
    return data


def _counted(settings: DataSettings, name: str, train: Split, test: Split, names: list[str],
             beta100: np.ndarray | None) -> DataSet:
    counts = np.bincount(train.labels.numpy(), minlength=len(names))
    by = {"own": counts} if beta100 is None else {"own": counts, "beta100": beta100}
    groups = {name: longtail.groups(n, settings.head_above, settings.tail_below) for name, n in by.items()}
    return DataSet(settings.data_name or name, train, test, names, counts, {**groups, "thirds": longtail.thirds(counts)})


# --- the mini world --------------------------------------------------------------------------------------------------


def _world(settings: DataSettings) -> DataSet:
    """Classes are ranked by a fixed shuffle, so that neither a texture nor a shape is rare as a whole."""
    classes = len(world.CLASS_NAMES)
    g = world.generator(settings.data_seed + 1_000_000_007)
    rank = torch.randperm(classes, generator=g)
    counts, beta100 = (torch.from_numpy(longtail.profile(classes, settings.largest_class, ratio))[rank]
                       for ratio in (settings.imbalance_ratio or 1.0, 100.0))
    if counts.min() == 0:
        raise UserError(f"imbalance_ratio {settings.imbalance_ratio:g} leaves classes without images; raise largest_class.")
    labels = torch.repeat_interleave(torch.arange(classes), counts)
    colours = world.training_colours(labels, counts, g) if settings.mismatch else None
    train_images, train_masks = world.render(world.sample(labels, world.DOWNSTREAM, g, colours), world.DOWNSTREAM, g)
    test, val = (_balanced(classes, n, g) for n in (settings.test_per_class or 50, settings.val_per_class))
    data = _counted(settings, "mini world", Split(labels, train_images, masks=train_masks), test, list(world.CLASS_NAMES),
                    beta100.numpy())
    data.val = val if len(val) else None
    return data


def _balanced(classes: int, each: int, g: torch.Generator) -> Split:
    labels = torch.arange(classes).repeat_interleave(each)
    images, masks = world.render(world.sample(labels, world.DOWNSTREAM, g), world.DOWNSTREAM, g)
    return Split(labels, images, masks=masks)


# --- CIFAR-100-LT ----------------------------------------------------------------------------------------------------


def _cifar100(settings: DataSettings) -> DataSet:
    from torchvision.datasets import CIFAR100

    parts = []
    for is_train in (True, False):
        try:
            parts.append(CIFAR100(str(settings.data_root), train=is_train, download=not _has_cifar(settings.data_root)))
        except (RuntimeError, OSError) as error:
            raise UserError(f"CIFAR-100 is not under {settings.data_root} and could not be downloaded ({_first_line(error)}). "
                            "Put the folder cifar-100-python there, or name its parent with --data-root.") from None
    train, test = parts
    labels = np.asarray(train.targets)
    largest = min(settings.largest_class, int(np.bincount(labels).min()))
    names = [name.replace("_", " ") for name in train.classes]
    counts, beta100 = (longtail.profile(len(names), largest, ratio) for ratio in (settings.imbalance_ratio or 1.0, 100.0))
    chosen = longtail.subsample(labels, counts, settings.data_seed)
    return _counted(settings, f"CIFAR-100-LT (imbalance ratio {settings.imbalance_ratio or 1:g})",
                    Split(torch.from_numpy(labels[chosen]), _channels_first(train.data[chosen])),
                    Split(torch.tensor(test.targets), _channels_first(test.data)), names, beta100)


def _has_cifar(root: Path) -> bool:
    return (root / "cifar-100-python").is_dir()


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


# --- image lists -----------------------------------------------------------------------------------------------------


def _lists(settings: DataSettings) -> DataSet:
    train, test = (_read_list(settings.data_root, name) for name in (settings.train_list, settings.test_list))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    for split, name in ((train, settings.train_list), (test, settings.test_list)):
        holes = np.flatnonzero(np.bincount(split.labels.numpy(), minlength=classes) == 0)
        if len(holes):
            raise UserError(f"{name} has no image of class {holes[0]}, though labels go up to {classes - 1}; labels must "
                            "be 0..C-1 without holes.")
    names = _list_names(settings.data_root, train, classes)
    return _counted(settings, Path(settings.train_list).stem, train, test, names, None)


def _read_list(root: Path, name: str) -> Split:
    """An image list: ``path label`` a line, paths relative to ``root``."""
    file = root / name
    if not name or not file.is_file():
        raise UserError(f"no image list at {file}; name the folder that holds it with --data-root.")
    paths, labels = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal():
            raise UserError(f"{file}, line {number}: '{line.strip()[:80]}' is not 'path label' with a label of 0 or more.")
        paths.append(root / path)
        labels.append(int(label))
    if not paths:
        raise UserError(f"{file} lists no images.")
    missing = next(((number, p) for number, p in enumerate(paths, 1) if not os.path.isfile(p)), None)
    if missing:
        raise UserError(f"{file}, image {missing[0]}: there is no file {missing[1]}.")
    return Split(torch.tensor(labels), paths=paths)


def _list_names(root: Path, train: Split, classes: int) -> list[str]:
    """Class names: ``classnames.txt`` where there is one, ImageNet's from open_clip, else the folders' own."""
    folders = _class_folders(root, train, classes)
    file = root / CLASS_NAMES_FILE
    given = _given_names(root)
    if given is not None:
        unnamed = [f for f in folders if f not in given]
        if unnamed:
            raise UserError(f"{file} has no name for the folder '{unnamed[0]}' (a line is 'folder name').")
        return [given[f] for f in folders]
    if classes == 1000 and all(re.fullmatch(r"n\d{8}", f) for f in folders):
        from open_clip import IMAGENET_CLASSNAMES  # slow to import

        order = {folder: i for i, folder in enumerate(sorted(folders))}
        return [IMAGENET_CLASSNAMES[order[f]] for f in folders]
    numbers = [f for f in folders if not re.search("[A-Za-z]{2}", f)]
    if numbers:
        raise UserError(f"the folder '{numbers[0]}' says no class name; write {file} with a line 'folder name' for each.")
    return [re.sub(r"[_\-/]+", " ", f) for f in folders]


def _given_names(root: Path) -> dict[str, str] | None:
    """Folder -> class name out of ``classnames.txt``, whose lines are 'folder name'; none without the file."""
    file = root / CLASS_NAMES_FILE
    if not file.is_file():
        return None
    rows = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row[0]: row[1].strip() for row in rows if len(row) > 1}


def _class_folders(root: Path, train: Split, classes: int) -> list[str]:
    """Each class's folder of training images: what follows the common start, without Places' one-letter level."""
    assert train.paths is not None
    first: dict[int, tuple[str, ...]] = {}
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        first.setdefault(label, path.relative_to(root).parent.parts)
    parts = [first[c] for c in range(classes)]
    shortest = min(len(part) for part in parts)
    start = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest)
    folders = ["/".join(p for p in part[start:] if len(p) > 1) for part in parts]
    return [folder or part[-1] if part else "" for folder, part in zip(folders, parts, strict=True)]


# --- an own folder of images -----------------------------------------------------------------------------------------


def _folder(settings: DataSettings) -> DataSet:
    """``root/train/CLASS/*`` and ``root/test/CLASS/*``, or ``root/CLASS/*`` of which a share is kept for the test."""
    root = settings.data_root
    if not root.is_dir():
        raise UserError(f"no folder at {root}; name the folder of images with --data-root.")
    if (root / "train").is_dir() and (root / "test").is_dir():
        names = _subfolders(root / "train")
        train, test = (_read_folder(root / part, names) for part in ("train", "test"))
    else:
        names = _subfolders(root)
        train, test = _split(_read_folder(root, names), len(names), settings)
    if settings.imbalance_ratio is not None:
        counts = np.bincount(train.labels.numpy(), minlength=len(names))
        largest = min(settings.largest_class, int(counts.min()))
        chosen = longtail.subsample(train.labels.numpy(), longtail.profile(len(names), largest, settings.imbalance_ratio),
                                    settings.data_seed)
        train = train.take(torch.from_numpy(chosen))
    return _counted(settings, root.resolve().name, train, test, _folder_names(root, names), None)


def _folder_names(root: Path, folders: list[str]) -> list[str]:
    given = _given_names(root)
    if given is None:
        return [re.sub(r"[_\-]+", " ", name) for name in folders]
    return [given.get(name, name) for name in folders]


def _subfolders(root: Path) -> list[str]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{root} has {len(names)} class folders; at least 2 are needed (root/CLASS/image.jpg).")
    return names


def _read_folder(root: Path, names: list[str]) -> Split:
    paths, labels = [], []
    for label, name in enumerate(names):
        files = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"class folder {root / name} has no images ({', '.join(IMAGE_SUFFIXES)}).")
        paths += files
        labels += [label] * len(files)
    return Split(torch.tensor(labels), paths=paths)


def _split(whole: Split, classes: int, settings: DataSettings) -> tuple[Split, Split]:
    rng = np.random.default_rng(settings.data_seed)
    train, test = [], []
    for c in range(classes):
        members = rng.permutation(np.flatnonzero(whole.labels.numpy() == c))
        kept = max(1, round(settings.test_share * len(members)))
        if kept >= len(members):
            raise UserError(f"class {c} has {len(members)} image(s); 2 are needed to keep one for the test.")
        test.append(members[:kept])
        train.append(members[kept:])
    kept_out, rest = (whole.take(torch.from_numpy(np.concatenate(part))) for part in (test, train))
    return rest, kept_out
