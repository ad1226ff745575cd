"""What the methods say of themselves, for the command line and the dashboard: a table of all, and one method's card."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import pandas as pd

from ..settings import Part
from . import Published, about, load, names

NEEDS = {"clip": "a CLIP", "scratch": "nothing (from scratch)"}


def listing() -> pd.DataFrame:
    """One row a method: ``name``, ``idea``, ``paper``, ``year`` (of the paper; empty where it has none) and ``needs``."""
    rows = []
    for name in names():
        method = load(name)
        years = re.findall(r"\b(?:19|20)\d\d\b", method.paper)
        rows.append({"name": name, "idea": idea(name), "paper": method.paper, "year": years[0] if years else "",
                     "needs": needs(name)})
    return pd.DataFrame(rows)


def needs(name: str) -> str:
    """What a method starts from."""
    method = load(name)
    if method.needs == "clip" and not method.reads_names(method.Settings()):
        return "a CLIP or another plain ViT"
    return NEEDS[method.needs] + (", or with base=lift a CLIP" if hasattr(about(name), "ON_LIFT") else "")


def idea(name: str) -> str:
    """The first sentence of the method's file."""
    return " ".join(_text(name).partition("\n\n")[0].split())


def card(name: str) -> str:
    """The method on a page, in Markdown that also reads as plain text: its file's opening (equations, belief, differences),
    its settings with their sources, and what was printed for it. Raises ``UserError`` for an unknown one."""
    method, module = load(name), about(name)
    head = [_text(name), "", f"Paper: {method.paper}. Needs {needs(name)}."]
    if method.one_process:
        head.append(f"It trains in one process: {method.one_process}.")
    own = ["    " + line for line in setting_lines(method.Settings, dict(method.Settings()))]
    mini = f"On the mini world: {_differing(module.MINI, method.Settings) or 'the same'}."
    rows = {preset: _published(row, method.Settings) for preset, row in module.PUBLISHED.items()}
    published = [f"- {preset}: {text}" for preset, text in rows.items() if text] or ["Nothing."]
    return "\n".join([*head, "", "## Settings", "", *own, "", mini, "", "## Published", "", *published])


def setting_lines(part: type[Part], values: Mapping[str, Any]) -> list[str]:
    """``key = value`` for the settings of ``part``, then what they mean and which values they take, in columns."""
    texts = {key: f"{key} = {shown(values[key])}" for key in part.model_fields}
    width = min(42, max(map(len, texts.values()), default=0))
    return [f"{texts[key]:{width}}   {field.description or ''}{_choices(field.annotation)}"
            for key, field in part.model_fields.items()]


def shown(value: Any) -> str:
    """A value as ``--set`` takes it: nothing for None, quotes for the empty text."""
    if value is None or value == "":
        return "" if value is None else "''"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(name: str) -> str:
    return inspect.cleandoc(about(name).__doc__ or "")


def _choices(kind: Any) -> str:
    values = get_args(kind) if get_origin(kind) is Literal else ()
    return f" [{', '.join(map(str, values))}]" if len(values) > 1 else ""


def _published(row: Published, part: type[Part]) -> str:
    numbers = ", ".join(f"{group} {value:.1f}" for group, value in row.numbers.items())
    printed = f"{numbers} ({row.source})" if numbers else ""
    return "; ".join(filter(None, [printed, _differing(row.settings, part)]))


def _differing(settings: Mapping[str, Any], part: type[Part]) -> str:
    """The settings that are not the defaults."""
    start = dict(part())
    return ", ".join(f"{key}={shown(value)}" for key, value in settings.items() if key not in start or value != start[key])
