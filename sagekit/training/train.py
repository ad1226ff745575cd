"""The one loop that trains every method (Algorithm 1 for Sage): stage by stage, epoch by epoch.

    for each stage:  start_stage, look;  for each epoch:  look, start_epoch;  for each step:  forward(batches, now)["loss"],
    backward, the optimizer's step at lr x rate(epoch, share), after_step

A run is a folder (``runs``). Its state is kept after every epoch, so a killed run continues to the same result, bit for bit on
a CPU. Devices and processes are Accelerate's: ``accelerate launch -m sagekit train ...`` needs nothing more.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import methods
from ..config import WHERE, Config
from ..data.batches import Batch, step_generator, steps_per_epoch, train_batches
from ..data.datasets import load_data
from ..data.names import CLASS_NAMES_FILE
from ..data.splits import DataSet
from ..devices import accelerator_for, compiler_explained, memory, precision, training_precision
from ..errors import UserError
from ..files import write_atomic
from ..methods import Method, Now, Seen, Stage
from ..networks.backbone import Backbone, load_backbone
from ..progress import bar
from ..runs.metrics import over_classes
from ..runs.run import Run
from . import stage_ends
from .build import build_model, load_teacher, teacher_of
from .evaluate import predict, record, seen

WATCHED_FROM = 0.8
"""Share of the epochs after which ``watch`` measures: from scratch the rate has fallen then, and a best epoch lies late."""


@dataclass
class State:
    """Where a training stands: epochs done, counted through all stages, and their history."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    """Of a stage that keeps its best epoch: its ``accuracy`` on validation images, its number, and what was ``trained``."""


@dataclass
class _Loop:
    """What every epoch needs."""

    run: Run
    model: Method
    data: DataSet
    config: Config
    accelerator: Accelerator
    progress: tqdm[Any]

    @property
    def parts(self) -> int:
        """Parts that a batch is dealt to."""
        return self.accelerator.num_processes * self.config.machine.accumulate


def train(config: Config, out: Path | str, resume: bool = False, data: DataSet | None = None,
          backbone: Backbone | None = None, show: bool = True) -> Run:
    """Train and evaluate ``config`` into the folder ``out``; returns the finished run.

    ``data`` and ``backbone`` save loading them again when many runs share them. Raises ``UserError`` when ``out`` holds another
    run, when ``resume`` meets other settings, when the data or the weights are wrong, or when the loss is no number any more.
    """
    run = Run(out)
    _check_folder(run, config, resume)
    if resume and run.finished:
        return run
    accelerator = accelerator_for(config.machine)
    show = show and accelerator.is_main_process
    if config.network.weights is not None and not config.network.weights.is_file():  # said before the images are read
        raise UserError(f"no weight file at {config.network.weights}.")
    data = data or load_data(config.data, config.machine.workers, show)
    if show and config.data.dataset != "world":
        print("\n".join(data.summary()), file=sys.stderr)
    _check(config, data, accelerator.num_processes)
    if config.machine.watch == "val" and data.val is None:
        raise UserError("watch=val needs validation images, and there are none; --set val_share=0.1 keeps some of the training "
                        "images.")
    if backbone is None and config.needs == "clip":
        backbone = load_backbone(config.network)
    assumed = [] if backbone is None else list(backbone.notes)
    if show and assumed:
        print("\n".join(assumed), file=sys.stderr)
    model = build_model(config, data.class_names, backbone, accelerator.device, data.class_counts.tolist(), data.sentences)
    if said := model.beforehand(memory(accelerator.device)):
        assumed += said
        if show:
            print("\n".join(said), file=sys.stderr)
    if teacher_of(config) is not None:
        model.taught_by(load_teacher(config, data, accelerator.device))
    for number, stage in enumerate(config.stages[:1]):  # before anything is written
        _trained_in(model, stage, config.method, number)
    if accelerator.is_main_process:
        run.write_config(config)
        if data.sentences is not None:
            run.write_sentences(data.sentences)
        for line in (*data.summary(), *assumed):
            run.log(line)
        run.log(f"start: {config.method} on {data.name}, {len(data.train)} training images, {accelerator.num_processes} "
                f"process(es), device {accelerator.device}, {precision(config.machine, accelerator.device)}")
    if config.machine.compile:
        model.features = torch.compile(model.features)  # type: ignore[method-assign]
    with compiler_explained():
        _fit(run, model, data, config, accelerator, show)
    _same_buffers(model, accelerator)
    if accelerator.is_main_process and config.stages:
        run.write_weights(model.trained(), config.network.backbone, data.class_names)
    accelerator.wait_for_everyone()
    record(run, model, data, config, accelerator, show)
    if accelerator.is_main_process:
        (run.path / "state.pt").unlink(missing_ok=True)
        run.log("finished")
    return run


def _check_folder(run: Run, config: Config, resume: bool) -> None:
    if not run.exists:
        return
    if not resume:
        raise UserError(f"{run.path} holds a run already; name another --out, or continue it with --resume.")
    old, new = run.config.flat, config.flat
    odd = next((key for key in new if key not in WHERE and old.get(key) != new[key]), None)
    if odd:
        raise UserError(f"{run.path} was started with {odd}={old.get(odd)}, not {new[odd]}; --resume needs the same settings.")


def _check(config: Config, data: DataSet, processes: int) -> None:
    """What the trainer can refuse before anything is built."""
    method, stages, accumulate = methods.load(config.method), config.stages, config.machine.accumulate
    if data.wordless and config.needs == "clip" and method.reads_names(config.settings):
        raise UserError(f"{len(data.wordless)} class(es) have no name that a text can say, such as '{data.wordless[0]}', and "
                        f"{config.method} reads names; write {config.data.data_root / CLASS_NAMES_FILE}, a line 'folder name' "
                        "for each.")
    if processes > 1 and method.one_process:
        raise UserError(f"method {config.method} runs in one process ({method.one_process}); start it without accelerate.")
    if getattr(config.settings, "blocks", "all") == "last" and config.network.weights is None:
        raise UserError("blocks=last trains the last block of a network that has seen ImageNet, and there are no weights; "
                        "--set weights=FILE names them (timm's or torchvision's names), --set blocks=all trains everything.")
    for number, stage in enumerate(stages):
        if stage.epochs == 0 and number < len(stages) - 1:
            raise UserError(f"stage {number + 2} of {config.method} starts from stage {number + 1}, which has 0 epochs.")
        if stage.epochs and stage.batch_size > len(data.train):
            raise UserError(f"batch_size is {stage.batch_size} and the training set has {len(data.train)} images; lower it "
                            "with --set batch_size=...")
        if ("val" in stage.looks or stage.keep == "best") and data.val is None:
            raise UserError(f"{config.method} chooses or measures on validation images here, and there are none; --set "
                            "val_share=0.1 keeps some of the training images.")
        if stage.batch_size % (processes * accumulate):
            raise UserError(f"batch_size {stage.batch_size} cannot be dealt evenly to {processes} process(es) x {accumulate} "
                            f"part(s); choose a multiple of {processes * accumulate}.")


def _fit(run: Run, model: Method, data: DataSet, config: Config, accelerator: Accelerator, show: bool) -> None:
    """The stages and epochs that are still to do."""
    content = _read_state(run)
    state = State() if content is None else State(content["epoch"], content["history"], content["best"])
    parts = accelerator.num_processes * config.machine.accumulate
    steps = [steps_per_epoch(len(data.train), stage, parts) for stage in config.stages for _ in range(stage.epochs)]
    progress = bar(total=sum(steps), what=config.method, initial=sum(steps[: state.epoch]),
                   show=show)
    loop = _Loop(run, model, data, config, accelerator, progress)
    before = 0
    for number, stage in enumerate(config.stages):
        torch.manual_seed(config.seed + number)
        model.start_stage(number)
        model.to(accelerator.device)
        here = content if content is not None and content["stage"] == number else None
        if here is not None:
            model.load_trained(here["trained"], str(run.path / "state.pt"))
        elif not stage.look_again and (content is None or content["stage"] < number):
            _look(loop, stage, number, before, before)
        if state.epoch < before + stage.epochs:
            state = _stage(loop, number, stage, before, state, None if here is None else here["optimizer"])
        before += stage.epochs
    progress.close()


def _stage(loop: _Loop, number: int, stage: Stage, before: int, state: State, optimizer_state: dict[str, Any] | None) -> State:
    """The epochs of one stage that are still to do, or its end from the cache."""
    model, accelerator, config = loop.model, loop.accelerator, loop.config
    optimizer = stage.optimizer(_trained_in(model, stage, config.method, number))
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    end = before + stage.epochs
    place = stage_ends.place(config, stage, number, model, loop.data, accelerator)
    fresh = state.epoch == before and not config.machine.watch  # what is watched has to be trained
    if place is not None and fresh and (found := stage_ends.read(place, model)) is not None:
        state = State(end, [*state.history, *found])
        loop.progress.update(stage.epochs * steps_per_epoch(len(loop.data.train), stage, loop.parts))
        if accelerator.is_main_process:
            loop.run.log(f"stage {number + 1}: taken from the cache, where another run left it ({place.name})")
            loop.run.write_history(state.history)
            _write_state(loop.run, model, optimizer, state, number)
    wrapped = accelerator.prepare_model(model)
    while state.epoch < end:
        if stage.look_again:
            _look(loop, stage, number, state.epoch, before)
        row = _epoch(loop, wrapped, optimizer, stage, number, state.epoch, before) | _watched(loop, state.epoch + 1)
        best = _better(loop, row, state) if stage.keep == "best" else None
        state = State(state.epoch + 1, [*state.history, row], best)
        if state.epoch == end and best is not None:
            model.load_trained(best["trained"], f"epoch {best['epoch']}")
            if accelerator.is_main_process:
                loop.run.log(f"stage {number + 1}: back to epoch {best['epoch']}, the best on validation images "
                             f"({100 * best['accuracy']:.1f} %)")
            state = State(state.epoch, state.history)
        if accelerator.is_main_process:
            _write_state(loop.run, model, optimizer, state, number)
            loop.run.write_history(state.history)
            speed = f"{row['images_per_second']:.0f} images/s"
            loop.run.log(f"epoch {state.epoch}/{config.epochs}: loss {row['loss']:.4f}, {speed}")
            _warn_of_waiting(loop, row)
        if state.epoch == end and place is not None and accelerator.is_main_process:
            stage_ends.write(place, model, stage, state.history[before:])
    accelerator.free_memory()
    return state


def _look(loop: _Loop, stage: Stage, number: int, epoch: int, before: int) -> None:
    """Show the method what its stage looks at; ``epoch`` counts through all stages, ``before`` are those of earlier ones."""
    sets = {"train": loop.data.train, "val": loop.data.val}
    shown: dict[str, Seen] = {which: seen(loop.model, split, loop.config, loop.accelerator)
             for which in stage.looks if (split := sets[which]) is not None}
    if shown:
        loop.model.look(shown, _now(loop, stage, number, epoch, before))
        found = ", ".join(f"{name} {value:g}" for name, value in loop.model.scalars().items())
        if found and not stage.look_again and loop.accelerator.is_main_process:
            loop.run.log(f"stage {number + 1}: after a look at {' and '.join(shown)} images, {found}")


def _now(loop: _Loop, stage: Stage, number: int, epoch: int, before: int) -> Now:
    """Before an epoch; its generator is not that of any step."""
    steps = steps_per_epoch(len(loop.data.train), stage, loop.parts)
    return Now(number, epoch - before, (epoch - before) / max(1, stage.epochs), step_generator(loop.config.seed, epoch, steps))


def _watched(loop: _Loop, done: int) -> dict[str, float]:
    """Top-1 of the images that ``watch`` names (mean over classes, 0..1), late in training: most papers report the best epoch
    on the test images, so that number can be said beside the last epoch's."""
    config, which = loop.config, loop.config.machine.watch
    split = {"val": loop.data.val, "test": loop.data.test}.get(which)
    if split is None or done <= WATCHED_FROM * config.epochs:
        return {}
    found = predict(loop.model, split, config, loop.accelerator, show=False)
    return {f"{which}_accuracy": float(over_classes(found.labels, found.labels) @ found.correct)}


