"""What a device makes of ViT-B/16: images a second of a step, the share of its matrix products' rate, and a whole job.

    python benchmarks/device.py [--batch 128] [--images 10847] [--epochs 10] [--test 10000] [--compile]

Random weights and made-up pixels, in the precision that `precision=auto` picks. The job is of CIFAR-100-LT's size: training,
then the test images once and with five crops. On a CPU: --batch 16 --images 64 --epochs 1 --test 32.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
import typer
from common import best, made_up, model_of, step_of, wait
from torch.utils.flop_counter import FlopCounterMode

import sagekit as sk
from sagekit.data import longtail
from sagekit.data.splits import Split
from sagekit.devices import accelerator_for, precision


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, 2 n^3 a product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=dtype).unbind()

    def product() -> None:
        a @ b
        wait(device)

    return 2 * n**3 / best(product, 10)


def operations(step: Callable[[], None]) -> int:
    """Of one step's matrix products, forward and backward, counted by torch (with plain attention: fused ones it may miss)."""
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        step()
    return counter.get_total_flops()


def steps(backbone: sk.Backbone, device: torch.device, batch: int, compiled: bool, rate: float) -> None:
    batches = made_up(batch, backbone.image_size, device=device)
    print("| step | images/s | operations an image | of the products' rate | peak memory |\n| --- | --- | --- | --- | --- |")
    for method in ("lift", "sage"):
        config = sk.Config.preset("cifar100-lt-100", method, pretrained="random")
        model = model_of(config, backbone, device=device)
        step = step_of(model, batches, config, device)
        count = operations(step)
        if compiled:
            model.features = torch.compile(model.features)  # type: ignore[method-assign]  # as the trainer does
        memory = "not measured"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = best(step, 10 if device.type == "cuda" else 3)
        if device.type == "cuda":
            memory = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB"
        print(f"| {method} | {batch / seconds:.1f} | {count / batch / 1e9:.1f}e9 | {count / seconds / rate:.0%} | {memory} |")


def job(backbone: sk.Backbone, images: int, epochs: int, test: int, batch: int, compiled: bool) -> tuple[float, pd.DataFrame]:
    """Seconds from made-up bytes to ``metrics.json``."""
    counts = longtail.profile(100, 500, 100.0)
    labels = torch.from_numpy(np.repeat(np.arange(100), counts))[:images]
    pixels = torch.randint(256, (len(labels) + test, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    splits = Split(labels, pixels[: len(labels)]), Split(torch.arange(test) % 100, pixels[len(labels) :])
    data = sk.DataSet("made up", *splits, [f"thing {c}" for c in range(100)], counts, {"own": longtail.groups(counts)})
    config = sk.Config.preset("cifar100-lt-100", pretrained="random", epochs=epochs, batch_size=batch, ensembling=True,
                              compile=compiled)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = sk.train(config, Path(folder) / "run", data=data, backbone=backbone)
        return time.perf_counter() - start, run.history


def main(batch: int = 128, images: int = 10847, epochs: int = 10, test: int = 10000, compile: bool = False) -> None:
    config = sk.Config.preset("cifar100-lt-100", pretrained="random")
    device = accelerator_for(config.machine).device
    dtype = torch.bfloat16 if precision(config.machine, device) == "bf16" else torch.float32
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rate = product_rate(device, dtype)
    print(f"{name}, torch {torch.__version__}, {dtype}: one product {rate / 1e12:.2f}e12 operations/s; batch {batch}, "
          f"compile {compile}\n")
    backbone = sk.load_backbone(config.network).to(device)
    steps(backbone, device, batch, compile, rate)
    seconds, history = job(backbone, images, epochs, test, batch, compile)
    print(f"\nThe job, {images:,} images x {epochs} epochs, then {test:,} test images, single view and five crops: "
          f"{seconds:.0f} s, of which training {history['seconds'].sum():.0f} s "
          f"({history['images_per_second'].iloc[-1]:.1f} images/s in the last epoch).")


if __name__ == "__main__":
    typer.run(main)
