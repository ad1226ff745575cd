"""Batches: a split's images, shown by views, on the device.

A step is fed one batch from each sampler, and each image in it as every view shows it. A sampler's order depends on
(seed, epoch) alone, and an image's random views on (seed, epoch, step) or, for files, on (seed, epoch, place): a resumed run,
or one with other worker processes, sees the same pixels. ``epoch`` counts through all stages. A test image's random
crops depend on its place alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..settings import ViewSettings
from . import photos, views
from .samplers import Sampler, every_image
from .splits import Split
from .views import Interpolation, View, crop


class Batch(NamedTuple):
    """Some training images, on the device."""

    views: tuple[Tensor, ...]
    """As each of V views shows them: float (b, 3, S, S) in 0..1."""
    labels: Tensor
    """Int64 (b,)."""
    places: Tensor
    """Where they are in the training split, int64 (b,)."""


@dataclass(frozen=True)
class Feed:
    """What a step is fed: a batch of ``batch_size`` images, over all devices and accumulated parts, from each sampler."""

    batch_size: int = 128
    samplers: tuple[Sampler, ...] = (every_image,)
    views: tuple[View, ...] = (crop,)
    drop_last: bool = False
    """Whether an epoch leaves out its last, incomplete batch."""


def steps_per_epoch(images: int, feed: Feed, parts: int = 1) -> int:
    """Steps in one epoch of ``images``, of which each batch is dealt to ``parts`` (processes times accumulated parts).

    A batch loses the images that cannot be dealt evenly; a last one of fewer images than parts is no step.
    """
    full, rest = divmod(images, feed.batch_size)
    return full + (not feed.drop_last and rest >= parts)


def seed_of(*numbers: int) -> int:
    """One well-mixed 63-bit seed out of several numbers. Of up to four, zeros at the end change nothing."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """What a method may draw from in one step, apart from the views."""
    return _generator(seed, epoch, step, 0, 1)


def train_batches(split: Split, feed: Feed, settings: ViewSettings, size: int, seed: int, epoch: int, device: torch.device,
                  rank: int = 0, processes: int = 1, accumulate: int = 1, workers: int = 0,
                  done: float = 0.0) -> Iterator[tuple[Batch, ...]]:
    """Yield this process's parts of the epoch's steps, ``accumulate`` a step: a batch from each sampler, ``size`` pixels wide.

    A step's batch is dealt evenly to ``accumulate`` parts and then to ``processes``. ``workers`` processes decode files.
    ``done`` is the share of the stage's epochs that are done, for samplers and views that move with it.
    Raises ``UserError`` when a file is no whole image.
    """
    orders = [sampler(split.labels, _generator(seed, epoch, 0, 1, k) if k else _generator(seed, epoch), done)
              for k, sampler in enumerate(feed.samplers)]
    steps = list(zip(*(order.split(feed.batch_size) for order in orders), strict=True))
    steps = steps[: steps_per_epoch(len(split), feed, processes * accumulate)]
    dealt = [[_dealt(len(step[0]), part, rank, processes, accumulate) for part in range(accumulate)] for step in steps]
    if split.images is None:
        chosen = [tuple(places[part] for places in step) for step, parts in zip(steps, dealt, strict=True) for part in parts]
        yield from _photo_batches(_TrainPhotos(split, feed.views, settings, size, seed, epoch, done), chosen, device, workers)
        return
    images = split.images.to(device)
    for number, (step, parts) in enumerate(zip(steps, dealt, strict=True)):
        drawn = [_drawn(len(places), images, feed, settings, _generator(seed, epoch, number, k), done)
                 for k, places in enumerate(step)]
        for part in parts:
            yield tuple(_batch(split, images, places[part], size, feed, [draws.take(part) for draws in of_sampler])
                        for places, of_sampler in zip(step, drawn, strict=True))


def evaluation_batches(split: Split, settings: ViewSettings, size: int, device: torch.device, ensembling: bool, rank: int = 0,
                       processes: int = 1, workers: int = 0, *,
                       interpolation: Interpolation) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Yield (views, index) for this process's share of a split in order: one centre view or several crops, each float
    (b, 3, size, size), and the images' places ``index`` (b,) in the split. ``size`` and ``interpolation`` are the method's."""
    index = torch.arange(rank, len(split), processes)
    chunks = list(index.split(500 if split.images is not None and size < 100 else 64))
    if split.images is not None:
        for chunk in chunks:
            shown = split.images[chunk].to(device)
            draws = map(_of_test_image, chunk.tolist())
            yield views.evaluation_views(shown, size, settings, ensembling, interpolation, draws), chunk
        return
    files = _TestPhotos(split, size, settings, ensembling, interpolation)
    loader = _loader(files, [chunk.tolist() for chunk in chunks], device, workers)
    for stack, chunk in zip(_clear_errors(loader), chunks, strict=True):
        yield stack.to(device, non_blocking=True).unbind(1), chunk


