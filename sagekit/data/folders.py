"""An own folder of images: what its folders mean.

    ROOT/train/CLASS/...  ROOT/val/CLASS/...  ROOT/test/CLASS/...      splits, in any case of letters (``SPLIT_NAMES``)
    ROOT/CLASS/...                                                     one whole, of which load_data keeps a part for the test

A class is a folder that holds images; folders of folders are only its way there. Hidden and system entries are left out at any
depth, and so are files of other kinds; ``notes`` say how many.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import UserError, few, nearest
from ..settings import DataSettings
from .names import leaves, named, natural
from .photos import SUFFIXES
from .splits import Found, Split

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}
SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found",
          "__pycache__"}


@dataclass
class Tree:
    """What lies below one folder: image files by class key, and what was left out."""

    classes: dict[str, list[Path]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)


def hidden(name: str) -> bool:
    """Whether an entry of this name is the system's, not the user's."""
    return name.startswith(".") or name.casefold() in SYSTEM


def look(root: Path) -> Tree:
    """Everything below ``root``. Raises ``UserError`` for a level that mixes images and class folders."""
    tree = Tree()
    _look(root, "", tree, set())
    tree.classes = {key: tree.classes[key] for key in sorted(tree.classes, key=natural)}
    return tree


def _look(folder: Path, key: str, tree: Tree, above: set[str]) -> bool:
    """Add ``folder``; whether any image lies in it or below."""
    real = os.path.realpath(folder)
    if real in above:  # a link back
        return False
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: natural(entry.name))
    except PermissionError:
        raise UserError(f"{folder} may not be read.") from None
    shown = [entry for entry in entries if not hidden(entry.name)]
    tree.hidden += len(entries) - len(shown)
    folders = [entry for entry in shown if entry.is_dir()]
    suffixes = [(entry, os.path.splitext(entry.name)[1].lower()) for entry in shown if not entry.is_dir()]
    images = [Path(entry.path) for entry, suffix in suffixes if suffix in SUFFIXES]
    tree.others.update(suffix or "no suffix" for _, suffix in suffixes if suffix not in SUFFIXES)
    below = [_look(Path(entry.path), f"{key}/{entry.name}" if key else entry.name, tree, above | {real}) for entry in folders]
    if images and key and any(below):
        raise UserError(f"{folder} mixes images ({images[0].name}, ...) and folders of images "
                        f"({folders[below.index(True)].name}, ...); a class is a folder that holds images only.")
    if images and key:
        tree.classes[key] = images
    elif images:
        tree.loose = images
    elif not any(below) and key:
        tree.empty = [*(e for e in tree.empty if not e.startswith(f"{key}/")), key]
    return bool(images) or any(below)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of ``root`` that are named as splits. Raises ``UserError`` where two are the same split, or none is train."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        split = SPLIT_NAMES.get(path.name.casefold())
        if split is None or not path.is_dir():
            continue
        if split in found:
            raise UserError(f"{root} has two folders for {split}: {found[split].name} and {path.name}; keep one.")
        found[split] = path
    if found and "train" not in found:
        raise UserError(f"{root} has {_listed(list(found.values()))} but no train folder; add it, or rename what is a class.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _listed(paths: list[Path]) -> str:
    return " and ".join(f"{path.name}/" for path in paths)


def read(settings: DataSettings) -> Found:
    """What the folder ``data_root`` holds. Raises ``UserError`` when that is no set of images in classes."""
    root = settings.data_root
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise UserError(f"no folder at {root} (it {what}); name the folder of images with --data-root.")
    parts = split_folders(root)
    if not parts:
        return _whole(root)
    trees = {split: look(path) for split, path in parts.items()}
    notes = [f"splits: {', '.join(f'{path.name}/ is {split}' for split, path in parts.items())}"]
    others = sorted(path.name for path in root.iterdir() if path not in parts.values() and not hidden(path.name)
                    and (path.is_dir() or path.suffix.lower() in SUFFIXES))
    if others:
        notes.append(f"{len(others)} folder(s) or image(s) beside the splits left out: {few(others)}")
    for split, tree in list(trees.items()):
        if tree.loose and not tree.classes and split != "train":
            notes.append(f"{parts[split]} has no class folders: its {len(tree.loose)} images have no labels and are left out; "
                         "`sagekit predict` takes them")
            del trees[split]
        elif tree.loose and tree.classes:
            raise UserError(f"{parts[split]} mixes images ({tree.loose[0].name}, ...) and class folders; move them into one.")
    keys = sorted({key for tree in trees.values() for key in tree.classes}, key=natural)
    _enough(parts["train"], list(trees["train"].classes), trees["train"])
    for split, tree in trees.items():
        foreign = [key for key in tree.classes if key not in trees["train"].classes]
        if close := foreign and nearest(foreign[0], trees["train"].classes):
            notes.append(f"{parts[split].name}/{foreign[0]} is no class of train.{close}")
    return _found(root, keys, {split: _split(tree, keys) for split, tree in trees.items()}, list(trees.values()), notes)


def _whole(root: Path) -> Found:
    tree = look(root)
    for key in tree.classes:
        parts = key.split("/")
        at = next((i for i, part in enumerate(parts[:-1]) if SPLIT_NAMES.get(part.casefold()) == "train"), None)
        if at is not None:
            above = root.joinpath(*parts[:at])
            raise UserError(f"{root} holds no classes itself, but {above} has splits; name it with --data-root {above}.")
    if tree.loose and tree.classes:
        raise UserError(f"{root} mixes images ({tree.loose[0].name}, ...) and class folders ({next(iter(tree.classes))}, ...); "
                        "move the images into one.")
    keys = list(tree.classes)
    _enough(root, keys, tree)
    notes = ["no splits: one folder a class"]
    deep = [key for key in keys if "/" in key]
    if deep:
        notes.append(f"{len(deep)} of {len(keys)} classes lie in folders of folders, such as {deep[0]}: the folders that hold "
                     "images are the classes")
    return _found(root, keys, {"whole": _split(tree, keys)}, [tree], notes)


def _enough(root: Path, keys: list[str], tree: Tree) -> None:
    if len(keys) >= 2:
        return
    held = f"{len(tree.loose)} images without a class folder, " if tree.loose else ""
    if root.name.casefold() in SPLIT_NAMES and tree.loose:
        raise UserError(f"{root} is named as a split and holds images, but no class folders; where it is a class, rename it.")
    other = ", ".join(f"{n} {suffix}" for suffix, n in tree.others.most_common(3)) or "no other files"
    raise UserError(f"{root} has {len(keys)} class folder(s) with images, and at least 2 are needed (ROOT/CLASS/image.jpg); "
                    f"found: {held}{len(tree.empty)} folder(s) without images, {other}.")


def _split(tree: Tree, keys: list[str]) -> Split:
    paths = [path for key in keys for path in tree.classes.get(key, [])]
    labels = [label for label, key in enumerate(keys) for _ in tree.classes.get(key, [])]
    return Split(torch.tensor(labels, dtype=torch.long), paths=paths)


def _found(root: Path, keys: list[str], splits: dict[str, Split], trees: list[Tree], notes: list[str]) -> Found:
    count = sum(tree.hidden for tree in trees)
    if count:
        notes.append(f"{count} hidden or system entr{'y' if count == 1 else 'ies'} left out")
    others = sum((tree.others for tree in trees), Counter[str]())
    if others:
        notes.append(f"{sum(others.values())} file(s) of other kinds left out: "
                     f"{', '.join(f'{n} {suffix}' for suffix, n in others.most_common(6))}")
    empty = [key for key in dict.fromkeys(key for tree in trees for key in tree.empty) if key not in keys]
    names = named(root, keys, leaves(keys))
    return Found(root.resolve().name, keys, names.names, splits, names.wordless, empty, [*notes, *names.notes])
