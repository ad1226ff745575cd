"""What the methods say of themselves, for the command line and the dashboard."""

from __future__ import annotations

import inspect

import pandas as pd

from . import about, load, names


def listing() -> pd.DataFrame:
    """One row a method: ``name``, ``idea``, ``paper`` and ``needs``."""
    return pd.DataFrame([{"name": name, "idea": _text(name).partition("\n")[0], "paper": load(name).paper,
                          "needs": load(name).needs} for name in names()])


def card(name: str) -> str:
    """The method on a page, in Markdown: its file's opening and its paper. Raises ``UserError`` for an unknown one."""
    return f"{_text(name)}\n\nPaper: {load(name).paper}."


def _text(name: str) -> str:
    return inspect.cleandoc(about(name).__doc__ or "")