def single_views(split: Split, settings: ViewSettings, size: int,
                 interpolation: Interpolation) -> tuple[Tensor, Tensor | None]:
    """What the model sees of a few test images: float (N, 3, size, size) in 0..1 on the CPU, and the object's pixels in the
    same crop, bool (N, size, size), where they are known."""
    batches = evaluation_batches(split, settings, size, torch.device("cpu"), False, interpolation=interpolation)
    pixels = torch.cat([shown for (shown,), _ in batches])
    if split.masks is None:
        return pixels, None
    return pixels, views.centre_view(255 * split.masks[:, None].float(), size, settings)[:, 0] > 0.5


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*numbers))


def _of_test_image(place: int) -> torch.Generator:
    """What a test image's random crops are drawn from: the same in every measurement."""
    return _generator(0, 0, place, 0, 2)


def _dealt(images: int, part: int, rank: int, processes: int, accumulate: int) -> slice:
    """Which images of a step's batch this process has in one of the step's parts."""
    share = images // (processes * accumulate)
    start = (part * processes + rank) * share
    return slice(start, start + share)


def _drawn(n: int, images: Tensor, feed: Feed, settings: ViewSettings, g: torch.Generator, done: float) -> list[views.Draws]:
    """Every view's choices for a whole batch, so that they do not depend on how it is dealt."""
    return [views.draw_train_views(n, images.shape[-2], images.shape[-1], view, settings, g, done) for view in feed.views]


def _batch(split: Split, images: Tensor, places: Tensor, size: int, feed: Feed, drawn: list[views.Draws]) -> Batch:
    chosen = images[places.to(images.device)]
    shown = tuple(views.train_view(chosen, size, view, draws) for view, draws in zip(feed.views, drawn, strict=True))
    return Batch(shown, split.labels[places].to(images.device), places.to(images.device))


def _photo_batches(dataset: _TrainPhotos, parts: list[tuple[Tensor, ...]], device: torch.device,
                   workers: int) -> Iterator[tuple[Batch, ...]]:
    """One loader for all samplers: a list of (sampler, place) holds a part's batches one after the other."""
    tagged = [[(k, place) for k, places in enumerate(part) for place in places.tolist()] for part in parts]
    for (shown, labels, places), part in zip(_clear_errors(_loader(dataset, tagged, device, workers)), parts, strict=True):
        # Bytes until they are on the device: a quarter of the traffic.
        images = [one.to(device, non_blocking=True) / 255 for one in shown]
        columns = [tensor.chunk(len(part)) for tensor in (*images, labels.to(device), places.to(device))]
        yield tuple(Batch(tuple(row[:-2]), *row[-2:]) for row in zip(*columns, strict=True))


def _loader(dataset: Dataset[Any], lists: list[Any], device: torch.device, workers: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch_sampler=lists, num_workers=workers, pin_memory=device.type == "cuda")


def _clear_errors(loader: DataLoader[Any]) -> Iterator[Any]:
    """A worker process wraps the error in its traceback; give the user its one line."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from None


@dataclass
class _TrainPhotos(Dataset[tuple[tuple[Tensor, ...], Tensor, int]]):
    """Each file's random views; their randomness depends on (seed, epoch, place) and the sampler alone."""

    split: Split
    recipes: tuple[View, ...]
    settings: ViewSettings
    size: int
    seed: int
    epoch: int
    done: float

    def __getitem__(self, tagged: tuple[int, int]) -> tuple[tuple[Tensor, ...], Tensor, int]:
        assert self.split.paths is not None
        k, place = tagged
        shown = photos.train_views(self.split.paths[place], self.size, self.recipes, self.settings,
                                   _generator(self.seed, self.epoch, place, k), self.done)
        return shown, self.split.labels[place], place


@dataclass
class _TestPhotos(Dataset[Tensor]):
    """Each file's test views, the same whenever it is measured."""

    split: Split
    size: int
    settings: ViewSettings
    ensembling: bool
    interpolation: Interpolation

    def __getitem__(self, index: int) -> Tensor:
        assert self.split.paths is not None
        return photos.evaluation_views(self.split.paths[index], self.size, self.settings, self.ensembling,
                                       self.interpolation, _of_test_image(index))
