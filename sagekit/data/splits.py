"""What every data set becomes: splits of images with labels, and what is known of their classes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import sha256
from ..progress import bar
from .longtail import GROUPS, Groups


@dataclass
class Split:
    """N images: ``images`` uint8 (N, 3, H, W) in memory, or ``paths`` of N files, or both where files are held in memory.
    ``labels`` int64 (N,). ``masks`` bool (N, H, W) marks the object's pixels where the data set knows them (the mini world).
    """

    labels: Tensor
    images: Tensor | None = None
    paths: list[Path] | None = None
    masks: Tensor | None = None
    _known: tuple[object, str] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def first_of_each(self, count: int) -> Split:
        """The first ``count`` images of each class, in the split's order; fewer where a class has fewer."""
        return self.take(torch.cat([torch.nonzero(self.labels == c)[:count, 0] for c in torch.unique(self.labels)]))

    def take(self, index: Tensor) -> Split:
        """The images at the places ``index`` int (n,), in that order."""
        return Split(self.labels[index], None if self.images is None else self.images[index],
                     None if self.paths is None else [self.paths[i] for i in index.tolist()],
                     None if self.masks is None else self.masks[index])

    def names(self, root: Path) -> list[str]:
        """What each image is called: its file, relative to ``root`` where it lies there; else its place in the split."""
        if self.paths is None:
            return [str(place) for place in range(len(self))]
        return [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in self.paths]

    def pixels(self, workers: int = 2, show: bool = False) -> str:
        """A digest of the images and their order: of pixels in memory, or of the files' content. Files are read again only when
        one has changed.

        Raises ``UserError`` when a file cannot be read.
        """
        stamps = [] if self.images is not None else _stamps(self.paths or [])
        if self._known is None or self._known[0] != stamps:
            digest = hashlib.sha256()
            if self.images is not None:
                digest.update(str(tuple(self.images.shape)).encode() + self.images.cpu().contiguous().numpy().tobytes())
            else:
                for content in _contents(self.paths or [], workers, show):
                    digest.update(content.encode())
            self._known = stamps, digest.hexdigest()
        return self._known[1]

    def digest(self, workers: int = 2, show: bool = False) -> str:
        """What says that two splits are the same images with the same labels in the same order. Raises as ``pixels``."""
        labels = self.labels.numpy().astype("<i8").tobytes()
        return hashlib.sha256(self.pixels(workers, show).encode() + labels).hexdigest()[:32]


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int]]:
    with _readable():
        return [(status.st_mtime_ns, status.st_size) for status in map(os.stat, paths)]


def _contents(paths: Sequence[Path], workers: int, show: bool) -> list[str]:
    with _readable(), ThreadPoolExecutor(max(1, workers)) as pool:
        return list(bar(pool.map(sha256, paths), total=len(paths), what="files", show=show))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); `sagekit data` looks at every file.") from None


@dataclass
class Found:
    """What lies at a place, before anything is made of it: C classes by ``keys`` and ``names``, and ``splits``: train, val,
    test, or ``whole`` where the test is still to be kept from it. ``empty``: keys of class folders without an image.
    ``labels``: what a list calls each class, where its images come from lists. ``counts100``: training counts (C,) at imbalance
    ratio 100, where the kit makes the long tail."""

    name: str
    keys: list[str]
    names: list[str]
    splits: dict[str, Split]
    wordless: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    labels: list[int] | None = None
    counts100: np.ndarray | None = None


@dataclass
class DataSet:
    """``class_names``: as prompts say them. ``class_counts`` int64 (C,): training images a class. ``groups``: head, medium and
    tail by each definition that the set has (``longtail.DEFINITIONS``). ``keys``: folder, or label, by which the set knows a
    class. ``wordless``: keys of classes whose name says no word. ``sentences``: own texts of each class, in place of prompts.
    ``notes``: what was understood, left out or assumed, a line each. ``skipped``: files that are no whole images.
    ``labels``: what an image list calls each class; None where no lists are read."""

    name: str
    train: Split
    test: Split
    class_names: list[str]
    class_counts: np.ndarray
    groups: dict[str, Groups]
    val: Split | None = None
    keys: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    sentences: list[list[str]] | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    labels: list[int] | None = None

    @property
    def shown_names(self) -> list[str]:
        """``class_names``, with the key beside those that are not the only one of that name."""
        times = Counter(self.class_names)
        return [f"{name} ({key})" if times[name] > 1 else name
                for name, key in zip(self.class_names, self.keys or self.class_names, strict=True)]

    def summary(self) -> list[str]:
        """What was understood, for people, a line each: splits and classes, then ``notes``."""
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        n = self.class_counts
        head, medium, tail = (len(self.groups["own"][group]) for group in GROUPS)
        return [f"{self.name}: {len(n):,} classes of {n.max():,} to {n.min():,} training images; {sizes}"
                f"{'' if self.val is not None else ' (no validation images)'}",
                f"groups by these counts: head {head}, medium {medium}, tail {tail} classes", *self.notes]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        return {name: split for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
                if split is not None}
