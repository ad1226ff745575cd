"""What every method that starts from a CLIP costs at ViT-B/16: a training step, its memory, a prediction; LIFT's being 1.

    python benchmarks/clip_methods.py [BATCH] [REPEATS]      writes docs/results/clip-cost.csv

Random weights, 100 classes, one run, each method in turn with LIFT. A stage that trains is a row. Memory is what a step needs
beside the model's own weights: what the forward keeps for the backward pass (bytes of distinct saved tensors that are no
parameters), gradients, and the optimizer's state. Methods that train nothing have no step. The texts of methods that encode
them in every step are short ("thing 7.").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import pandas as pd
import torch
import typer
from common import best_of, made_up, markdown, model_of
from measure import note_made, write
from one_step import kept_bytes

import sagekit as sk
from sagekit.data.batches import Batch
from sagekit.methods import Now, Stage
from sagekit.networks.backbone import load_backbone
from sagekit.studies.study import FOUNDATION
from sagekit.training.train import _trained_in

BACKBONE = "ViT-B-16-quickgelu"


class Way(NamedTuple):
    """One stage of a method on made-up images."""

    model: sk.Method
    stage: Stage
    number: int
    batches: tuple[Batch, ...]

    def loss(self) -> torch.Tensor:
        """The forward half of a step."""
        return self.model(self.batches, Now(self.number, 0, 0.0, torch.Generator().manual_seed(0)))["loss"]


def ways(method: str, backbone: sk.Backbone, batch: int) -> Iterator[Way]:
    """The stages of ``method`` that train, each on a model of its own."""
    config = sk.Config.preset("cifar100-lt-100", method, backbone=BACKBONE, pretrained="random", precision="fp32")
    for number, stage in enumerate(config.stages):
        if not stage.epochs:
            continue
        model = model_of(config, backbone)
        for before in range(number + 1):
            model.start_stage(before)
        (images,) = made_up(batch, backbone.image_size)
        of_sampler = Batch(images.views * len(stage.views), images.labels, images.places)
        yield Way(model.train(), stage, number, (of_sampler,) * len(stage.samplers))


def step(way: Way, method: str) -> tuple[Callable[[], None], float]:
    """A whole training step, and its memory in bytes."""
    trained = _trained_in(way.model, way.stage, method, way.number)
    optimizer = way.stage.optimizer(trained)

    def run() -> None:
        way.loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        way.model.after_step()

    kept = kept_bytes(way.model.parameters(), way.loss)
    run()
    state = sum(t.nbytes for one in optimizer.state.values() for t in one.values() if isinstance(t, torch.Tensor))
    return run, kept + sum(p.nbytes for p in trained.values()) + state


def prediction(model: sk.Method, images: torch.Tensor) -> Callable[[], None]:
    """Logits of a batch, as a test makes them; what a method makes once for a whole test is made before."""
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model.logits(images)

    return run


def measured(batch: int, repeats: int) -> pd.DataFrame:
    """A row a method and stage: ``ms`` and ``memory_mb`` of a step, ``test_ms`` an image, the ``parameters`` that are trained,
    and ratios to LIFT's. One method is held at a time, beside LIFT, with which it takes turns."""
    backbone = load_backbone(sk.Config.preset("cifar100-lt-100", "lift", backbone=BACKBONE, pretrained="random").network)
    images = made_up(batch, backbone.image_size)[0].views[0]
    (lift,) = ways("lift", backbone, batch)
    lift_step, lift_memory = step(lift, "lift")
    frames = []
    for method, row in FOUNDATION.items():
        lines, model = [], None
        for way in ways(method, backbone, batch):
            model = way.model.train()
            run, memory = step(way, method)
            lift.model.train()
            seconds = best_of(repeats, {"LIFT": lift_step, row: run})
            lines.append({"stage": way.number + 1, "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                          "ms": 1000 * seconds[row] / batch, "ms_to_lift": seconds[row] / seconds["LIFT"],
                          "memory_mb": memory / 1e6, "memory_to_lift": memory / lift_memory})
        config = sk.Config.preset("cifar100-lt-100", method, backbone=BACKBONE, pretrained="random")
        test = prediction(model or model_of(config, backbone), images)
        seconds = best_of(repeats, {"LIFT": prediction(lift.model, images), row: test})
        frames.append(pd.DataFrame(lines or [{}]).assign(
            method=row, test_ms=1000 * seconds[row] / batch, test_to_lift=seconds[row] / seconds["LIFT"]))
    return pd.concat(frames, ignore_index=True)


def main(batch: Annotated[int, typer.Argument()] = 16, repeats: Annotated[int, typer.Argument()] = 5) -> None:
    """Measure, write the file and print it."""
    frame = measured(batch, repeats)
    write(frame, "clip-cost")
    note_made("clip-cost", f"python benchmarks/clip_methods.py {batch} {repeats}", threads=torch.get_num_threads())
    print(markdown(frame.round(2)))


if __name__ == "__main__":
    typer.run(main)
