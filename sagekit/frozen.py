"""Frozen features of test images, computed once and kept: f^zs depends on the images, the view and CLIP's weights alone.

A file of the cache (``SAGEKIT_CACHE``, or ``~/.cache/sagekit``) is named by a hash of those three, so runs that differ in
anything else share it, and a changed image, view or weight is another file. Writers may race: files are written atomically and
the last one wins with the same content. Deleting the folder costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .backbone import Backbone
from .config import Config
from .datasets import Split
from .devices import measuring_precision
from .errors import UserError
from .files import load_tensors, save_tensors, sha256
from .progress import bar


def cache_folder() -> Path:
    """Where features are kept."""
    return Path(os.environ.get("SAGEKIT_CACHE", Path.home() / ".cache" / "sagekit")).expanduser()


def place(backbone: Backbone, split: Split, config: Config, device: torch.device, ensembling: bool) -> Path | None:
    """The file of the cache for f^zs of every view of ``split``: one, or five crops (``ensembling``).

    None where an image file cannot be read: whoever decodes it will say so.
    """
    digest = hashlib.sha256()
    for name, tensor in backbone.visual.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    try:
        _add_images(digest, split, config)
    except OSError:
        return None
    view = config.ensemble_margin if ensembling else config.test_resize
    with measuring_precision(config, device):
        precision = "bf16" if torch.is_autocast_enabled(device.type) else "fp32"
    digest.update(f"{ensembling} {view} {precision} {device.type} {backbone.heads}".encode())
    return cache_folder() / f"{digest.hexdigest()[:32]}.safetensors"


def _add_images(digest: hashlib._Hash, split: Split, config: Config) -> None:
    if split.images is not None:
        digest.update(str(tuple(split.images.shape)).encode() + split.images.cpu().contiguous().numpy().tobytes())
        return
    assert split.paths is not None
    with ThreadPoolExecutor(max(1, config.workers)) as pool:
        for content in bar(pool.map(sha256, split.paths), total=len(split), what="test files"):
            digest.update(content.encode())


def read(path: Path, images: int) -> Tensor | None:
    """What ``path`` holds, float32 (images, V, d) on the CPU; None where it is absent, damaged or of another size."""
    with contextlib.suppress(UserError):
        found = load_tensors(path)["features"]
        if len(found) == images:
            return found
    return None


def write(path: Path, parts: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """Keep ``parts``: places (n,) in the split and their features (n, V, d), together all of it.

    Does nothing where a part has no features (another process read them) or nothing can be kept (a full or forbidden disk).
    """
    known = [features for _, features in parts if features is not None]
    if len(known) == len(parts):
        order = torch.cat([index for index, _ in parts]).argsort()
        with contextlib.suppress(UserError, OSError):
            save_tensors(path, {"features": torch.cat(known)[order]})
