"""Where a run computes, and in which precision: Accelerate's device, bf16 where the machine is fast at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import Config
from .errors import UserError


def accelerator_for(config: Config) -> Accelerator:
    """Accelerate's view of the devices; raises ``UserError`` when ``config.device`` is not on this machine."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(config.device, True):
        raise UserError(f"there is no {config.device} device on this machine; use --set device=auto or cpu.")
    accelerator = Accelerator(cpu=config.device == "cpu", step_scheduler_with_optimizer=False)
    if accelerator.device.type == "cuda" and config.precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32 beside bf16
    return accelerator


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bf16 products; without them bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(check() for check in checks if check)


def training_precision(config: Config, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of a training step: bf16 products by ``config.precision``; trained weights stay float32."""
    use = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(device))
    return autocast(device) if use else contextlib.nullcontext()


def measuring_precision(config: Config, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of measuring: as in training, but a CPU measures in float32 unless bf16 is asked for."""
    if device.type == "cpu" and config.precision == "auto":
        return contextlib.nullcontext()
    return training_precision(config, device)


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
