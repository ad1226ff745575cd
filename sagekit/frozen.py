"""Frozen features of test images, computed once and kept: f^zs depends on the pixels, the view and CLIP's weights alone.

A file of the cache (``SAGEKIT_CACHE``, or ``~/.cache/sagekit``) is named by a hash of those three, so runs that differ in
anything else share it, and a changed image, view or weight is another file. Writers may race: files are written atomically and
the last one wins with the same content. Deleting the folder costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from .backbone import Backbone
from .batches import evaluation_batches
from .config import Config
from .datasets import Split
from .devices import measuring_precision
from .errors import UserError
from .files import load_tensors, save_tensors


def cache_folder() -> Path:
    """Where features are kept."""
    return Path(os.environ.get("SAGEKIT_CACHE", Path.home() / ".cache" / "sagekit")).expanduser()


@torch.no_grad()
def frozen_features(backbone: Backbone, split: Split, config: Config, device: torch.device, ensembling: bool) -> Tensor:
    """f^zs of every view of every image of ``split`` in order: float32 (N, V, d) on the CPU, V = 1 or 5 (``ensembling``).

    ``split`` must be held in memory.
    """
    with measuring_precision(config, device):
        precision = "bf16" if torch.is_autocast_enabled(device.type) else "fp32"
        path = cache_folder() / f"{_key(backbone, split, config, ensembling, precision, device)}.safetensors"
        with contextlib.suppress(UserError):  # absent or damaged: compute it
            found = load_tensors(path)["features"]
            if found.shape[0] == len(split) and found.shape[2] == backbone.width:
                return found
        parts = [torch.stack([backbone.features(crop) for crop in crops], 1).float().cpu()
                 for crops, _ in evaluation_batches(split, config, backbone.image_size, device, ensembling)]
    features = torch.cat(parts)
    with contextlib.suppress(UserError, OSError):  # a full or forbidden disk: go on without a cache
        save_tensors(path, {"features": features})
    return features


def _key(backbone: Backbone, split: Split, config: Config, ensembling: bool, precision: str, device: torch.device) -> str:
    assert split.images is not None
    digest = hashlib.sha256()
    for name, tensor in backbone.visual.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    digest.update(str(tuple(split.images.shape)).encode() + split.images.cpu().contiguous().numpy().tobytes())
    view = config.ensemble_margin if ensembling else config.test_resize
    digest.update(f"{ensembling} {view} {precision} {device.type} {backbone.heads}".encode())
    return digest.hexdigest()[:32]
