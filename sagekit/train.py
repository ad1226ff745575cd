"""Algorithm 1: fine-tune {adapters, W, s_1, s_2} with SGD on Eq 24, the learning rate a cosine stepped per epoch.

    lr(t) = lr_0 / 2 (1 + cos(pi t / epochs)),    t = epochs done; with schedule "step", their fraction too

A run is a folder (``runs``). Its state is kept after every epoch, so a killed run continues to the same result, bit for
bit on CPU. Devices and processes are Accelerate's: ``accelerate launch -m sagekit train ...`` needs nothing more.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from .adapters import SGAdapter
from .backbone import Backbone
from .batches import steps_per_epoch, train_batches
from .config import Config
from .datasets import DataSet, load_data
from .errors import UserError
from .evaluate import accelerator_for, autocast, record
from .files import write_atomic
from .losses import criterion, interchange_loss
from .model import Model, build_model
from .progress import bar
from .runs import Run

MACHINE_SETTINGS = ("device", "workers", "data_root")
"""What may differ when a run is resumed: where it runs, not what it computes."""


def learning_rate(config: Config, epoch: int, share: float = 0.0) -> float:
    """The rate in ``epoch`` = 0..epochs-1 when a ``share`` (0..1) of its steps is done."""
    done = epoch if config.schedule == "epoch" else epoch + share
    return config.lr / 2 * (1 + math.cos(math.pi * done / config.epochs))


def parameter_groups(model: Model, config: Config) -> list[dict[str, object]]:
    """All trained parameters; a gate held as a vector gets the rate that W_proj's geometry gives it (finding 5).

    A step on W_proj and its bias moves the gate by lr (|f_t|^2 + 1), and |f_t|^2 = d after LayerNorm. ``rate`` is that
    multiple of the common rate; the weight decay per step stays the same.
    """
    gates = [a.gate for a in model.adapters or [] if isinstance(a, SGAdapter) and hasattr(a, "gate")]
    ids = {id(g) for g in gates}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    rate = model.backbone.width + 1.0
    result: list[dict[str, object]] = [{"params": rest, "rate": 1.0, "weight_decay": config.weight_decay}]
    if gates:
        result.append({"params": gates, "rate": rate, "weight_decay": config.weight_decay / rate})
    return result


def optimizer_for(model: Model, config: Config) -> torch.optim.SGD:
    """SGD over what is trained (section 4.2)."""
    return torch.optim.SGD(parameter_groups(model, config), lr=config.lr, momentum=config.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its multiple of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


@dataclass
class State:
    """Where a training stands: epochs done and their history."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


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
    _check_batch(config, accelerator.num_processes)
    model = build_model(config, data.class_names, backbone, accelerator.device)
    if accelerator.is_main_process:
        run.write_config(config)
        run.log(f"start: {config.method} on {data.name}, {len(data.train)} training images, {accelerator.num_processes} "
                f"process(es), device {accelerator.device}")
    _fit(run, model, data, config, accelerator, show)
    if accelerator.is_main_process and config.method != "zero-shot":
        run.write_weights(model.trained(), model.backbone.name, data.class_names)
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


def _check_batch(config: Config, processes: int) -> None:
    if config.batch_size % (processes * config.accumulate):
        raise UserError(f"batch_size {config.batch_size} cannot be dealt evenly to {processes} process(es) x "
                        f"{config.accumulate} part(s); choose a multiple of {processes * config.accumulate}.")


def _fit(run: Run, model: Model, data: DataSet, config: Config, accelerator: Accelerator, show: bool) -> None:
    """The epochs that are still to do."""
    optimizer = optimizer_for(model, config)
    state = _load_state(run, model, optimizer) or State()
    steps = steps_per_epoch(data.train, config)
    progress = bar(total=config.epochs * steps, what=config.method, initial=state.epoch * steps,
                   show=show and accelerator.is_main_process)
    wrapped = accelerator.prepare_model(model) if state.epoch < config.epochs else model
    for epoch in range(state.epoch, config.epochs):
        row = _epoch(wrapped, model, optimizer, data, config, epoch, accelerator, progress)
        state = State(epoch + 1, [*state.history, row])
        if accelerator.is_main_process:
            _save_state(run, model, optimizer, state)
            run.write_history(state.history)
            run.log(f"epoch {epoch + 1}/{config.epochs}: loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s")
    progress.close()


def _epoch(wrapped: nn.Module, model: Model, optimizer: torch.optim.Optimizer, data: DataSet, config: Config, epoch: int,
           accelerator: Accelerator, progress: tqdm[Any]) -> dict[str, float]:
    """One pass over the training images; returns its row of ``history.csv``."""
    loss = criterion(config, torch.from_numpy(data.class_counts))
    total = steps_per_epoch(data.train, config)
    sums: dict[str, Tensor] = {}
    start, steps = time.monotonic(), 0
    batches = train_batches(data.train, config, model.backbone.image_size, epoch, accelerator.device,
                            accelerator.process_index, accelerator.num_processes)
    model.train()
    for number, (images, labels) in enumerate(batches, 1):
        last = number % config.accumulate == 0
        with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
            with autocast(config, accelerator.device):
                logits = wrapped(images)
            terms = interchange_loss(logits._make(z if z is None else z.float() for z in logits), labels, loss, config)
            accelerator.backward(terms["loss"] / config.accumulate)
        terms["train_accuracy"] = (logits.prediction.argmax(1) == labels).float().mean()
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
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
            progress.set_postfix(loss=f"{_finite(sums, number, epoch):.3f}", lr=f"{lr:.1e}")
    _finite(sums, number, epoch)
    seconds = time.monotonic() - start
    row = {"epoch": epoch + 1, "lr": lr, "seconds": seconds, "images_per_second": steps * config.batch_size / seconds}
    row |= {name: accelerator.reduce(value, "mean").item() / number for name, value in sums.items()}
    return row | ({"s_v": model.s_v.item(), "s_t": model.s_t.item()} if model.fit else {})


def _finite(sums: dict[str, Tensor], number: int, epoch: int) -> float:
    mean = sums["loss"].item() / number
    if not math.isfinite(mean):
        raise UserError(f"the loss is {mean} in epoch {epoch + 1}: training diverged. Lower lr, or set clip_norm=1.")
    return mean


def _save_state(run: Run, model: Model, optimizer: torch.optim.Optimizer, state: State) -> None:
    content = {"trained": model.trained(), "optimizer": optimizer.state_dict(), "epoch": state.epoch, "history": state.history}
    write_atomic(run.path / "state.pt", lambda path: torch.save(content, path))


def _load_state(run: Run, model: Model, optimizer: torch.optim.Optimizer) -> State | None:
    path = run.path / "state.pt"
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete {run.path} and start again.") from None
    model.load_trained(content["trained"], str(path))
    optimizer.load_state_dict(content["optimizer"])
    return State(content["epoch"], content["history"])
