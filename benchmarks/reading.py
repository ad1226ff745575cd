"""Reading photographs: images a second of one core, decoded whole and decoded no larger than the view needs.

    python benchmarks/reading.py

The pictures are made up: noise with the spectrum of photographs (amplitude falls as 1 / frequency) and sharp discs, as JPEGs of
quality 90. "differs" is the mean of what a pixel of the test view changes by, in 255 grey levels.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from common import best
from PIL import Image

import sagekit as sk
from sagekit.data import photos
from sagekit.data.views import crop

SIZES = ((500, 375), (800, 600), (1600, 1200), (4000, 3000))
VIEWS = sk.Config.preset("imagenet-lt").views


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """One made-up photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(y, x), 1 / max(width, height))
    common = rng.normal(size=(2, *falloff.shape))
    channels = []
    for _ in range(3):
        real, imaginary = 0.8 * common + 0.3 * rng.normal(size=common.shape)
        channel = np.fft.irfft2((real + 1j * imaginary) * falloff, s=(height, width))
        channels.append(128 + 50 * (channel - channel.mean()) / channel.std())
    pixels = np.stack(channels, -1)
    row, column = np.mgrid[:height, :width]
    for _ in range(12):
        place, radius = rng.uniform(0, (height, width)), rng.uniform(height / 30, height / 5)
        disc = (row - place[0]) ** 2 + (column - place[1]) ** 2 < radius**2
        pixels[disc] = 0.3 * pixels[disc] + 0.7 * rng.uniform(0, 255, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def seconds(view: Callable[[int], object], calls: int) -> float:
    """Of one view."""
    return best(lambda: [view(number) for number in range(calls)], 3) / calls


def measured(path: Path, calls: int) -> tuple[float, float, torch.Tensor]:
    """Seconds of a training view and of a test view, and the test view."""
    train = seconds(lambda n: photos.train_views(path, 224, (crop,), VIEWS, torch.Generator().manual_seed(n)), calls)
    test = seconds(lambda _: photos.evaluation_views(path, 224, VIEWS, False, "bilinear"), calls)
    return train, test, photos.evaluation_views(path, 224, VIEWS, False, "bilinear")


def main() -> None:
    torch.set_num_threads(1)
    print("| pixels | kB | training views/s, whole | reduced | | test views/s, whole | reduced | | differs |")
    print("| --- " * 9 + "|")
    with TemporaryDirectory() as folder:
        for width, height in SIZES:
            path, calls = Path(folder) / f"{width}.jpg", max(2, 12_000_000 // (width * height))
            picture(width, height).save(path, quality=90)
            with mock.patch.object(photos, "reduction", return_value=1):
                whole_train, whole_test, exact = measured(path, calls)
            train, test, view = measured(path, calls)
            print(f"| {width} x {height} | {path.stat().st_size / 1e3:,.0f} | {1 / whole_train:.0f} | {1 / train:.0f} | "
                  f"{whole_train / train:.2f} x | {1 / whole_test:.0f} | {1 / test:.0f} | {whole_test / test:.2f} x | "
                  f"{255 * (view - exact).abs().mean():.2f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
