"""Table 9's formulas against modules, and what Table 12's numbers are."""

import pytest
import torch

from sagekit import AdaptFormer, SGAdapter, UserError
from sagekit.analyses import counting
from sagekit.networks.adapters import count


@pytest.mark.parametrize("r", [1, 4, 256])
def test_formulas_are_the_modules_counts(r):
    assert counting.block_parameters("AdaptFormer", 768, r) == count(AdaptFormer(768, r))
    assert counting.block_parameters("SG-Adapter", 768, r) == count(SGAdapter(768, r))
    assert counting.without_projection(768, r) == count(SGAdapter(768, r, gate="text"))
    assert counting.folded(768, r) == count(SGAdapter(768, r).fold(torch.randn(768)))


def test_table_12_s_last_two_labels_are_swapped():
    """Finding 7; and the baseline is in 10^6 and the others in 2^20 (finding 6)."""
    frame = counting.table_12().set_index("row")
    swapped = {"Baseline": "Baseline", "+ SG-Adapter": "+ SG-Adapter (w/o W_proj)", "+ SG-Adapter (w/o W_proj)": "+ SG-Adapter"}
    for row, meant in swapped.items():
        assert set(frame.loc[row, "is"]) == {meant}
        assert set(frame.loc[row, "unit"]) == {"10^6" if row == "Baseline" else "2^20"}
    fits = frame["exact"] / frame["unit"].map(counting.UNITS)
    assert (fits - frame["printed"]).abs().max() < 0.01


def test_unknown_module():
    with pytest.raises(UserError, match="Did you mean 'LoRA'"):
        counting.block_parameters("LORA", 768, 4)
