"""Algorithm 1: fine-tune {adapters, W, s_1, s_2} with SGD on Eq 24, the learning rate a cosine stepped per epoch.

    lr(t) = lr_0 / 2 (1 + cos(pi t / epochs)),    t = epochs done; with schedule "step", their fraction too

From scratch (Table 7) the schedule is another: lr_0 (t + 1) / warmup_epochs, then lr_0, lr_0 decay after 80 % of the epochs
and lr_0 decay^2 after 90 %.

A run is a folder (``runs``). Its state is kept after every epoch, so a killed run continues to the same result, bit for
bit on CPU. Devices and processes are Accelerate's: ``accelerate launch -m sagekit train ...`` needs nothing more.
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
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..config import MACHINE_SETTINGS, Config
from ..data.batches import steps_per_epoch, train_batches
from ..data.datasets import DataSet, load_data
from ..devices import accelerator_for, compiler_explained, training_precision
from ..errors import UserError
from ..files import write_atomic
from ..losses.adjusted import Loss, criterion, interchange_loss
from ..losses.contrast import ProCo, proco_loss
from ..networks.adapters import SGAdapter
from ..networks.backbone import Backbone
from ..networks.heads import Classifier, Logits
from ..networks.tuned import build_classifier
from ..progress import bar
from ..runs.run import Run
from .evaluate import record


def learning_rate(config: Config, epoch: int, share: float = 0.0) -> float:
    """The rate in ``epoch`` = 0..epochs-1 when a ``share`` (0..1) of its steps is done."""
    if config.schedule == "milestones":
        late = sum(epoch >= round(part * config.epochs) for part in (0.8, 0.9))
        return config.lr * min(1.0, (epoch + 1) / max(1, config.warmup_epochs)) * config.decay**late
    done = epoch if config.schedule == "epoch" else epoch + share
    return config.lr / 2 * (1 + math.cos(math.pi * done / config.epochs))


def parameter_groups(model: Classifier, config: Config) -> list[dict[str, object]]:
    """All trained parameters; a gate held as a vector gets the rate that W_proj's geometry gives it (finding 5).

    A step on W_proj and its bias moves the gate by lr (|f_t|^2 + 1), and |f_t|^2 = d after LayerNorm. ``rate`` is that
    multiple of the common rate; the weight decay per step stays the same.
    """
    gates = [a.gate for a in model.modules() if isinstance(a, SGAdapter) and hasattr(a, "gate")]
    ids = {id(g) for g in gates}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    result: list[dict[str, object]] = [{"params": rest, "rate": 1.0, "weight_decay": config.weight_decay}]
    if gates:
        rate = len(gates[0]) + 1.0
        result.append({"params": gates, "rate": rate, "weight_decay": config.weight_decay / rate})
    return result


def optimizer_for(model: Classifier, config: Config) -> torch.optim.SGD:
    """SGD over what is trained (section 4.2)."""
    return torch.optim.SGD(parameter_groups(model, config), lr=config.lr, momentum=config.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its multiple of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


@dataclass
class State:
    """Where a training stands: epochs done, their history, and the last one's training accuracy a class (C,) (for CDB)."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    class_accuracy: Tensor | None = None


def train(config: Config, out: Path | str, resume: bool = False, data: DataSet | None = None,
          backbone: Backbone | None = None, show: bool = True) -> Run:
    """Train and evaluate ``config`` into the folder ``out``; returns the finished run.

    ``data`` and ``backbone`` save loading them again when many runs share them. Raises ``UserError`` when ``out`` holds
    another run, when ``resume`` meets other settings, when the data or the weights are wrong, or when the loss is no
    number any more.
    """
    run = Run(out)
    _check_folder(run, config, resume)
    if resume and run.finished:
        return run
    accelerator = accelerator_for(config)
    data = data or load_data(config)
    _check_batch(config, data, accelerator.num_processes)
    model = build_classifier(config, data.class_names, backbone, accelerator.device)
    if accelerator.is_main_process:
        run.write_config(config)
        run.log(f"start: {config.method} on {data.name}, {len(data.train)} training images, {accelerator.num_processes} "
                f"process(es), device {accelerator.device}")
    if config.compile:
        model.compile()
    with compiler_explained():
        _fit(run, model, data, config, accelerator, show)
    if accelerator.is_main_process and config.method != "zero-shot":
        run.write_weights(model.trained(), model.name, data.class_names)
    accelerator.wait_for_everyone()
    record(run, model, data, config, accelerator, config.ensembling, show)
    if accelerator.is_main_process:
        (run.path / "state.pt").unlink(missing_ok=True)
        run.log("finished")
    return run


def _check_folder(run: Run, config: Config, resume: bool) -> None:
    if not run.exists:
        return
    if not resume:
        raise UserError(f"{run.path} holds a run already; name another --out, or continue it with --resume.")
    old, new = run.config.model_dump(), config.model_dump()
    odd = next((key for key in new if old[key] != new[key] and key not in MACHINE_SETTINGS), None)
    if odd:
        raise UserError(f"{run.path} was started with {odd}={old[odd]}, not {new[odd]}; --resume needs the same settings.")


def _check_batch(config: Config, data: DataSet, processes: int) -> None:
    if config.loss == "proco" and processes > 1:
        raise UserError("loss proco keeps one set of class statistics and runs in one process; start it without accelerate.")
    if config.train_view == "padded" and data.train.images is None:
        raise UserError("train_view=padded is for images of one size that are held in memory (CIFAR-100, the mini world); "
                        "use train_view=resized.")
    if config.batch_size % (processes * config.accumulate):
        raise UserError(f"batch_size {config.batch_size} cannot be dealt evenly to {processes} process(es) x "
                        f"{config.accumulate} part(s); choose a multiple of {processes * config.accumulate}.")


