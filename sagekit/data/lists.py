"""Image lists: ``path label`` a line, as ImageNet-LT, Places-LT and iNaturalist 2018 come.

    train/n01440764/n01440764_190.JPEG 0                                         ImageNet-LT
    data_256/a/airfield/00000001.jpg 0                                           Places-LT
    train_val2018/Plantae/7477/3b60c9486db1d2ee875f11a669fbde4a.jpg 1234         iNaturalist 2018

Paths are relative to the data's root, or absolute. Tabs, commas and semicolons separate as blanks do; quotes and a byte-order
mark are taken. Windows' separators, a header line and labels that start at 1, which are moved to 0, are said. A class is
called by the folder that holds its images, where that folder holds no other class's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from ..errors import UserError, few
from ..settings import DataSettings
from .names import named, read_text
from .photos import SUFFIXES
from .splits import Found, Split

_LINE = re.compile(r"""^\s*(?P<path>"[^"]+"|'[^']+'|.*[^\s,;])(?:\s*[,;]\s*|\s+)["']?(?P<label>[^\s,;"']+)["']?\s*$""")
_NUMBER = re.compile(r"\d+(\.0+)?")


@dataclass
class Listed:
    """One list, as it stands: N paths and labels, and what was assumed."""

    file: Path
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse(file: Path) -> Listed:
    """The lines of an image list. Raises ``UserError`` for a line that is not one, with its number."""
    text, notes = read_text(file)
    listed, backslashes = Listed(file, notes=notes), 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.match(line)
        label = found["label"] if found else ""
        if found is None or not _NUMBER.fullmatch(label):
            if number == 1 and found is not None and label.isalpha() and Path(found["path"]).suffix.lower() not in SUFFIXES:
                listed.notes.append(f"{file.name}: the first line, '{line.strip()[:40]}', is taken for a header")
                continue
            raise UserError(f"{file}, line {number}: '{line.strip()[:80]}' is not 'path label' with a label of 0 or more.")
        path = found["path"].strip("\"'")
        if "\\" in path:
            backslashes += 1
            path = PureWindowsPath(path).as_posix()
        listed.paths.append(path)
        listed.labels.append(int(float(label)))
    if not listed.paths:
        raise UserError(f"{file} lists no images.")
    if backslashes:
        listed.notes.append(f"{file.name}: {backslashes} path(s) with Windows' separators")
    return listed


def read_list(file: Path, root: Path) -> tuple[Split, list[str]]:
    """The images of one list, labels as they stand there, and what was assumed. Raises ``UserError`` when files are missing."""
    if not file.is_file():
        raise UserError(f"no image list at {file}; name the folder that holds it with --data-root.")
    listed = parse(file)
    paths = [Path(os.path.normpath(root / path)) for path in listed.paths]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{file}: {len(missing):,} of {len(paths):,} files are not there: "
                        f"{few([str(path) for path in missing])}. Name the folder that paths are relative to with --data-root.")
    return Split(torch.tensor(listed.labels), paths=paths), listed.notes


def read(settings: DataSettings) -> Found:
    """The lists of ``settings``. Raises ``UserError`` for a list or file that is missing or wrong."""
    root = settings.data_root
    lists = {"train": settings.train_list, "val": settings.val_list, "test": settings.test_list}
    if not settings.train_list:
        raise UserError("dataset=list needs --set train_list=FILE, and test_list=FILE or test_share.")
    given = {split: name for split, name in lists.items() if name}
    if settings.val_list and not (root / settings.val_list).is_file() and (root / settings.train_list).is_file():
        raise UserError(f"no image list at {root / settings.val_list}; where there is no validation, say --set val_list=''.")
    splits: dict[str, Split] = {}
    notes = [f"lists: {', '.join(f'{name} is {split}' for split, name in given.items())}"]
    for part, name in given.items():
        splits[part], said = read_list(root / name, root)
        notes += said
    lowest = min(int(split.labels.min()) for split in splits.values())
    if lowest == 1:
        notes.append("labels start at 1: moved to 0")
        for split in splits.values():
            split.labels -= 1
    if "test" not in splits:
        splits["whole"] = splits.pop("train")
    classes = max(int(split.labels.max()) for split in splits.values()) + 1
    if classes < 2:
        raise UserError(f"{settings.train_list} has one class; at least 2 are needed.")
    texts = class_folders(root, splits.get("train") or splits["whole"], classes)
    keys = [text or f"label {label}" for label, text in enumerate(texts)]
    names = named(root, keys, [text or str(label) for label, text in enumerate(texts)], numbers=True)
    return Found(Path(settings.train_list).stem, keys, names.names, splits, names.wordless, [], [*notes, *names.notes],
                 labels=list(range(lowest == 1, classes + (lowest == 1))))


def class_folders(root: Path, train: Split, classes: int) -> list[str]:
    """The folder of training images that each class is called by: what follows the common start, without Places' one-letter
    level; empty where the folder holds images of other classes too, or the class has none."""
    owners: dict[tuple[str, ...], set[int]] = {}
    first: dict[int, tuple[str, ...]] = {}
    for path, label in zip(train.paths or [], train.labels.tolist(), strict=True):
        parts = (path.relative_to(root) if path.is_relative_to(root) else path).parent.parts
        owners.setdefault(parts, set()).add(label)
        first.setdefault(label, parts)
    own = [first.get(c, ()) for c in range(classes)]
    own = [parts if len(owners.get(parts, ())) == 1 else () for parts in own]
    known = [parts for parts in own if parts]
    if not known:
        return [""] * classes
    shortest = min(map(len, known))
    start = next((i for i in range(shortest) if len({parts[i] for parts in known}) > 1), shortest - 1)
    if all(len(parts) > start + 1 and len(parts[start]) == 1 and parts[start + 1].startswith(parts[start]) for parts in known):
        start += 1
    return [str(PurePosixPath(*parts[start:])) if parts else "" for parts in own]