def _better(loop: _Loop, row: dict[str, float], state: State) -> dict[str, Any]:
    """The best epoch so far on validation images (mean over classes, 0..1), which ``row`` is told of; the first of equals."""
    assert loop.data.val is not None
    found = predict(loop.model, loop.data.val, loop.config, loop.accelerator, show=False)
    row["val_accuracy"] = accuracy = float(over_classes(found.labels, found.labels) @ found.correct)
    if state.best is not None and accuracy <= state.best["accuracy"]:
        return state.best
    trained = {name: tensor.detach().cpu().clone() for name, tensor in loop.model.trained().items()}
    return {"accuracy": accuracy, "epoch": state.epoch + 1, "trained": trained}


def _trained_in(model: Method, stage: Stage, method: str, number: int) -> dict[str, nn.Parameter]:
    """The parameters that ``stage`` trains; all others are frozen."""
    parameters = {name: p for name, p in model.trained().items() if isinstance(p, nn.Parameter)}
    for name, p in parameters.items():
        p.requires_grad_(name.startswith(stage.trains))
    chosen = {name: p for name, p in parameters.items() if p.requires_grad}
    if not chosen:
        raise UserError(f"stage {number + 1} of {method} trains nothing: no parameter's name starts with '{stage.trains}'.")
    return chosen


