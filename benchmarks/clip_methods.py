"""What every method that starts from a CLIP costs at ViT-B/16: a training step, its memory, a prediction; LIFT's being 1.

    python benchmarks/clip_methods.py [BATCH] [REPEATS]      writes docs/results/clip-cost.csv

Random weights, 100 classes, one run, the calls in turn. A stage that trains is a row. Memory is what a step needs beside the
model's own weights: what the forward keeps for the backward pass (bytes of distinct saved tensors that are no parameters),
gradients, and the optimizer's state. Methods that train nothing have no step. The texts of methods that encode them in every
step are short ("thing 7.").
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
    """Logits of a batch, as a test makes them."""
    def run() -> None:
        with torch.inference_mode():
            model.eval().logits(images)

    return run


def measured(batch: int, repeats: int) -> pd.DataFrame:
    """A row a method and stage: ``ms`` and ``memory_mb`` of a step, ``test_ms`` an image, the parameters that are trained, and
    their ratios to LIFT's."""
    backbone = load_backbone(sk.Config.preset("cifar100-lt-100", "lift", backbone=BACKBONE, pretrained="random").network)
    steps: dict[str, Callable[[], None]] = {}
    tests: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict[str, object]] = {}
    for method, row in FOUNDATION.items():
        found = list(ways(method, backbone, batch))
        for way in found:
            name = row if len(found) == 1 else f"{row}, stage {way.number + 1}"
            steps[name], memory = step(way, method)
            parameters = sum(p.numel() for p in way.model.parameters() if p.requires_grad)
            rows[name] = {"method": name, "parameters": parameters, "memory_mb": memory / 1e6}
        config = sk.Config.preset("cifar100-lt-100", method, backbone=BACKBONE, pretrained="random")
        last = found[-1].model if found else model_of(config, backbone)
        tests[row] = prediction(last, made_up(batch, backbone.image_size)[0].views[0])
        if not found:
            rows[row] = {"method": row, "parameters": 0}
    seconds = best_of(repeats, steps)
    for name in steps:
        rows[name]["ms"] = 1000 * seconds[name] / batch
    seconds = best_of(repeats, tests)
    for name, line in rows.items():
        line["test_ms"] = 1000 * seconds[name.partition(", stage")[0]] / batch
    frame = pd.DataFrame(rows.values())
    lift = frame.set_index("method").loc["LIFT"]
    return frame.assign(**{f"{key}_to_lift": frame[key] / lift[key] for key in ("ms", "memory_mb", "test_ms")})


def main(batch: Annotated[int, typer.Argument()] = 16, repeats: Annotated[int, typer.Argument()] = 5) -> None:
    """Measure, write the file and print it."""
    frame = measured(batch, repeats)
    write(frame, "clip-cost")
    note_made("clip-cost", f"python benchmarks/clip_methods.py {batch} {repeats}", threads=torch.get_num_threads())
    print(markdown(frame.round(2)))


if __name__ == "__main__":
    typer.run(main)
