"""Class names: from a folder's name, or a file, to what a prompt can say.

    stop_sign            stop sign                  n02085620-Chihuahua      Chihuahua
    AnnualCrop           Annual Crop                004.Groove-billed_Ani    Groove-billed Ani

A name without a word (``7477``, ``n01443537``, ``A``) is none: methods that read text refuse it. Names come from, in this
order: ``classnames.txt`` (``key name`` a line), iNaturalist's ``categories.json``, ImageNet's thousand from open_clip, the
keys.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, few, nearest

CLASS_NAMES_FILE = "classnames.txt"
CATEGORY_FILES = ("categories.json", "train2018.json")
SEPARATORS = "\t,;"
_WNID = re.compile(r"n\d{8}")


@dataclass
class Names:
    """The names of C classes: what prompts say, the keys whose name is no word, and what was assumed, a line each."""

    names: list[str]
    wordless: list[str]
    notes: list[str]


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key: numbers inside a name by their value, letters in any case."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts if part]


def says_word(name: str) -> bool:
    """Whether ``name`` holds a word: two letters in a row, or one beyond the Latin alphabet."""
    return bool(re.search(r"[^\W\d_]{2}", name)) or any(letter.isalpha() and ord(letter) > 0x24F for letter in name)


def readable(key: str) -> str:
    """A folder's name as a prompt says it."""
    name = re.sub(r"^n\d{8}[-_ ]|^\d+\.(?=\D)", "", key) or key
    name = re.sub(r"(?<=[a-z]{2})(?=[A-Z][a-z])", " ", name)
    return re.sub(r"[_/\s]+", " ", name).strip() or key.strip() or key


def leaves(keys: Sequence[str]) -> list[str]:
    """The last part of each nested key, with as many of the parts above it as tell it from the others."""
    parts = [key.split("/") for key in keys]
    depth = [1] * len(keys)
    while True:
        short = ["/".join(part[-d:]) for part, d in zip(parts, depth, strict=True)]
        times = Counter(short)
        again = [i for i, s in enumerate(short) if times[s] > 1 and depth[i] < len(parts[i])]
        if not again:
            return short
        for i in again:
            depth[i] += 1


def named(root: Path, keys: Sequence[str], texts: Sequence[str], numbers: bool = False) -> Names:
    """Names of the classes ``keys`` (C,), whose own names are ``texts`` (C,). With ``numbers`` a line of ``classnames.txt`` may
    go by the label, or by its place. Raises ``UserError`` for a file that cannot be understood."""
    own = [readable(text) for text in texts]
    last = [text.rsplit("/", 1)[-1] for text in texts]
    found, notes = _from_classnames(root / CLASS_NAMES_FILE, keys, numbers)
    if not found:
        found, notes = _from_categories(root, keys)
    if not found and len(keys) == 1000 and all(_WNID.fullmatch(text) for text in last):
        from open_clip import IMAGENET_CLASSNAMES  # slow to import

        order = sorted(range(1000), key=lambda i: last[i])
        found = {keys[i]: IMAGENET_CLASSNAMES[place] for place, i in enumerate(order)}
        notes = ["class names: ImageNet's, as open_clip has them"]
    names = [found.get(key, name) for key, name in zip(keys, own, strict=True)]
    wordless = [key for key, name, text in zip(keys, names, last, strict=True)
                if not says_word(name) or (key not in found and not says_word(readable(text)))]
    if found and (rest := [key for key in keys if key not in found]):
        notes.append(f"{len(rest)} class(es) without a name there keep their folder's: {few(rest)}")
    changed = [f"{text} -> {name}" for key, text, name in zip(keys, texts, own, strict=True)
               if key not in found and text != name]
    if changed:
        notes.append(f"{len(changed)} prompt name(s) made readable: {few(changed)}")
    alike = sorted(name for name, times in Counter(names).items() if times > 1)
    if alike:
        notes.append(f"{len(alike)} name(s) stand for several classes, which a prompt cannot tell apart: {few(alike)}; "
                     f"{CLASS_NAMES_FILE} can name them")
    return Names(names, wordless, notes)


