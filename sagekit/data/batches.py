"""Batches: a split's images, cropped into views, on the device.

An epoch is a permutation that depends on (seed, epoch) alone, and each image's random view on (seed, epoch, place): a
resumed run, or one with other worker processes, sees the same pixels. The last, incomplete batch of an epoch is left
out, so that every step has the same size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import Config
from ..errors import UserError
from . import photos, views
from .datasets import Split

VIEWS_A_STEP = {"proco": 2}
"""Losses that need more than one view of every image."""


def steps_per_epoch(split: Split, config: Config) -> int:
    """Full batches of ``config.batch_size`` in one epoch."""
    return len(split) // config.batch_size


def seed_of(*numbers: int) -> int:
    """One well-mixed 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_batches(split: Split, config: Config, size: int, epoch: int, device: torch.device, rank: int = 0,
                  processes: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's parts of the epoch's batches: images float (b, 3, size, size) in 0..1, labels (b,).

    A batch of ``config.batch_size`` is dealt evenly to ``processes`` and then to ``config.accumulate`` parts. With
    ``VIEWS_A_STEP`` views of an image, all first views come before all second ones, and ``labels`` are repeated.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed_of(config.seed, epoch)))
    batches = order[: steps_per_epoch(split, config) * config.batch_size].split(config.batch_size)
    share = config.batch_size // (config.accumulate * processes)
    mine = [slice(start, start + share) for start in range(rank * share, config.batch_size, processes * share)]
    if split.images is None:
        parts = [batch[part] for batch in batches for part in mine]
        yield from _photo_batches(split, config, size, epoch, parts, device)
        return
    images = split.images.to(device)
    for step, batch in enumerate(batches):
        g = torch.Generator().manual_seed(seed_of(config.seed, epoch, step))
        drawn = [views.draw_train_views(config.batch_size, images.shape[-2], images.shape[-1], config, g)
                 for _ in range(VIEWS_A_STEP.get(config.loss, 1))]
        for part in mine:
            chosen = images[batch[part].to(device)]
            view = torch.cat([views.crop_and_resize(chosen, boxes[part], size, flips[part]) / 255 for boxes, flips in drawn])
            yield view, split.labels[batch[part]].repeat(len(drawn)).to(device)


def evaluation_batches(split: Split, config: Config, size: int, device: torch.device, ensembling: bool, rank: int = 0,
                 processes: int = 1) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Yield (views, index) for this process's share of a split in order: one centre view or five crops, each float
    (b, 3, size, size), and the images' places ``index`` (b,) in the split."""
    index = torch.arange(rank, len(split), processes)
    chunks = list(index.split(500 if split.images is not None and size < 100 else 64))
    if split.images is not None:
        for chunk in chunks:
            yield views.evaluation_views(split.images[chunk].to(device), size, config, ensembling), chunk
        return
    loader = DataLoader(_TestPhotos(split, size, config, ensembling), batch_sampler=_lists(chunks), num_workers=config.workers,
                        pin_memory=device.type == "cuda")
    for stack, chunk in zip(_clear_errors(loader), chunks, strict=True):
        yield stack.to(device, non_blocking=True).unbind(1), chunk


def single_views(split: Split, config: Config, size: int) -> tuple[Tensor, Tensor | None]:
    """What the model sees of a few test images: float (N, 3, size, size) in 0..1 on the CPU, and the object's pixels in the
    same crop, bool (N, size, size), where they are known."""
    pixels = torch.cat([crop for (crop,), _ in evaluation_batches(split, config, size, torch.device("cpu"), False)])
    if split.masks is None:
        return pixels, None
    return pixels, views.centre_view(255 * split.masks[:, None].float(), size, config)[:, 0] > 0.5


def _photo_batches(split: Split, config: Config, size: int, epoch: int, batches: list[Tensor],
                   device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(_TrainPhotos(split, size, config, epoch), batch_sampler=_lists(batches), num_workers=config.workers,
                        pin_memory=device.type == "cuda")
    for images, labels in _clear_errors(loader):  # bytes until they are there: a quarter of the traffic
        yield images.to(device, non_blocking=True) / 255, labels.to(device, non_blocking=True)


def _lists(batches: list[Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def _clear_errors(loader: DataLoader[Any]) -> Iterator[Any]:
    """A worker process wraps the error in its traceback; give the user its one line."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from None


@dataclass
class _TrainPhotos(Dataset[tuple[Tensor, Tensor]]):
    """Each file's random view; its randomness depends on (seed, epoch, place) alone."""

    split: Split
    size: int
    config: Config
    epoch: int

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        assert self.split.paths is not None
        g = torch.Generator().manual_seed(seed_of(self.config.seed, self.epoch, index))
        return photos.train_view(self.split.paths[index], self.size, self.config, g), self.split.labels[index]


@dataclass
class _TestPhotos(Dataset[Tensor]):
    """Each file's deterministic views."""

    split: Split
    size: int
    config: Config
    ensembling: bool

    def __getitem__(self, index: int) -> Tensor:
        assert self.split.paths is not None
        return photos.evaluation_views(self.split.paths[index], self.size, self.config, self.ensembling)
