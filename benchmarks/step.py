"""One training step at ViT-B/16 (random weights, 224 px): images a second of LIFT, a literal Sage step and ours, in one run.

    python benchmarks/step.py [BATCH] [REPEATS] [--precision auto]
    python benchmarks/step.py [BATCH] [REPEATS] --against PATH         # this checkout against the one at PATH

The literal step is the paper's text in vectorised form: the guidance repeated for every token, W_proj on every token,
both branches through every token of every block by open_clip's own blocks. "plain" is LIFT in the same way.

Memory is what the forward keeps for the backward pass (bytes of distinct saved tensors that are no parameters); "folded" is
inference of Sage's folded form against an AdaptFormer of the same hidden width.

``--against`` starts each checkout in a process of its own (``one_step.py``) and asks them for a step in turn, A B A B, so that
a slow moment meets both alike and only one computes at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import torch
import torch.nn.functional as F
import typer
from common import best_of, loss_of, made_up, model_of, step_of
from one_step import kept_bytes

import sagekit as sk
from sagekit.methods.lift import Lift
from sagekit.methods.sage import Sage
from sagekit.networks.adapters import SGAdapter
from sagekit.networks.heads import Features

HERE = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
BACKBONE = "ViT-B-16-quickgelu"


def literal_adapter(adapter: SGAdapter, tokens: torch.Tensor, w_bar: torch.Tensor) -> torch.Tensor:
    f_v = adapter.norm(tokens)
    f_t = adapter.norm(w_bar.expand_as(tokens))
    f_vt = adapter.proj(f_t) * f_v
    u = torch.cat([adapter.down_v(f_v), adapter.down_vt(f_vt) + adapter.scale_vt * adapter.down_t(f_t)], -1)
    up = adapter.alpha * F.linear(F.relu(u), adapter.up.weight) + (1 - adapter.alpha) * F.linear(u, adapter.up.weight)
    return adapter.scale * (up + adapter.up.bias)


def literal_features(model: Sage, images: torch.Tensor) -> Features:
    net, w_bar = model.net.backbone, model.guidance()
    tokens = net.embed(images)
    for block, adapter in zip(net.blocks, model.net.adapters or (), strict=True):
        mid = tokens + block.attention(block.ln_1(tokens))
        tokens = mid + block.mlp(block.ln_2(mid)) + literal_adapter(cast(SGAdapter, adapter), mid, w_bar)
    with torch.no_grad():
        frozen = net.pool(net.visual.transformer(net.embed(images)))
    return Features(net.pool(tokens), frozen)


def plain_features(model: Lift, images: torch.Tensor) -> Features:
    net = model.net.backbone
    tokens = net.embed(images)
    for block, adapter in zip(net.blocks, model.net.adapters or (), strict=True):
        mid = tokens + block.attention(block.ln_1(tokens))
        tokens = mid + block.mlp(block.ln_2(mid)) + adapter(mid)
    return Features(net.pool(tokens))


def folded(backbone: sk.Backbone, images: torch.Tensor, repeats: int) -> None:
    sage = cast(Sage, model_of(preset("sage", fit=False), backbone)).eval().fold()
    assert sage.net.adapters is not None
    width = cast(torch.nn.Linear, sage.net.adapters[0].down).out_features
    adaptformer = model_of(preset("lift", bottleneck=width), backbone).eval()

    def inference(model: sk.Method) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                model.logits(images)
        return run

    best = best_of(repeats, {"AdaptFormer": inference(adaptformer), "folded Sage": inference(sage)})
    print(f"\nInference, hidden width {width}: AdaptFormer {len(images) / best['AdaptFormer']:.1f} images/s, folded Sage "
          f"{len(images) / best['folded Sage']:.1f} images/s, {best['AdaptFormer'] / best['folded Sage']:.2f} x")


def preset(method: str, **changes: object) -> sk.Config:
    return sk.Config.preset("cifar100-lt-100", method, **{"pretrained": "random", "backbone": BACKBONE, **changes})


def here(batch: int, repeats: int, precision: str) -> None:
    """This checkout: LIFT and Sage beside their literal forms."""
    lift, sage = (preset(name, precision=precision) for name in ("lift", "sage"))
    backbone = sk.load_backbone(lift.network)
    batches = made_up(batch, backbone.image_size)
    plain, literal = cast(Lift, model_of(lift, backbone)), cast(Sage, model_of(sage, backbone))
    plain.features = lambda images, frozen=None: plain_features(plain, images)  # type: ignore[method-assign]
    literal.features = lambda images, frozen=None: literal_features(literal, images)  # type: ignore[method-assign]
    models = {"LIFT": (lift, model_of(lift, backbone)), "LIFT, plain": (lift, plain), "Sage, literal": (sage, literal),
              "Sage, ours": (sage, model_of(sage, backbone))}
    best = best_of(repeats, {name: step_of(model, batches, config, CPU) for name, (config, model) in models.items()})
    print(f"{BACKBONE}, random weights, {backbone.image_size} px, batch {batch}, precision {precision}, CPU, "
          f"{torch.get_num_threads()} threads, best of {repeats}")
    print("| step | images/s | speed against the literal Sage step | time against LIFT |\n| --- | --- | --- | --- |")
    for name, seconds in best.items():
        print(f"| {name} | {batch / seconds:.1f} | {best['Sage, literal'] / seconds:.2f} x | {seconds / best['LIFT']:.2f} x |")
    checkpointed = sage.changed(checkpointing=True)
    models = {"LIFT": models["LIFT"], "Sage": models["Sage, ours"],
              "Sage, checkpointing": (checkpointed, model_of(checkpointed, backbone))}
    kept = {name: kept_bytes(model.parameters(), loss_of(model, batches, config, CPU))
            for name, (config, model) in models.items()}
    print("\nKept for the backward pass: " + ", ".join(f"{name} {b / 2**20:.0f} MiB ({b / kept['LIFT']:.2f} x LIFT)"
                                                       for name, b in kept.items()))
    folded(backbone, batches[0].views[0][:4], 10 * repeats)


class Checkout:
    """The steps of the checkout at ``path``, in a process that lives as long as the context."""

    def __init__(self, path: Path, batch: int, precision: str) -> None:
        command = [sys.executable, str(HERE / "benchmarks" / "one_step.py"), str(batch), precision, BACKBONE]
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(path.resolve())}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Checkout:
        self.kept: dict[str, int] = json.loads(self._answer())
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def step(self, method: str) -> float:
        """Seconds of one training step."""
        assert self.process.stdin is not None
        print(method, file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline() or sys.exit("a checkout's process ended; its error is above")


def compared(batch: int, repeats: int, precision: str, against: Path) -> None:
    """This checkout against another, step by step in turn."""
    with Checkout(HERE, batch, precision) as ours, Checkout(against, batch, precision) as theirs:
        seconds = {(name, one): float("inf") for name in ours.kept for one in (ours, theirs)}
        for turn in range(repeats + 1):  # the first round warms up
            for (name, one), before in seconds.items():
                found = one.step(name)
                seconds[name, one] = min(before, found) if turn else before
        print(f"{BACKBONE}, random weights, batch {batch}, precision {precision}, CPU, {torch.get_num_threads()} threads, best "
              f"of {repeats}, in turn with {against}\n")
        print("| step | here, s | there, s | time | kept here, MiB | kept there, MiB | memory |\n" + "| --- " * 7 + "|")
        for name in ours.kept:
            a, b = seconds[name, ours], seconds[name, theirs]
            m, n = ours.kept[name] / 2**20, theirs.kept[name] / 2**20
            print(f"| {name} | {a:.2f} | {b:.2f} | {a / b:.3f} x | {m:,.0f} | {n:,.0f} | {m / n:.3f} x |")


def main(batch: Annotated[int, typer.Argument()] = 16, repeats: Annotated[int, typer.Argument()] = 3, precision: str = "fp32",
         against: Annotated[Path | None, typer.Option(help="another checkout, at commit 4134977 or later")] = None) -> None:
    if against is None:
        here(batch, repeats, precision)
    else:
        compared(batch, repeats, precision, against)


if __name__ == "__main__":
    typer.run(main)
