"""Precision: bf16 where it is fast, float32 for a CPU's measuring, weights always float32; and which device."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from conftest import small

import sagekit as sk
from sagekit import UserError, devices
from sagekit.data.batches import Batch
from sagekit.methods import Now
from sagekit.settings import MachineSettings
from sagekit.training.evaluate import predict

CPU = torch.device("cpu")
AUTO, FP32, BF16 = (MachineSettings(precision=p) for p in ("auto", "fp32", "bf16"))


def product(context):
    with context:
        return (torch.ones(4, 4) @ torch.ones(4, 4)).dtype


@pytest.mark.parametrize("fast", [True, False])
def test_auto_follows_the_machine(monkeypatch, fast):
    monkeypatch.setattr(devices, "bf16_is_fast", lambda device: fast)
    assert product(devices.training_precision(AUTO, CPU)) == (torch.bfloat16 if fast else torch.float32)
    assert product(devices.measuring_precision(AUTO, CPU)) == torch.float32
    assert devices.precision(AUTO, CPU) == ("bf16" if fast else "fp32")


def test_a_named_precision_is_kept():
    assert product(devices.training_precision(FP32, CPU)) == torch.float32
    for context in (devices.training_precision, devices.measuring_precision):
        assert product(context(BF16, CPU)) == torch.bfloat16
    assert [devices.precision(machine, CPU) for machine in (FP32, BF16)] == ["fp32", "bf16"]


def test_the_machine_answers():
    assert devices.bf16_is_fast(CPU) in (True, False)
    assert not devices.bf16_is_fast(torch.device("mps"))


def test_a_device_that_is_not_here():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="no cuda device"):
        devices.accelerator_for(MachineSettings(device="cuda"))


def test_tf32_is_switched_both_ways(monkeypatch):
    """As if there were a GPU; the switch is the whole process's, so a later float32 run has to take it back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_forget_other_device", lambda cpu: None)
    monkeypatch.setattr(devices, "Accelerator", lambda **_: SimpleNamespace(device=torch.device("cuda")))
    before = torch.get_float32_matmul_precision()
    try:
        for machine, expected in ((AUTO, "high"), (FP32, "highest"), (BF16, "high"), (FP32, "highest")):
            devices.accelerator_for(machine)
            assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("named", ["cpu", "auto"])
def test_a_cpu_run_after_one_on_another_device(monkeypatch, named):
    """Accelerate keeps a process's first device, and refuses a CPU after it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator()
        for state in (PartialState, AcceleratorState):
            state._shared_state |= {"device": torch.device("mps"), "_cpu": False}
        with pytest.raises(ValueError, match="cpu=True"):
            Accelerator(cpu=True)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert devices.accelerator_for(MachineSettings(device=named)).device == CPU
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("method", ["sage", "scratch"])
def test_the_head_computes_in_float32_in_both(backbone, data, method, monkeypatch):
    """Of logits that bf16 could hold, every one is its own rounding; a training step's and measuring's are not."""
    config = small(method, precision="bf16")
    model = sk.build_model(config, None, backbone, class_counts=data.class_counts.tolist())
    seen, real = [], type(model).classify

    def spy(self, features):
        logits = real(self, features)
        seen.append((features.own.dtype, logits.prediction.detach()))
        return logits

    monkeypatch.setattr(type(model), "classify", spy)
    split = data.test.take(torch.arange(20))
    images = torch.rand(4, 3, model.image_size, model.image_size)
    with devices.training_precision(config.machine, CPU):
        model((Batch((images,), torch.arange(4), torch.arange(4)),), Now(0, 0, 0.0, torch.Generator()))
    predict(model, split, config, Accelerator(cpu=True), show=False)
    assert len(seen) == 2
    for dtype, logits in seen:
        assert dtype == logits.dtype == torch.float32
        assert (logits != logits.bfloat16().float()).float().mean() > 0.9
