"""The child of ``step.py --against``: the training steps of LIFT and Sage in the checkout that PYTHONPATH names.

    PYTHONPATH=CHECKOUT python benchmarks/one_step.py BATCH PRECISION [BACKBONE]

Prints lines of JSON: first, unasked, the bytes that each step keeps for its backward pass; then for each line "lift" or "sage"
that it reads, the seconds of one such step. Knows sagekit as it was at commit 4134977, and since methods have files of their
own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch

import sagekit as sk

Loss = Callable[[], torch.Tensor]
SETTINGS: dict[str, dict[str, Any]] = {"lift": {}, "sage": {"templates": 1}}  # texts are made up


def kept_bytes(parameters: Iterable[torch.Tensor], forward: Callable[[], object]) -> int:
    """Bytes of the distinct tensors, parameters left out, that ``forward`` saves for the backward pass."""
    own, seen = {p.untyped_storage().data_ptr() for p in parameters}, dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = forward()
    del result
    return sum(seen.values())


def main(batch: int, precision: str, backbone: str = "ViT-B-16-quickgelu") -> None:
    presets = {name: sk.Config.preset("cifar100-lt-100", name, pretrained="random", backbone=backbone, precision=precision,
                                      **settings) for name, settings in SETTINGS.items()}
    since = hasattr(sk, "methods")
    losses = (_since if since else _before)(presets, batch)
    kept = {name: kept_bytes(model.parameters(), loss) for name, (model, _, loss) in losses.items()}
    print(json.dumps(kept), flush=True)
    for line in sys.stdin:
        _, optimizer, loss = losses[line.strip()]
        begun = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps(time.perf_counter() - begun), flush=True)


def _since(presets: dict[str, sk.Config], batch: int) -> dict[str, Any]:
    """Model, optimizer and loss of each method, since methods have files of their own."""
    from common import loss_of, made_up, model_of, optimizer_of

    backbone, cpu = sk.load_backbone(presets["lift"].network), torch.device("cpu")
    found = {}
    for name, config in presets.items():
        model, batches = model_of(config, backbone), made_up(batch, backbone.image_size)
        found[name] = model, optimizer_of(model, config), loss_of(model, batches, config, cpu)
    return found


def _before(presets: dict[str, Any], batch: int) -> dict[str, Any]:
    """The same at commit 4134977, by the names of that time."""
    devices, losses, model, train = (import_module(f"sagekit.{name}") for name in ("devices", "losses", "model", "train"))
    backbone: Any = sk.load_backbone(presets["lift"])
    g = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(100, backbone.width, generator=g), dim=1)
    images = torch.rand(batch, 3, backbone.image_size, backbone.image_size, generator=g)
    labels = torch.randint(100, (batch,), generator=g)

    def loss_of(net: Any, config: Any) -> Loss:
        criterion = losses.criterion(config, torch.arange(100, 0, -1))

        def loss() -> torch.Tensor:
            with devices.training_precision(config, torch.device("cpu")):
                logits = net(images)
            logits = logits._make(z if z is None else z.float() for z in logits)
            return losses.interchange_loss(logits, labels, criterion, config)["loss"]

        return loss

    nets = {name: model.Model(backbone, text, config).train() for name, config in presets.items()}
    return {name: (net, train.optimizer_for(net, presets[name]), loss_of(net, presets[name])) for name, net in nets.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
