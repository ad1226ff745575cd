"""Photographs: image files of any size, decoded no larger than their view needs.

A JPEG decodes to 1/k of its size (k = 2, 4, 8) in a fraction of the time. A view that takes ``found`` pixels to ``wanted`` uses
the largest k with

    found / k >= 2 wanted

so resizing still sees two pixels for each that it makes. A pixel then changes by about half of one of 255 grey levels in the
mean (benchmarks/reading.py); rounding to bytes alone makes a quarter.

Every file becomes red, green and blue bytes in the same way, for training, test, uploads and ``decoded``:

    grey, 16 bit      v / 65535                      RGB of 16 bit: its upper byte (Pillow)
    whole numbers     v / 65535 where all of them lie in 0..65535, else (v - min) / (max - min)
    floats            v where all of them lie in 0..1,             else (v - min) / (max - min);  no number: black
    EXIF              the picture is turned as its orientation says
    transparency      a v + (1 - a) white
    an animation      its first frame

times 255 and rounded. Colour profiles (ICC) are left alone: the numbers are taken as they are in the file, as the images were
that CLIP was trained on.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from ..settings import ViewSettings
from . import views
from .views import Interpolation, View

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
     ".tga", ".jp2", ".avif"))
"""Of files that are taken for images. Formats that are programs (EPS) or need a plug-in (HEIC) are not among them."""
UPLOAD_LIMIT = 10_000_000
"""Bytes of an image that someone hands in."""
UPLOAD_PIXELS = 40_000_000
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
ORIENTATION = 0x0112
"""EXIF's tag."""
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
"""What makes a picture upright, by its orientation; from 5 on width and height change places."""


def train_views(path: Path, size: int, recipes: tuple[View, ...], settings: ViewSettings, g: torch.Generator,
                done: float = 0.0) -> tuple[Tensor, ...]:
    """The file as each recipe shows it when the share ``done`` of the stage's epochs is over, uint8 (3, size, size) each, drawn
    from ``g`` alone and in that order.

    Raises ``UserError`` when the file is no whole image.
    """
    return tuple(_train_view(path, size, view, settings, g, done) for view in recipes)


def _train_view(path: Path, size: int, view: View, settings: ViewSettings, g: torch.Generator, done: float) -> Tensor:
    if view.draw == "shift":
        shown, seeds = _shifted(path, size, view, settings, g)
    else:
        shown, seeds = _cropped(path, size, view, settings, g, done)
    return shown if seeds is None else views.alter(shown, view, int(seeds))


def _cropped(path: Path, size: int, view: View, settings: ViewSettings, g: torch.Generator,
             done: float) -> tuple[Tensor, Tensor | None]:
    with _opened(path, str(path)) as image:
        whole = upright_size(image)
        draws = views.draw_train_views(1, *whole, view, settings, g, done)
        pixels = _pixels(image, reduction(draws.boxes[:, 2:].min().item(), size))
    return _cut(pixels, whole, draws, size, view.interpolation)[0], draws.seeds


def _cut(pixels: Tensor, whole: tuple[int, int], draws: views.Draws, size: int, interpolation: Interpolation) -> list[Tensor]:
    """The crops of ``draws``, uint8 (3, size, size) each, out of ``pixels`` (3, h, w) of a file of ``whole`` height, width."""
    from torchvision.transforms import v2  # slow to import

    shrunk, found = torch.tensor(pixels.shape[1:]) / torch.tensor(whole), []
    for box, flip in zip(draws.boxes, draws.flips.tolist(), strict=True):
        top, left = (box[:2] * shrunk).round().int().tolist()
        bottom, right = ((box[:2] + box[2:]) * shrunk).round().int().tolist()
        shown = v2.functional.resized_crop(pixels, top, left, bottom - top, right - left, [size, size],
                                           v2.InterpolationMode(interpolation), antialias=True)
        found.append(shown.flip(-1) if flip else shown)
    return found


