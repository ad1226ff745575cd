"""What the frozen model makes of test images and class names, computed once and kept.

A file of the cache (``SAGEKIT_CACHE``, or ``~/.cache/sagekit``) is named by a hash of all that its content depends on: CLIP's
name, weights and what they do not say (activation, mean, std, interpolation), and the images and the view, or the prompts. So
runs that differ in anything else share it, and a changed image, view, weight or prompt is another file. Writers may race: files
are written atomically and the last one wins with the same content. Deleting the folder costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.splits import Split
from ..data.views import Interpolation, crop_margin, test_side
from ..devices import measuring_precision
from ..errors import UserError
from ..files import load_tensors, save_tensors
from ..settings import MachineSettings, ViewSettings
from .backbone import Backbone


def cache_folder() -> Path:
    """Where features are kept."""
    return Path(os.environ.get("SAGEKIT_CACHE", Path.home() / ".cache" / "sagekit")).expanduser()


def text_rows(backbone: Backbone, sentences: Sequence[Sequence[str]], normalise_each: bool, shared: bool = False) -> Tensor:
    """``backbone.text_rows``, W^zs (C, d) or (C, e), from the cache where it is there."""
    text_tower = {name: t for name, t in backbone.clip.state_dict().items() if not name.startswith("visual.")}
    digest = _digest(backbone, {**text_tower, "proj": backbone.projection})
    device = backbone.mean.device
    said = [[list(own) for own in sentences], normalise_each, device.type, torch.get_float32_matmul_precision(), shared]
    digest.update(json.dumps(said).encode())
    path = cache_folder() / f"text-{digest.hexdigest()[:32]}.safetensors"
    found = read(path, len(sentences))
    if found is None:
        found = backbone.text_rows(sentences, normalise_each, shared)
        _keep(path, found)
    return found.to(device)


def place(backbone: Backbone, split: Split, views: ViewSettings, interpolation: Interpolation, machine: MachineSettings,
          device: torch.device, ensembling: bool, show: bool = True) -> Path | None:
    """The file of the cache for f^zs of every view of ``split``, resized by ``interpolation``: one, or the crops of
    ``views.ensemble`` (``ensembling``).

    None where an image file cannot be read: whoever decodes it will say so.
    """
    digest = _digest(backbone, backbone.visual.state_dict())
    try:
        digest.update(split.pixels(machine.workers, show).encode())
    except UserError:
        return None
    if not ensembling:
        view = f"single {test_side(views, backbone.image_size)}"
    elif views.ensemble == "random_crops":
        view = f"random_crops {views.random_crops} {views.crop_scale} {views.flip}"
    else:
        view = f"{views.ensemble} {crop_margin(views, backbone.image_size)}"
    with measuring_precision(machine, device):
        products = "bf16" if torch.is_autocast_enabled(device.type) else torch.get_float32_matmul_precision()
    digest.update(f"{view} {interpolation} {products} {device.type}".encode())
    return cache_folder() / f"images-{digest.hexdigest()[:32]}.safetensors"


def _digest(backbone: Backbone, weights: Mapping[str, Tensor]) -> hashlib._Hash:
    look = [backbone.name, backbone.quick_gelu, backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()]
    digest = hashlib.sha256(json.dumps(look).encode())
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest


def read(path: Path, rows: int) -> Tensor | None:
    """What ``path`` holds, float32 (rows, ...) on the CPU; None where it is absent, damaged or of another size."""
    with contextlib.suppress(UserError):
        found = load_tensors(path)["features"]
        if len(found) == rows:
            return found
    return None


def write(path: Path, parts: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """Keep ``parts``: places (n,) in the split and their features (n, V, d), together all of it.

    Does nothing where a part has no features (another process read them).
    """
    known = [features for _, features in parts if features is not None]
    if len(known) == len(parts):
        order = torch.cat([index for index, _ in parts]).argsort()
        _keep(path, torch.cat(known)[order])


def _keep(path: Path, features: Tensor) -> None:
    with contextlib.suppress(UserError, OSError):  # a full or forbidden disk: go on without a cache
        save_tensors(path, {"features": features})