def _epoch(loop: _Loop, wrapped: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, number: int, epoch: int,
           before: int) -> dict[str, float]:
    """One pass; returns its row of ``history.csv``. ``epoch`` counts through all stages, ``before`` are those of earlier
    ones."""
    model, config, accelerator = loop.model, loop.config, loop.accelerator
    device, accumulate, own = accelerator.device, config.machine.accumulate, epoch - before
    total = steps_per_epoch(len(loop.data.train), stage, loop.parts)
    sums, start, steps, images, waited = _Sums(epoch), time.monotonic(), 0, 0, [0.0]
    batches = _timed(train_batches(loop.data.train, stage, config.views, model.image_size, config.seed, epoch, device,
                                   accelerator.process_index, accelerator.num_processes, accumulate, config.machine.workers,
                                   own / stage.epochs), waited)
    _train_mode(model, stage)
    model.start_epoch(_now(loop, stage, number, epoch, before))
    for part, batch in enumerate(batches, 1):
        last = part % accumulate == 0
        now = Now(number, own, (own + steps / total) / stage.epochs, step_generator(config.seed, epoch, steps))
        with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
            with training_precision(config.machine, device):
                terms = wrapped(batch, now)
            accelerator.backward(terms["loss"] / accumulate)
        sums.add(terms)
        images += len(batch[0].labels) * accelerator.num_processes
        if not last:
            continue
        lr = stage.optimizer.lr * stage.rate(own, steps / total, stage.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        if stage.clip_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), stage.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
        steps += 1
        loop.progress.update()
        if steps % 10 == 0:
            loop.progress.set_postfix(loss=f"{sums.finite_loss():.3f}", lr=f"{lr:.1e}")
    sums.finite_loss()
    seconds = time.monotonic() - start
    row = {"epoch": epoch + 1, "stage": number + 1, "lr": lr, "seconds": seconds, "images_per_second": images / seconds,
           "waiting": waited[0]}
    return row | {name: accelerator.reduce(value, "mean").item() for name, value in sums.means().items()} | model.scalars()