def _shifted(path: Path, size: int, view: View, settings: ViewSettings, g: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Files differ in size, and a shift is a share of the view: so the centre is cut first."""
    from torchvision.transforms import v2  # slow to import

    centre = v2.functional.center_crop(_resized(path, size), [size, size])
    boxes, flips, seeds = views.draw_train_views(1, size, size, view, settings, g)
    return views.crop_and_resize(centre[None], boxes, size, flips)[0].round().byte(), seeds


def evaluation_views(path: Path, size: int, settings: ViewSettings, ensembling: bool, interpolation: Interpolation,
                     g: torch.Generator | None = None) -> Tensor:
    """The centre view of the file or the crops of ``settings.ensemble``, float (V, 3, size, size) in 0..1; the random ones are
    drawn from ``g``. Raises as ``train_views``.

    Resized as bytes, as LIFT's transforms do: several times faster than in floats.
    """
    if ensembling and settings.ensemble == "random_crops":
        assert g is not None
        with _opened(path, str(path)) as image:
            whole = upright_size(image)
            draws = views.draw_test_crops(*whole, settings, g)
            pixels = _pixels(image, reduction(draws.boxes[:, 2:].min().item(), size))
        return torch.stack(_cut(pixels, whole, draws, size, interpolation)) / 255
    resized = _resized(path, views.resized_side(settings, size, ensembling), interpolation)
    return torch.stack(views.evaluation_views(resized, size, settings, ensembling, interpolation))


def decoded(path: Path) -> Tensor:
    """The whole file, uint8 (3, H, W). Raises ``UserError`` naming the file when it is damaged or no image."""
    with _opened(path, str(path)) as image:
        return _pixels(image)


def decode_upload(content: bytes, name: str) -> Tensor:
    """The pixels of a file that someone hands in, uint8 (3, H, W). Raises ``UserError`` for more than ``UPLOAD_LIMIT`` bytes or
    ``UPLOAD_PIXELS`` pixels, and for what is none of ``UPLOAD_FORMATS``."""
    if len(content) > UPLOAD_LIMIT:
        raise UserError(f"{name} has {len(content) / 1e6:.1f} MB; at most {UPLOAD_LIMIT / 1e6:.0f} MB are taken.")
    with _opened(io.BytesIO(content), name, UPLOAD_FORMATS) as image:
        if image.width * image.height > UPLOAD_PIXELS:  # said by the header: nothing is unpacked yet
            raise UserError(f"{name} has {image.width} x {image.height} pixels; at most {UPLOAD_PIXELS / 1e6:.0f} million go.")
        return _pixels(image)


@cache
def formats() -> tuple[str, ...]:
    """What a file may be, whatever it is called, as far as this machine's Pillow reads it."""
    Image.init()
    return tuple(name for name in ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF")
                 if name in Image.OPEN)


def reduction(found: float, wanted: int) -> int:
    """The largest k in 1, 2, 4, 8 with ``found`` / k >= 2 ``wanted`` (pixels), or 1."""
    return max(k for k in (1, 2, 4, 8) if k == 1 or found >= 2 * k * wanted)


@contextlib.contextmanager
def _opened(file: Path | io.BytesIO, name: str, kinds: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=kinds or formats()) as image:
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is damaged or not an image ({str(error)[:80]}).") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as ``_pixels`` will have them, from the header alone."""
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """1..8 as EXIF has it; 1 where it says nothing, is damaged, or where Pillow turns the picture itself (TIFF)."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever damaged EXIF makes Pillow raise: the picture itself may be whole
        return 1
    return found if found in _TURNS else 1


def _pixels(image: Image.Image, smaller: int = 1) -> Tensor:
    """Uint8 (3, H, W): of a JPEG that is ``smaller`` times smaller, of anything else as it is."""
    from torchvision.transforms import v2  # slow to import

    if smaller > 1:
        image.draft(None, (image.width // smaller, image.height // smaller))
    if (turn := _orientation(image)) > 1:
        image = image.transpose(_TURNS[turn])
    if image.mode.startswith(("I", "F")):
        return _scaled(image).expand(3, -1, -1)
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return v2.functional.pil_to_tensor(image.convert("RGB"))


def _scaled(image: Image.Image) -> Tensor:
    """Uint8 (H, W) of a grey image whose numbers are no bytes, scaled by their range."""
    values = np.asarray(image).astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    full = 1.0 if image.mode == "F" else 65535.0
    if low >= 0 and high <= full:
        low, high = 0.0, full
    shown = np.nan_to_num((values - low) / ((high - low) or 1), nan=0, posinf=0, neginf=0)
    if isinstance(hidden := image.info.get("transparency"), int):  # PNG names one value that is not to be seen
        shown[values == hidden] = 1
    return torch.from_numpy((255 * shown).round().astype(np.uint8))


def _resized(path: Path, side: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """The file with its shorter side at ``side`` pixels, uint8 (3, H, W)."""
    with _opened(path, str(path)) as image:
        pixels = _pixels(image, reduction(min(image.size), side))
    return views.resize(pixels, side, interpolation)
