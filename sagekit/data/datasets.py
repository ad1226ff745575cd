"""The data sets: the mini world, CIFAR-10-LT and CIFAR-100-LT, image lists, image folders.

``cifar``, ``lists`` and ``folders`` say what lies at a place; here it becomes a ``DataSet``, in this order:

    files that are no whole images       refused, or left out                                  bad_images
    test, where none is given            a share of each class, or as many of each             test_share, test_per_class
    classes that one side lacks          refused, kept in training, or left out                thin_classes
    validation, where none is given      a share of each class's training images               val_share
    long tail, where asked for           n_i = min(own, profile), in order of size             imbalance_ratio, largest_class
    small images of one size             held in memory                                        ``SMALL``, ``MEMORY``

Each step says in ``notes`` what it understood, left out or assumed. Whatever is wrong is one ``UserError`` line.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..errors import UserError, few
from ..progress import bar
from ..settings import DataSettings
from . import cifar, folders, lists, longtail, photos, world
from .heads import bad_files, sizes
from .names import read_sentences, read_templates
from .prompts import fill
from .splits import DataSet, Found, Split

SMALL = 64
"""Pixels: of a side that is never halved more than once on its way to a network."""
MEMORY = 2_000_000_000
"""Bytes that images of one size may take in memory."""


def load_data(settings: DataSettings, workers: int = 2, show: bool = False) -> DataSet:
    """The data of ``settings``; ``workers`` threads look at files. Raises ``UserError`` when files are missing, damaged or
    inconsistent."""
    found = find(settings)
    _leave_out_bad(found, settings, workers, show)
    _keep_a_test(found, settings)
    _mend_thin_classes(found, settings)
    _keep_validation(found, settings)
    if settings.imbalance_ratio is not None and found.counts100 is None:
        _make_long_tailed(found, settings.imbalance_ratio, settings)
    _repeated(found)
    _hold_in_memory(found, workers, show)
    return _finished(found, settings)


def find(settings: DataSettings) -> Found:
    """What lies at the place of ``settings``, as it lies there. Raises ``UserError``."""
    readers: dict[str, Callable[[DataSettings], Found]] = {
        "world": _world, "cifar10": cifar.read, "cifar100": cifar.read, "list": lists.read, "folder": folders.read}
    return readers[settings.dataset](settings)


# --- the mini world --------------------------------------------------------------------------------------------------


def _world(settings: DataSettings) -> Found:
    """Classes are ranked by a fixed shuffle, so that neither a texture nor a shape is rare as a whole."""
    classes = len(world.CLASS_NAMES)
    g = world.generator(settings.data_seed + 1_000_000_007)
    rank = torch.randperm(classes, generator=g)
    counts, counts100 = (torch.from_numpy(longtail.profile(classes, settings.largest_class, ratio))[rank]
                         for ratio in (settings.imbalance_ratio or 1.0, 100.0))
    if counts.min() == 0:
        raise UserError(f"imbalance_ratio {settings.imbalance_ratio:g} leaves classes without images; raise largest_class.")
    labels = torch.repeat_interleave(torch.arange(classes), counts)
    colours = world.training_colours(labels, counts, g, settings.mismatch)
    images, masks = world.render(world.sample(labels, world.DOWNSTREAM, g, colours), world.DOWNSTREAM, g)
    splits = {"train": Split(labels, images, masks=masks), "test": _balanced(classes, settings.test_per_class or 50, g)}
    if settings.val_per_class:
        splits["val"] = _balanced(classes, settings.val_per_class, g)
    names = list(world.CLASS_NAMES)
    return Found("mini world", names, names, splits, counts100=counts100.numpy())


def _balanced(classes: int, each: int, g: torch.Generator) -> Split:
    labels = torch.arange(classes).repeat_interleave(each)
    images, masks = world.render(world.sample(labels, world.DOWNSTREAM, g), world.DOWNSTREAM, g)
    return Split(labels, images, masks=masks)


# --- from what was found to a data set -------------------------------------------------------------------------------


def counted(split: Split, classes: int) -> np.ndarray:
    """Images of each class, int64 (``classes``,)."""
    return np.bincount(split.labels.numpy(), minlength=classes)


def _leave_out_bad(found: Found, settings: DataSettings, workers: int, show: bool) -> None:
    """Files that are no whole images, as far as their heads and ends tell; `sagekit data` opens every one."""
    for name, split in found.splits.items():
        bad = bad_files(split.paths or [], workers, show)
        if not bad:
            continue
        files = {str((split.paths or [])[place]): why for place, why in bad.items()}
        of = "" if name == "whole" else f" of {name}"
        first = few([f"{file} ({why})" for file, why in files.items()])
        said = f"{len(bad):,} of {len(split):,} files{of} are damaged or no images: {first}"
        if settings.bad_images == "refuse":
            raise UserError(f"{said}. Mend them, or go on without: --set bad_images=skip.")
        found.notes.append(f"{said}; left out")
        found.skipped += files
        found.splits[name] = split.take(torch.tensor([i for i in range(len(split)) if i not in bad], dtype=torch.long))


def _keep_a_test(found: Found, settings: DataSettings) -> None:
    """Where there is no test: the validation images are held for the end, or a part of the whole is kept."""
    if "test" in found.splits:
        return
    if "val" in found.splits:
        found.splits["test"] = found.splits.pop("val")
        if "whole" in found.splits:
            found.splits["train"] = found.splits.pop("whole")
        found.notes.append("no test split: the validation images are held for the end, as the test")
        return
    whole = found.splits.pop("whole" if "whole" in found.splits else "train")
    own, each = counted(whole, len(found.keys)), settings.test_per_class
    if each:
        kept = np.where(own > each, each, 0)
        found.notes.append(f"no test split: {each} image(s) of each class are kept for a balanced test (test_per_class)")
    else:
        kept = np.minimum(np.maximum(1, np.round(settings.test_share * own).astype(int)), np.maximum(own - 1, 0))
        found.notes.append(f"no test split: {100 * settings.test_share:g} % of each class are kept for the test, which is as "
                           "long-tailed as the rest (test_share); --set test_per_class=N keeps a balanced one")
    found.splits["train"], found.splits["test"] = _parted(whole, kept, settings.data_seed)


def _keep_validation(found: Found, settings: DataSettings) -> None:
    train = found.splits["train"]
    if "val" in found.splits or not settings.val_share:
        return
    own = counted(train, len(found.keys))
    kept = np.minimum(np.maximum(1, np.round(settings.val_share * own).astype(int)), np.maximum(own - 1, 0))
    found.splits["train"], found.splits["val"] = _parted(train, kept, settings.data_seed)
    found.notes.append(f"validation: {100 * settings.val_share:g} % of each class's training images (val_share)")


def _parted(whole: Split, kept: np.ndarray, seed: int) -> tuple[Split, Split]:
    """The rest, and ``kept`` (C,) random images of each class."""
    rng = np.random.default_rng(seed)
    rest, out = [], []
    for c, count in enumerate(kept):
        members = rng.permutation(np.flatnonzero(whole.labels.numpy() == c))
        out.append(members[:count])
        rest.append(members[count:])
    left, kept_out = (whole.take(torch.from_numpy(np.concatenate(part))) for part in (rest, out))
    return left, kept_out


def _make_long_tailed(found: Found, ratio: float, settings: DataSettings) -> None:
    """Draw the long tail that is asked for, and keep what its counts would be at ratio 100."""
    train = found.splits["train"]
    own = counted(train, len(found.keys))
    counts, found.counts100 = (longtail.served(own, settings.largest_class, beta) for beta in (ratio, 100.0))
    if counts.min() < 1:
        top = counts.max()
        raise UserError(f"imbalance_ratio {ratio:g} leaves the smallest classes without images, as the largest has {top}; at "
                        f"most {top} goes.")
    chosen = longtail.subsample(train.labels.numpy(), counts, settings.data_seed)
    found.splits["train"] = train.take(torch.from_numpy(chosen))
    found.notes.append(f"long tail: {len(chosen):,} of {len(train):,} training images, {counts.max():,} to {counts.min():,} a "
                       f"class; ratio asked {ratio:g}, reached {counts.max() / counts.min():.4g}")


def _mend_thin_classes(found: Found, settings: DataSettings) -> None:
    """Classes that training or test has no image of: as ``thin_classes`` says."""
    train, test = (counted(found.splits[name], len(found.keys)) for name in ("train", "test"))
    without_train, without_test = np.flatnonzero(train == 0), np.flatnonzero((test == 0) & (train > 0))
    if settings.thin_classes == "refuse":
        _refuse_thin(found, train, test, settings)
        return
    out = set(without_train.tolist()) | (set(without_test.tolist()) if settings.thin_classes == "leave_out" else set())
    if found.empty:
        found.notes.append(f"{len(found.empty)} class folder(s) without images left out: {few(found.empty)}")
    if out:
        found.notes.append(f"{len(out)} class(es) left out, which training or test has no image of: "
                           f"{few([found.keys[c] for c in sorted(out)])}")
        _without(found, out)
    if settings.thin_classes == "train" and len(without_test):
        found.notes.append(f"{len(without_test)} class(es) are in training only, and no test image shows them: "
                           f"{few([found.keys[c] for c in without_test])}")


def _refuse_thin(found: Found, train: np.ndarray, test: np.ndarray, settings: DataSettings) -> None:
    way = "Mend it, or say --set thin_classes=train (keep it in training only) or leave_out."
    if found.empty:
        raise UserError(f"class folder {found.empty[0]} has no images that can be read. Fill it or remove it, or say "
                        "--set thin_classes=leave_out.")
    if (train == 0).any():
        c = int(np.flatnonzero(train == 0)[0])
        raise UserError(f"class '{found.keys[c]}' has no training images (and {test[c]} in the test), like "
                        f"{(train == 0).sum() - 1} other(s). Mend it, or say --set thin_classes=leave_out.")
    if (test == 0).any():
        c = int(np.flatnonzero(test == 0)[0])
        raise UserError(f"class '{found.keys[c]}' has {train[c]} image(s) and none of them for the test, like "
                        f"{(test == 0).sum() - 1} other(s). {way}")


def _without(found: Found, out: set[int]) -> None:
    """Leave classes out; the others' labels close up."""
    stay = [c for c in range(len(found.keys)) if c not in out]
    if len(stay) < 2:
        raise UserError(f"only {len(stay)} class(es) would be left; at least 2 are needed.")
    new = torch.full((len(found.keys),), -1)
    new[stay] = torch.arange(len(stay))
    for name, split in found.splits.items():
        kept = split.take(torch.nonzero(new[split.labels] >= 0)[:, 0])
        kept.labels = new[kept.labels]
        found.splits[name] = kept
    gone = {found.keys[c] for c in out}
    found.keys, found.names = ([words[c] for c in stay] for words in (found.keys, found.names))
    found.labels = None if found.labels is None else [found.labels[c] for c in stay]
    found.wordless = [key for key in found.wordless if key not in gone]
    found.counts100 = None if found.counts100 is None else found.counts100[stay]


