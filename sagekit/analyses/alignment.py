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
from ..networks.adapters import SGAdapter
from ..networks.tuned import Model


@torch.no_grad()
def cosines(model: Model, images: Tensor) -> pd.DataFrame:
    """One row a block: ``block`` (1..L), ``plain`` and ``projected``, means over tokens and ``images`` (B, 3, H, W), in -1..1.

    Raises ``UserError`` when the model has no SG-Adapters.
    """
    if model.adapters is None or not all(isinstance(a, SGAdapter) for a in model.adapters):
        raise UserError("alignment is measured inside SG-Adapters; this run has none (method sage, or module=sg).")
    tokens, guidance = model.tuned.embed(images), model.guidance()
    rows = []
    for index, adapter in enumerate(model.adapters):
        assert isinstance(adapter, SGAdapter)
        mid, _, tokens = model.block(index, tokens, guidance)
        visual, text = adapter.norm(mid), adapter.norm(guidance)
        rows.append({"block": index + 1, "plain": _mean_cosine(text, visual),
                     "projected": _mean_cosine(adapter.gate_vector(guidance), visual)})
    return pd.DataFrame(rows)


def _mean_cosine(text: Tensor, visual: Tensor) -> float:
    return F.cosine_similarity(visual, text.expand_as(visual), dim=-1).mean().item()
