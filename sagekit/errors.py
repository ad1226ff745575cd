"""The one exception for a user's mistake: a single clear line that names the thing and the way out."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend. The command line prints it as one line and exits with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of ``known``, or the empty string when nothing is close."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def few(items: Sequence[str]) -> str:
    """The first three of ``items``, with dots where there are more."""
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def show_one_line() -> None:
    """In a notebook, show a ``UserError`` without its stack. The cell fails all the same. Elsewhere this does nothing."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    def show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
        lines = [f"{kind.__name__}: {error}"]
        shell._showtraceback(kind, error, lines)
        return lines

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((UserError,), show)