def _repeated(found: Found) -> None:
    """Say when one file is in two splits."""
    parts = [(name, set(split.paths)) for name, split in found.splits.items() if split.paths]
    for i, (first, a) in enumerate(parts):
        for second, b in parts[i + 1 :]:
            if both := a & b:
                found.notes.append(f"{len(both):,} file(s) are in both {first} and {second}, such as {min(both)}")


def _hold_in_memory(found: Found, workers: int, show: bool) -> None:
    """Files that are small and of one size are decoded once."""
    splits = [split for split in found.splits.values() if split.paths is not None and split.images is None and len(split)]
    if not splits:
        return
    known = {size for split in splits for size in sizes(split.paths or [])}
    total = sum(len(split) for split in splits)
    if len(known) != 1:
        return
    (width, height) = next(iter(known))
    if max(width, height) > SMALL or 3 * width * height * total > MEMORY:
        return
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for split in splits:
            images = bar(pool.map(photos.decoded, split.paths or []), total=len(split), what="small images", show=show)
            split.images = torch.stack(list(images))
    found.notes.append(f"{total:,} images of {width} x {height} pixels are held in memory "
                       f"({3 * width * height * total / 1e6:,.0f} MB)")


def _finished(found: Found, settings: DataSettings) -> DataSet:
    counts = counted(found.splits["train"], len(found.keys))
    by = {"own": counts} if found.counts100 is None else {"own": counts, "beta100": found.counts100}
    groups = {name: longtail.groups(n, settings.head_above, settings.tail_below) for name, n in by.items()}
    data = DataSet(settings.data_name or found.name, found.splits["train"], found.splits["test"], found.names, counts,
                   {**groups, "thirds": longtail.thirds(counts)}, found.splits.get("val"), found.keys, found.wordless,
                   notes=found.notes, skipped=found.skipped, labels=found.labels)
    data.sentences = _sentences(data, settings)
    return data


def _sentences(data: DataSet, settings: DataSettings) -> list[list[str]] | None:
    """Own texts of each class: sentences from a file, or own prompts around its name."""
    if settings.class_texts is not None:
        sentences, notes = read_sentences(settings.class_texts, data.keys, data.class_names)
        data.notes += [f"texts: {sum(map(len, sentences)):,} sentences from {settings.class_texts}", *notes]
        data.wordless = []
        return sentences
    if settings.templates_file is None:
        return None
    templates = read_templates(settings.templates_file)
    data.notes.append(f"texts: {len(templates)} prompt(s) from {settings.templates_file}")
    return [fill(templates, name) for name in data.class_names]


