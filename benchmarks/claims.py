"""The numbers that the documents print, against what made them.

    make claims

docs/claims.yaml has ``measurements``, NAME: {made_by (a command), commit, date, depends (paths)}, the first three left out
for what docs/results/made.json knows, and ``claims``: each a ``document``, the piece of it that ``says`` the numbers, the
measurement that they are ``by``, and where they are found today:

    recompute: [NAMES]                  functions of cheap.NUMBERS
    table: FILE, row: ROW, columns      a file of docs/results, by its column ``row``
    run: FOLDER, columns                a run's accuracies, as ``compare.line`` has them
    (none of them)                      only its age is checked

The numbers in ``says`` are compared in their order, or those of ``value`` where words say them or others stand beside; one
agrees when it rounds to what is printed, or is within ``tolerance``. A document is older than the code where a commit after its
measurement's touched what that ``depends`` on: this is listed, and is no failure. Exit code 1: a number disagrees; 2: the file
itself is wrong.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date as Date
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from cheap import NUMBERS
from pydantic import BaseModel, ConfigDict, ValidationError

from sagekit.errors import UserError, few, nearest
from sagekit.runs.compare import line
from sagekit.runs.run import Run

PRINTED = re.compile(r"(?<![\w.^-])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")


class Measurement(BaseModel):
    """What made numbers, and when."""

    model_config = ConfigDict(extra="forbid")
    made_by: str = ""
    commit: str = ""
    date: Date | None = None
    depends: list[str] = []


class Claim(BaseModel):
    """A piece of a document with numbers in it."""

    model_config = ConfigDict(extra="forbid")
    document: str
    says: str
    by: str
    recompute: list[str] = []
    table: str | None = None
    row: str | None = None
    run: str | None = None
    columns: list[str] = []
    value: list[float] | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.document}, '{self.says if len(self.says) < 60 else self.says[:57] + '...'}'"

    def values(self) -> list[tuple[float, float]]:
        """The numbers that are said, each with how far off it may be."""
        if self.value is not None:
            return [(value, self.tolerance or 0.0) for value in self.value]
        return [(float(found[0].replace(",", "")),
                 0.5 * 10.0 ** (1 - len(found[1] or ".")) + 1e-9 if self.tolerance is None else self.tolerance)
                for found in PRINTED.finditer(self.says)]


class File(BaseModel):
    """docs/claims.yaml."""

    model_config = ConfigDict(extra="forbid")
    measurements: dict[str, Measurement]
    claims: list[Claim]


PARTS: dict[str, type[BaseModel]] = {"measurements": Measurement, "claims": Claim}


def read(path: Path) -> File:
    """Raises ``UserError`` for what is missing, unknown or misspelt."""
    try:
        return File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())}).") from None
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # what is misspelt is missing too
        *where, key = (str(part) for part in first["loc"] or ("the file",))
        place = f"{path}: {' '.join(where)}".rstrip(": ")
        if first["type"] != "extra_forbidden":
            raise UserError(f"{place}: '{key}': {first['msg']}.") from None
        known = PARTS.get(where[0] if where else "", File).model_fields
        raise UserError(f"{place}: there is no key '{key}'.{nearest(key, known)}") from None


def dated(file: File, root: Path) -> None:
    """Fill in what docs/results/made.json knows."""
    made = root / "docs/results/made.json"
    known = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
    for name, one in file.measurements.items():
        if not (one.made_by and one.commit and one.date):
            if name not in known:
                raise UserError(f"measurement {name}: made_by, commit or date is missing, and docs/results/made.json does not "
                                "know it.")
            one.made_by, one.commit = known[name]["command"], known[name]["commit"]
            one.date = Date.fromisoformat(known[name]["date"])


def today(claim: Claim, root: Path) -> list[tuple[str, float]]:
    """Where each number of ``claim`` is found, and what stands there. Raises ``UserError`` for what is not there."""
    if claim.recompute:
        for name in claim.recompute:
            if name not in NUMBERS:
                raise UserError(f"{claim}: nothing recomputes '{name}'.{nearest(name, NUMBERS)}")
        return [(f"recomputed, {name}", float(NUMBERS[name]())) for name in claim.recompute]
    if claim.table:
        return _cells(claim, f"{claim.table}, row {claim.row}", _row(claim, root / "docs/results" / claim.table))
    if claim.run:
        if not Run(root / claim.run).finished:
            raise UserError(f"{claim}: there is no finished run at {claim.run}.")
        return _cells(claim, claim.run, line(Run(root / claim.run)))
    return []


def _row(claim: Claim, file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{claim}: there is no table {file.name} in docs/results.")
    frame = pd.read_csv(file).astype({"row": str}).set_index("row")
    if claim.row not in frame.index:
        raise UserError(f"{claim}: {file.name} has no row '{claim.row}'.{nearest(str(claim.row), frame.index)}")
    return frame.loc[claim.row].to_dict()


def _cells(claim: Claim, where: str, cells: dict[str, Any]) -> list[tuple[str, float]]:
    for column in claim.columns:
        if not isinstance(cells.get(column), (int, float)):
            raise UserError(f"{claim}: {where} has no number '{column}'.{nearest(column, cells)}")
    return [(f"{where}, {column}", float(cells[column])) for column in claim.columns]


def disagreements(claim: Claim, root: Path) -> list[str]:
    """A line for each number of ``claim`` that is another one today."""
    document = root / claim.document
    if not document.is_file():
        raise UserError(f"{claim}: there is no document {claim.document}.")
    found, said = today(claim, root), claim.values()
    if (claim.table or claim.run or claim.recompute) and len(found) != len(said):
        raise UserError(f"{claim}: it says {len(said)} numbers, and {len(found)} are named to compare with them.")
    if claim.says not in document.read_text(encoding="utf-8"):
        return [f"{claim.document} no longer says '{claim.says}'"]
    return [f"{claim}: says {value:,g}, and {where} is {now:,.6g}"
            for (value, tolerance), (where, now) in zip(said, found, strict=False) if not abs(now - value) <= tolerance]


# --- ages -----------------------------------------------------------------------------------------------------------------


def git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def ages(file: File, root: Path) -> list[str]:
    """A line for each document and measurement that is older than the code."""
    if git(root, "rev-parse", "--is-shallow-repository", "--show-prefix") != "false\n\n":
        return ["ages are not known: the whole git history is not here"]
    lines = []
    for name, made in file.measurements.items():
        if git(root, "cat-file", "-e", f"{made.commit}^{{commit}}") is None:
            raise UserError(f"measurement {name}: git knows no commit {made.commit}.")
        if not made.depends:
            continue
        touched = git(root, "log", "--format=", "--name-only", f"{made.commit}..HEAD", "--", *made.depends) or ""
        if changed := list(dict.fromkeys(touched.splitlines())):
            lines += [f"older than the code: {document}, {name} ({made.date}): {few(changed)} changed since"
                      for document in {claim.document for claim in file.claims if claim.by == name}]
    return sorted(lines)


def check(file: File, root: Path) -> list[str]:
    """All disagreements. Raises ``UserError`` where the file names what is not there."""
    for name, made in file.measurements.items():
        for path in made.depends:
            if not (root / path).exists():
                raise UserError(f"measurement {name}: it depends on {path}, which is not there.")
    for claim in file.claims:
        if claim.by not in file.measurements:
            raise UserError(f"{claim}: there is no measurement '{claim.by}'.{nearest(claim.by, file.measurements)}")
        if bool(claim.recompute) + bool(claim.table) + bool(claim.run) > 1:
            raise UserError(f"{claim}: it may name one of recompute, table and run.")
    return [wrong for claim in file.claims for wrong in disagreements(claim, root)]


def main(root: Path) -> int:
    try:
        file = read(root / "docs/claims.yaml")
        dated(file, root)
        wrong, old = check(file, root), ages(file, root)
    except UserError as error:
        print(f"claims: {error}", file=sys.stderr)
        return 2
    compared = [claim for claim in file.claims if claim.recompute or claim.table or claim.run]
    numbers = sum(len(claim.values()) for claim in compared)
    print(*wrong, *old, f"{len(file.claims)} claims, {numbers} numbers compared, {len(wrong)} disagree", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
