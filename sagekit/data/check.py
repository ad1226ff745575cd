"""Looking at a data set before anybody trains on it: every file opened, and what training would make of it.

Each file is decoded and hashed, on all cores. Found are damaged files, odd ones (``_oddity``), and the same content twice where
that does harm: in two splits, or in two classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from PIL import Image

from ..errors import UserError, few
from ..progress import bar
from ..settings import DataSettings
from . import photos
from .datasets import find, load_data
from .heads import reason
from .longtail import GROUPS
from .splits import DataSet, Split

CHUNK = 256
"""Files that a process takes at a time."""
LONG = 4
"""A picture whose sides differ by more than this factor is odd: a centre view shows a quarter of it or less."""
SMALL = 16
"""Pixels of a side below which a picture is odd."""


class Opened(NamedTuple):
    """One file: its format, width and height in pixels, what is odd or wrong about it, and the digest of its content."""

    kind: str
    width: int
    height: int
    odd: str
    problem: str
    digest: str


@dataclass
class Report:
    """What a place holds. ``data`` is what training would take, None with the reason in ``refusal`` where it would refuse.

    ``damaged`` and ``odd``: one row a file (``file``, ``split``, ``why``). ``duplicates``: one row a content that is in two
    splits or two classes (``first``, ``second``, ``where``). ``formats`` and ``sizes``: files by format, by width x height.
    """

    place: str
    kind: str
    data: DataSet | None = None
    refusal: str = ""
    files: int = 0
    damaged: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["file", "split", "why"]))
    odd: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["file", "split", "why"]))
    duplicates: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["first", "second", "where"]))
    formats: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Everything in JSON's own types."""
        told = {key: getattr(self, key) for key in ("place", "kind", "refusal", "files", "formats", "sizes")}
        told |= {key: getattr(self, key).to_dict("records") for key in ("damaged", "odd", "duplicates")}
        if self.data is None:
            return told
        return told | {
            "name": self.data.name, "notes": self.data.notes, "wordless": self.data.wordless,
            "splits": {name: len(split) for name, split in self.data.splits.items()},
            "groups": {name: {group: len(members) for group, members in of.items()} for name, of in self.data.groups.items()},
            "classes": classes(self.data).to_dict("records")}


def classes(data: DataSet) -> pd.DataFrame:
    """One row a class, most frequent first: ``key``, ``name`` (as prompts say it), images in ``train``, ``val``, ``test``, and
    its ``group`` by own counts."""
    frame = pd.DataFrame({"key": data.keys or data.class_names, "name": data.class_names})
    for name, split in data.splits.items():
        frame[name] = np.bincount(split.labels.numpy(), minlength=len(frame))
    frame["group"] = ""
    for group in GROUPS:
        frame.loc[data.groups["own"][group], "group"] = group
    return frame.sort_values("train", ascending=False, kind="stable", ignore_index=True)


def look(settings: DataSettings, workers: int | None = None, show: bool = True) -> Report:
    """Open every file at the place of ``settings`` with ``workers`` processes (default: one a core), and try what training
    would do first. Raises ``UserError`` when nothing can be understood of the place."""
    place = {"world": "the embedded mini world"}.get(settings.dataset, str(settings.data_root))
    report = Report(place, settings.dataset)
    found = find(settings)
    files = {name: split for name, split in found.splits.items() if split.paths}
    paths = [path for split in files.values() for path in split.paths or []]
    whole = list(opened(paths, workers, show))
    _tell(report, files, found.keys, paths, whole, settings.data_root)
    try:
        report.data = load_data(settings, workers or cpu_count(), show)
    except UserError as error:
        report.refusal = str(error)
    skipped = set(report.data.skipped if report.data is not None else ())
    missed = [str(path) for path, one in zip(paths, whole, strict=True) if one.problem and str(path) not in skipped]
    if missed and not report.refusal:
        report.refusal = (f"{len(missed):,} file(s) begin and end well but are damaged inside, where training would stop: "
                          f"{few(missed)}. Mend or remove them.")
    return report


def opened(paths: Sequence[Path], workers: int | None, show: bool) -> Iterator[Opened]:
    """Every file decoded, in order."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    jobs = min(workers or cpu_count(), len(chunks)) or 1
    results = Parallel(n_jobs=jobs, return_as="generator")(delayed(_open_all)(chunk) for chunk in chunks)
    with bar(total=len(paths), what="opening files", show=show) as progress:
        for part in results:
            progress.update(len(part))
            yield from part


def _open_all(paths: Sequence[Path]) -> list[Opened]:
    return [_open(path) for path in paths]


def _open(path: Path) -> Opened:
    try:
        content = path.read_bytes()
    except OSError as error:
        return Opened("", 0, 0, "", str(error.strerror), "")
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return Opened("", 0, 0, "", "empty", "")
    try:
        with Image.open(path, formats=photos.formats()) as image:
            height, width = photos.upright_size(image)
            kind, odd = str(image.format), _oddity(image, path)
        photos.decoded(path)
    except Exception as error:  # whatever a damaged file makes Pillow raise
        return Opened("", 0, 0, "", reason(error), digest)
    return Opened(kind, width, height, odd, "", digest)


def _oddity(image: Image.Image, path: Path) -> str:
    """What a person might want to know of a picture that can be read."""
    named = Image.registered_extensions().get(path.suffix.lower())
    width, height = image.size
    found = {
        f"is {image.format}, not {named} as its name says": named not in (image.format, None) and
        {named, image.format} not in ({"JPEG", "MPO"}, {"BMP", "DIB"}),
        f"is animated: the first of {getattr(image, 'n_frames', 1)} frames is taken": getattr(image, "n_frames", 1) > 1
        and image.format != "MPO",
        f"has 16-bit or real numbers ({image.mode}), scaled by their range": image.mode.startswith(("I", "F")),
        f"is {width} x {height} pixels": min(width, height) < SMALL or max(width, height) > LONG * min(width, height),
    }
    return "; ".join(text for text, true in found.items() if true)


def _tell(report: Report, files: dict[str, Split], keys: list[str], paths: list[Path], found: list[Opened], root: Path) -> None:
    """Fill in what the files are."""
    names = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
    splits = [name for name, split in files.items() for _ in range(len(split))]
    labels = [label for split in files.values() for label in split.labels.tolist()]
    report.files = len(paths)
    report.damaged, report.odd = (
        pd.DataFrame([(name, split, getattr(one, kind)) for name, split, one in zip(names, splits, found, strict=True)
                      if getattr(one, kind)], columns=["file", "split", "why"]) for kind in ("problem", "odd"))
    good = [one for one in found if not one.problem]
    report.formats = dict(Counter(one.kind for one in good).most_common())
    report.sizes = dict(Counter(f"{one.width} x {one.height}" for one in good).most_common())
    report.duplicates = _duplicates(names, splits, [keys[label] if label < len(keys) else str(label) for label in labels],
                                    [one.digest for one in found])


def _duplicates(names: Sequence[str], splits: Sequence[str], keys: Sequence[str], digests: Sequence[str]) -> pd.DataFrame:
    alike: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        if digest:
            alike[digest].append(place)
    rows = []
    for first, *others in alike.values():
        for other in others:
            where = [f"{what} {a} and {b}" for what, a, b in (("splits", splits[first], splits[other]),
                                                              ("classes", keys[first], keys[other])) if a != b]
            if where:
                rows.append((names[first], names[other], ", ".join(where)))
    return pd.DataFrame(rows, columns=["first", "second", "where"])