def _fit(run: Run, model: Classifier, data: DataSet, config: Config, accelerator: Accelerator, show: bool) -> None:
    """The epochs that are still to do."""
    optimizer = optimizer_for(model, config)
    state = _load_state(run, model, optimizer) or State()
    steps = steps_per_epoch(data.train, config)
    progress = bar(total=config.epochs * steps, what=config.method, initial=state.epoch * steps,
                   show=show and accelerator.is_main_process)
    wrapped = accelerator.prepare_model(model) if state.epoch < config.epochs else model
    while state.epoch < config.epochs:
        row, class_accuracy = _epoch(wrapped, model, optimizer, data, config, state, accelerator, progress)
        state = State(state.epoch + 1, [*state.history, row], class_accuracy)
        if accelerator.is_main_process:
            _save_state(run, model, optimizer, state)
            run.write_history(state.history)
            run.log(f"epoch {state.epoch}/{config.epochs}: loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s")
            _warn_of_waiting(run, row, data, config, progress)
    progress.close()


def _warn_of_waiting(run: Run, row: dict[str, float], data: DataSet, config: Config, progress: tqdm[Any]) -> None:
    """Say so when a fifth of an epoch or more went by without images to work on."""
    share = row["waiting"] / row["seconds"]
    if data.train.paths is None or share < 0.2:
        return
    text = (f"epoch {int(row['epoch'])}: {100 * share:.0f} % of the time was spent waiting for images to be read; "
            f"--set workers={2 * config.workers + 2} may help (now {config.workers}), or a faster disk.")
    run.log(text)
    if not progress.disable:
        progress.write(f"sagekit: {text}", file=sys.stderr)


def _timed(batches: Iterator[tuple[Tensor, Tensor]], waited: list[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches; ``waited[0]`` becomes the seconds until they were there."""
    start = time.monotonic()
    for batch in batches:
        waited[0] += time.monotonic() - start
        yield batch
        start = time.monotonic()


def _epoch(wrapped: nn.Module, model: Classifier, optimizer: torch.optim.Optimizer, data: DataSet, config: Config,
           state: State, accelerator: Accelerator, progress: tqdm[Any]) -> tuple[dict[str, float], Tensor]:
    """One pass over the training images; returns its row of ``history.csv`` and the training accuracy a class (C,)."""
    epoch, device = state.epoch, accelerator.device
    loss = criterion(config, torch.from_numpy(data.class_counts).to(device), epoch, state.class_accuracy)
    total = steps_per_epoch(data.train, config)
    sums, classes = _Sums(epoch), torch.zeros(2, len(data.class_counts), device=device)  # right, seen
    start, steps, waited = time.monotonic(), 0, [0.0]
    batches = _timed(train_batches(data.train, config, model.image_size, epoch, device, accelerator.process_index,
                                   accelerator.num_processes), waited)
    model.train()
    if isinstance(model, ProCo):
        model.statistics.start_epoch()
    for number, (images, labels) in enumerate(batches, 1):
        last = number % config.accumulate == 0
        with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
            with training_precision(config, device):
                logits = wrapped(images)
            logits = logits._make(z if z is None else z.float() for z in logits)
            terms = _terms(model, logits, labels, loss, config)
            accelerator.backward(terms["loss"] / config.accumulate)
        right = (logits.prediction.argmax(1) == labels).float()
        classes.index_add_(1, labels, torch.stack([right, torch.ones_like(right)]))
        sums.add(terms | {"train_accuracy": right.mean()})
        if not last:
            continue
        lr = learning_rate(config, epoch, steps / total)
        set_learning_rate(optimizer, lr)
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        progress.update()
        if steps % 10 == 0:
            progress.set_postfix(loss=f"{sums.finite_loss():.3f}", lr=f"{lr:.1e}")
    sums.finite_loss()
    seconds = time.monotonic() - start
    row = {"epoch": epoch + 1, "lr": lr, "seconds": seconds, "images_per_second": steps * config.batch_size / seconds,
           "waiting": waited[0]}
    row |= {name: accelerator.reduce(value, "mean").item() for name, value in sums.means().items()}
    right, seen = accelerator.reduce(classes, "sum").cpu()
    return row | ({"s_v": model.s_v.item(), "s_t": model.s_t.item()} if model.fit else {}), right / seen.clamp(min=1)


def _terms(model: Classifier, logits: Logits, labels: Tensor, loss: Loss, config: Config) -> dict[str, Tensor]:
    if isinstance(model, ProCo):
        return proco_loss(logits, labels, loss, model.statistics)
    return interchange_loss(logits, labels, loss, config)


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


def _save_state(run: Run, model: Classifier, optimizer: torch.optim.Optimizer, state: State) -> None:
    content = {"trained": model.trained(), "optimizer": optimizer.state_dict(), **vars(state)}
    write_atomic(run.path / "state.pt", lambda path: torch.save(content, path))


def _load_state(run: Run, model: Classifier, optimizer: torch.optim.Optimizer) -> State | None:
    path = run.path / "state.pt"
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete {run.path} and start again.") from None
    model.load_trained(content.pop("trained"), str(path))
    optimizer.load_state_dict(content.pop("optimizer"))
    return State(**content)