def _train_mode(model: Method, stage: Stage) -> None:
    """Training mode; BatchNorm of frozen parts as the stage says."""
    model.train()
    for module in model.modules() if stage.norms == "eval" else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _timed(batches: Iterator[tuple[Batch, ...]], waited: list[float]) -> Iterator[tuple[Batch, ...]]:
    """The same batches; ``waited[0]`` becomes the seconds until they were there."""
    start = time.monotonic()
    for batch in batches:
        waited[0] += time.monotonic() - start
        yield batch
        start = time.monotonic()


def _warn_of_waiting(loop: _Loop, row: dict[str, float]) -> None:
    """Say so when a fifth of an epoch or more went by without images to work on."""
    share, workers = row["waiting"] / row["seconds"], loop.config.machine.workers
    if loop.data.train.images is not None or share < 0.2:
        return
    text = (f"epoch {int(row['epoch'])}: {100 * share:.0f} % of the time was spent waiting for images to be read; "
            f"--set workers={2 * workers + 2} may help (now {workers}), or a faster disk.")
    loop.run.log(text)
    if not loop.progress.disable:
        loop.progress.write(f"sagekit: {text}", file=sys.stderr)


class _Sums:
    """Running means of an epoch's terms, kept on the device."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.number, self.values = epoch, 0, dict[str, Tensor]()

    def add(self, terms: dict[str, Tensor]) -> None:
        self.number += 1
        for name, value in terms.items():
            self.values[name] = self.values.get(name, torch.zeros((), device=value.device)) + value.detach()

    def means(self) -> dict[str, Tensor]:
        return {name: value / self.number for name, value in self.values.items()}

    def finite_loss(self) -> float:
        mean = self.means()["loss"].item()
        if not math.isfinite(mean):
            raise UserError(f"the loss is {mean} in epoch {self.epoch + 1}: training diverged. Lower lr, or set clip_norm=1.")
        return mean


def _same_buffers(model: Method, accelerator: Accelerator) -> None:
    """Every process gets the first one's buffers: BatchNorm's running statistics are each process's own, and without this they
    would measure different networks."""
    if accelerator.num_processes > 1:
        for tensor in model.trained().values():
            if not isinstance(tensor, nn.Parameter):
                tensor.copy_(broadcast(tensor.clone(), from_process=0))


def _write_state(run: Run, model: Method, optimizer: torch.optim.Optimizer, state: State, stage: int) -> None:
    content = {"trained": model.trained(), "optimizer": optimizer.state_dict(), "stage": stage, **vars(state)}
    write_atomic(run.path / "state.pt", lambda path: torch.save(content, path))


def _read_state(run: Run) -> dict[str, Any] | None:
    path = run.path / "state.pt"
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        kept = {key: content[key] for key in ("trained", "optimizer", "stage", "epoch", "history")}
        return kept | {"best": content.get("best")}  # only a stage that keeps its best epoch has one
    except Exception as error:  # whatever a damaged file makes torch raise
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete {run.path} and start again.") from None
