"""Alignment of text and image inside the adapters (Figure 10): cosines between the guidance and the visual tokens.

    plain      cos(f_t, f_v)                            f_t = LN(w_bar), f_v = LN(f~) of every token
    projected  cos(f_t W_proj + b_proj, f_v) = cos(g, f_v)
"""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..methods import Method
from ..networks.adapters import SGAdapter
from .inside import guidance_of, tuned_of


@torch.no_grad()
def cosines(model: Method, images: Tensor) -> pd.DataFrame:
    """One row a block: ``block`` (1..L), ``plain`` and ``projected``, means over tokens and ``images`` (B, 3, H, W), in -1..1.

    Raises ``UserError`` when the model has no SG-Adapters.
    """
    net, guidance = tuned_of(model), guidance_of(model)
    if guidance is None or net.adapters is None or not all(isinstance(a, SGAdapter) for a in net.adapters):
        raise UserError("alignment is measured inside SG-Adapters; this run has none (method sage has).")
    rows = []
    for step in net.stream(images, guidance):
        adapter = net.adapters[step.block]
        assert isinstance(adapter, SGAdapter)
        visual, text = adapter.norm(step.mid), adapter.norm(guidance)
        rows.append({"block": step.block + 1, "plain": _mean_cosine(text, visual),
                     "projected": _mean_cosine(adapter.gate_vector(guidance), visual)})
    return pd.DataFrame(rows)


def _mean_cosine(text: Tensor, visual: Tensor) -> float:
    return F.cosine_similarity(visual, text.expand_as(visual), dim=-1).mean().item()
