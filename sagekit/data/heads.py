"""A first look at image files, without decoding them: is it an image, how large, and does it end as it should?

A JPEG ends with FF D9 and a PNG with its IEND chunk. A file that does not, or of another format, is decoded to be sure; so a
whole set is looked at in a fraction of the time that opening every image takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..progress import bar
from . import photos

ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
TAIL = 512
"""Bytes at the end that are searched: cameras and phones write a little after the image."""


def bad_files(paths: Sequence[Path], workers: int = 2, show: bool = False) -> dict[int, str]:
    """Places of files that are no whole images, and why."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = bar(pool.map(_problem, paths), total=len(paths), what="looking at files", show=show)
        return {place: problem for place, problem in enumerate(found) if problem}


def sizes(paths: Sequence[Path]) -> Iterable[tuple[int, int]]:
    """Width and height in pixels of each file, as it is shown."""
    return (_head(path, *_stamp(path))[1] for path in paths)


def _problem(path: Path) -> str:
    try:
        return _head(path, *_stamp(path))[0]
    except OSError as error:
        return str(error.strerror or error)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=500_000)
def _head(path: Path, changed: int, size: int) -> tuple[str, tuple[int, int]]:
    """What is wrong with a file, if anything, and its size in pixels."""
    if size == 0:
        return "empty", (0, 0)
    try:
        with path.open("rb") as file, Image.open(file, formats=photos.formats()) as image:
            height, width = photos.upright_size(image)
            kind = str(image.format)
            file.seek(-min(size, TAIL), 2)
            tail = file.read()
        if kind not in ENDS or ENDS[kind] not in tail:
            photos.decoded(path)
    except Exception as error:  # whatever a damaged header makes Pillow raise
        return reason(error), (0, 0)
    return "", (width, height)


def reason(error: BaseException) -> str:
    """Why a file is no whole image, in a few words, by what opening or decoding it raised."""
    found = error.__cause__ or error
    if isinstance(found, UnidentifiedImageError):
        return "no image"
    return (str(found).splitlines() or [type(found).__name__])[0][:80]