def read_text(file: Path) -> tuple[str, list[str]]:
    """A text file, UTF-8 with or without a mark or else Latin-1, and what was assumed. Raises ``UserError``."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {file}.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None
    if b"\0" in content[:4096]:
        raise UserError(f"{file} is no text file; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return content.decode("latin-1"), [f"{file.name} is not UTF-8; read as Latin-1"]


def _from_classnames(file: Path, keys: Sequence[str], numbers: bool) -> tuple[dict[str, str], list[str]]:
    """Key -> name out of ``classnames.txt``; empty without the file."""
    if not file.is_file():
        return {}, []
    text, notes = read_text(file)
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    ends = Counter(key.rsplit("/", 1)[-1] for key in keys)
    labels = numbers and not any(end.isdigit() for end in ends)  # where folders are numbers, a number is a folder
    known = {**({str(label): key for label, key in enumerate(keys)} if labels else {}),
             **{end: key for key in keys if ends[end := key.rsplit("/", 1)[-1]] == 1}, **{key: key for key in keys}}
    found: dict[str, str] = {}
    odd: list[str] = []
    for number, line in lines:
        key, name = _cut(line, known)
        if key is None:
            odd.append(line)
        elif not name:
            raise UserError(f"{file}, line {number}: '{line[:60]}' has no name; a line is 'folder name'.")
        elif known[key] in found and found[known[key]] != name:
            raise UserError(f"{file}, line {number}: '{key}' has a name already ('{found[known[key]]}').")
        else:
            found[known[key]] = name
    if not found and numbers and len(lines) == len(keys):
        return dict(zip(keys, (_unquoted(line) for _, line in lines), strict=True)), [
            *notes, f"{file.name} holds names alone: the first is label 0's"]
    if not found and lines:
        raise UserError(f"{file}: no line starts with a class of this data, such as '{keys[0]}'; a line is 'folder name'."
                        f"{nearest(lines[0][1], keys)}")
    if odd:
        notes.append(f"{len(odd)} line(s) of {file.name} are of no class here, such as '{odd[0][:40]}'")
    return found, [f"class names: {file}", *notes]


def _cut(line: str, known: dict[str, str]) -> tuple[str | None, str]:
    """A line's key, the longest of ``known`` that it starts with, and its name."""
    for separator in SEPARATORS:
        if separator in line:
            row = next(csv.reader([line], delimiter=separator), [])
            if len(row) > 1 and row[0].strip() in known:
                return row[0].strip(), _unquoted(separator.join(row[1:]))
    words = _unquoted(line).split(" ") if line[0] not in "\"'" else _quoted(line)
    for length in range(len(words), 0, -1):
        key = " ".join(words[:length]).rstrip(":")
        if key in known:
            return key, _unquoted(" ".join(words[length:]))
    return None, ""


def _quoted(line: str) -> list[str]:
    """A line that starts with a key in quotes."""
    end = line.find(line[0], 1)
    return [line[1:end], *line[end + 1 :].split()] if end > 0 else line.split(" ")


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _from_categories(root: Path, keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Species names of iNaturalist, whose folders are the categories' numbers."""
    file = next((root / name for name in CATEGORY_FILES if (root / name).is_file()), None)
    if file is None:
        return {}, []
    rows: Any
    try:
        rows = json.loads(read_text(file)[0])
        rows = rows["categories"] if isinstance(rows, dict) else rows
        names = {str(row["id"]): str(row["name"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is no list of categories with 'id' and 'name'.") from None
    if not any(says_word(name) for name in names.values()):
        raise UserError(f"{file} names its categories by numbers; take iNaturalist's categories.json, which has the species.")
    found = {key: names[leaf] for key in keys if (leaf := key.rsplit("/", 1)[-1]) in names}
    return found, [f"class names: {file}"] if found else []


def read_templates(file: Path) -> list[str]:
    """Own prompts, one a line, each with ``[cls]`` or ``{}`` where the class stands. Raises ``UserError``."""
    lines = [line.strip() for line in read_text(file)[0].splitlines()]
    odd = next((n for n, line in enumerate(lines, 1) if line and "[cls]" not in line and "{}" not in line), None)
    if odd:
        raise UserError(f"{file}, line {odd}: '{lines[odd - 1][:60]}' does not say where the class stands; write [cls] there.")
    found = [line.replace("{}", "[cls]") for line in lines if line]
    if not found:
        raise UserError(f"{file} holds no prompt.")
    return found


def read_sentences(file: Path, keys: Sequence[str], names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Own sentences of every class, by its key or name, and what was left out: JSON ``{class: [sentences]}``, or CSV with the
    columns ``class`` and ``text``. Raises ``UserError`` when a class has none."""
    text, notes = read_text(file)
    rows = _json_rows(file, text) if file.suffix.lower() == ".json" else _csv_rows(file, text)
    places = {**{name.casefold(): i for i, name in enumerate(names)}, **{key.casefold(): i for i, key in enumerate(keys)}}
    found: list[list[str]] = [[] for _ in keys]
    odd = []
    for name, sentence in rows:
        place = places.get(name.casefold())
        if place is None:
            odd.append(name)
        elif sentence.strip():
            found[place].append(sentence.strip())
    without = [key for key, own in zip(keys, found, strict=True) if not own]
    if without:
        raise UserError(f"{file} has no sentence for {len(without)} class(es): {few(without)}.{nearest(without[0], odd)}")
    if odd:
        notes.append(f"{file.name} speaks of {len(set(odd))} class(es) that are not here: {few(sorted(set(odd)))}")
    return found, notes


def _json_rows(file: Path, text: str) -> list[tuple[str, str]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON ({error}).") from None
    wrong = UserError(f"{file}: it must be {{class: [sentences]}}.")
    if not isinstance(content, dict):
        raise wrong
    rows = [(str(name), one) for name, own in content.items() for one in ([own] if isinstance(own, str) else own or [])]
    if not all(isinstance(sentence, str) for _, sentence in rows):
        raise wrong
    return rows


def _csv_rows(file: Path, text: str) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {"class", "text"} <= set(rows[0]):
        raise UserError(f"{file}: its first line must name the columns class,text.")
    return [(row["class"] or "", row["text"] or "") for row in rows]
