"""One progress bar for everything that takes longer than two seconds, with time left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def bar(items: Iterable[Any] | None = None, *, total: int | None = None, what: str, initial: int = 0,
        show: bool = True) -> tqdm[Any]:
    """A tqdm bar that appears after two seconds and leaves nothing behind when it is done."""
    return tqdm(items, total=total, desc=what, initial=initial, delay=2.0, leave=False, dynamic_ncols=True,
                disable=not show)
