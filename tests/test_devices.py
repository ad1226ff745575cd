"""Precision: bf16 where it is fast, float32 for a CPU's measuring, weights always float32."""

import pytest
import torch
from conftest import small

from sagekit import UserError, devices

CPU = torch.device("cpu")


def product(context):
    with context:
        return (torch.ones(4, 4) @ torch.ones(4, 4)).dtype


@pytest.mark.parametrize("fast", [True, False])
def test_auto_follows_the_machine(monkeypatch, fast):
    monkeypatch.setattr(devices, "bf16_is_fast", lambda device: fast)
    assert product(devices.training_precision(small(), CPU)) == (torch.bfloat16 if fast else torch.float32)
    assert product(devices.measuring_precision(small(), CPU)) == torch.float32


def test_a_named_precision_is_kept():
    assert product(devices.training_precision(small(precision="fp32"), CPU)) == torch.float32
    for context in (devices.training_precision, devices.measuring_precision):
        assert product(context(small(precision="bf16"), CPU)) == torch.bfloat16


def test_the_machine_answers():
    assert devices.bf16_is_fast(CPU) in (True, False)
    assert not devices.bf16_is_fast(torch.device("mps"))


def test_a_device_that_is_not_here():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="no cuda device"):
        devices.accelerator_for(small(device="cuda"))
