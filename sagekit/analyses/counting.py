"""Parameters, counted by Table 9's formulas, and the paper's printed counts in their units (finding 6).

    Sage    (5r + d + 4) d + 3r + 2 a block, printed in 2^20;     LIFT    (2r + 3) d + r + 1 a block, printed in 10^6
    r = 2^max(0, floor(log2(C / 2L)));  neither counts the classifier
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pandas as pd

from ..errors import UserError, nearest
from ..networks.adapters import default_bottleneck
from ..paper import CLASSES, MEBI, MEGA, TABLE_12

WIDTH, LAYERS = 768, 12
"""ViT-B/16."""

TABLE_9: dict[str, Callable[[int, int, int], int]] = {
    "BitFit": lambda d, r, p: 11 * d,
    "VPT": lambda d, r, p: p * d,
    "Adapter": lambda d, r, p: (2 * r + 3) * d + r,
    "LoRA": lambda d, r, p: 4 * r * d,
    "AdaptFormer": lambda d, r, p: (2 * r + 3) * d + r + 1,
    "SG-Adapter": lambda d, r, p: (5 * r + d + 4) * d + 3 * r + 2,
}
"""Parameters of one block for width d, bottleneck r and p prompts."""


def block_parameters(module: str, width: int, bottleneck: int, prompts: int = 10) -> int:
    """Parameters of ``module`` (a row of Table 9) in one block."""
    if module not in TABLE_9:
        raise UserError(f"Table 9 has no module '{module}'.{nearest(module, TABLE_9)}")
    return TABLE_9[module](width, bottleneck, prompts)


def without_projection(width: int, bottleneck: int) -> int:
    """An SG-Adapter without W_proj and its bias ("w/o W_proj": the gate is f_t itself)."""
    return block_parameters("SG-Adapter", width, bottleneck) - width * width - width


def folded(width: int, bottleneck: int) -> int:
    """A folded SG-Adapter (finding 4): an adapter of width 2r without LayerNorm weights."""
    return 2 * (2 * bottleneck) * width + 2 * bottleneck + width


def table_12() -> pd.DataFrame:
    """Every cell of Table 12: ``row`` and ``dataset`` as printed, ``printed`` (M), the exact count of what the label says in
    the whole ViT-B/16 (``labelled``), and the module and unit that come nearest to the number (``is``, ``unit``, ``exact``)."""
    rows = []
    for label, cells in TABLE_12.items():
        for dataset, printed in cells.items():
            counts = _counts(default_bottleneck(CLASSES[dataset], LAYERS))
            module, unit = min(itertools.product(counts, UNITS), key=lambda c: abs(counts[c[0]] / UNITS[c[1]] - printed))
            rows.append({"row": label, "dataset": dataset, "printed": printed, "labelled": counts[label],
                         "is": module, "unit": unit, "exact": counts[module]})
    return pd.DataFrame(rows)


UNITS = {"10^6": MEGA, "2^20": MEBI}


def _counts(r: int) -> dict[str, int]:
    return {"Baseline": LAYERS * block_parameters("AdaptFormer", WIDTH, r),
            "+ SG-Adapter": LAYERS * block_parameters("SG-Adapter", WIDTH, r),
            "+ SG-Adapter (w/o W_proj)": LAYERS * without_projection(WIDTH, r)}
