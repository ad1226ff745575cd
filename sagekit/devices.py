"""Where a run computes, and in which precision: Accelerate's device, bf16 where the machine is fast at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import UserError
from .settings import MachineSettings


def accelerator_for(machine: MachineSettings) -> Accelerator:
    """Accelerate's view of the devices; raises ``UserError`` when ``machine.device`` is not on this machine."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(machine.device, True):
        raise UserError(f"there is no {machine.device} device on this machine; use --set device=auto or cpu.")
    cpu = machine.device == "cpu"
    _forget_other_device(cpu or not any(available.values()))
    accelerator = Accelerator(cpu=cpu, step_scheduler_with_optimizer=False)
    if accelerator.device.type == "cuda":  # TF32 for what stays in float32 beside bf16; a global switch, so set both ways
        torch.set_float32_matmul_precision("highest" if machine.precision == "fp32" else "high")
    return accelerator


def _forget_other_device(cpu: bool) -> None:
    """Accelerate keeps the first device of a process and refuses another; one process alone may change it between runs."""
    if AcceleratorState._shared_state:
        state = AcceleratorState()
        if state.num_processes == 1 and (state.device.type == "cpu") != cpu:
            AcceleratorState._reset_state(reset_partial_state=True)


def memory(device: torch.device) -> int:
    """Bytes that are free on ``device``, or in this machine where the device does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bf16 products; without them bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(check() for check in checks if check)


def precision(machine: MachineSettings, device: torch.device) -> str:
    """What a training step computes its products in: bf16 or fp32; trained weights are float32 either way."""
    if machine.precision != "auto":
        return machine.precision
    return "bf16" if bf16_is_fast(device) else "fp32"


def training_precision(machine: MachineSettings, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of a training step."""
    return autocast(device) if precision(machine, device) == "bf16" else contextlib.nullcontext()


def measuring_precision(machine: MachineSettings, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of measuring: as in training, but a CPU measures in float32 unless bf16 is asked for."""
    if device.type == "cpu" and machine.precision == "auto":
        return contextlib.nullcontext()
    return training_precision(machine, device)


@contextlib.contextmanager
def compiler_explained() -> Iterator[None]:
    """Turn what ``torch.compile`` raises where it has no compiler into a ``UserError``."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"compile=true did not work here ({reason[:120]}); it needs a C++ compiler, and Triton on a GPU. "
                        "Without it: --resume --set compile=false.") from error


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bf16 products on ``device``. On a CPU with plain attention: the backward pass of the fused one is several times slower
    at 37 tokens (the mini CLIP's)."""
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, torch.bfloat16), plain:
        yield
