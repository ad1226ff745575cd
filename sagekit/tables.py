"""What the command line prints: frames of the library as tables that fit a narrow terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from .data.check import Report
    from .runs.run import Run

console = Console(highlight=False, emoji=False)


def print_report(report: Report) -> None:
    """What ``sagekit data`` found."""
    from .data.check import classes
    from .data.longtail import DEFINITIONS

    console.print(f"{report.place} ({report.kind})", markup=False)
    if report.data is not None:
        for line in report.data.summary():
            console.print(f"  {line}", markup=False, soft_wrap=True)
        frame = classes(report.data)
        most = 24
        shown = frame if len(frame) <= most else frame.iloc[[*range(most // 2), *range(-most // 2, 0)]]
        grid = plain_grid(*shown.columns)
        for row in shown.astype(str).itertuples(index=False):
            grid.add_row(*map(escape, row))
        console.print(grid)
        if len(frame) > most:
            console.print(f"{len(frame) - most} classes between are not shown; --json has all.")
        for name, of in report.data.groups.items():
            sizes = ", ".join(f"{group} {len(members)}" for group, members in of.items())
            console.print(f"{name}: {sizes} classes ({DEFINITIONS[name]})", soft_wrap=True)
    if report.files:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in report.formats.items())
        sizes = ", ".join(f"{n:,} of {size}" for size, n in list(report.sizes.items())[:4])
        more = ", ..." if len(report.sizes) > 4 else ""
        console.print(f"{report.files:,} files opened: {kinds}; {sizes}{more}", soft_wrap=True)
    for what, frame in (("damaged", report.damaged), ("odd", report.odd), ("the same content twice", report.duplicates)):
        if len(frame):
            console.print(f"{what}: {len(frame):,}")
            for row in frame.head(10).itertuples(index=False):
                console.print(f"  {'  '.join(map(str, row))}", markup=False, soft_wrap=True)
            if len(frame) > 10:
                console.print("  ... --json has all")


def print_runs(runs: list[Run], view: str, definition: str) -> None:
    """One row a run, each accuracy with its interval below it."""
    from .data import world
    from .runs.compare import said, table
    from .runs.metrics import about_mean, group_names

    frame = table(runs, view, definition)
    balanced = bool(frame["balanced"].all())
    groups = group_names(balanced)
    grid = plain_grid("run", "method", *(f"{g} %" for g in groups), "trained", "s", title=said(runs[0], view, definition))
    for row in frame.to_dict("records"):
        grid.add_row(str(row["run"]), row["method"], *(_cell(row, g) for g in groups), f"{row['parameters']:,}",
                     f"{row['seconds']:.0f}")
    console.print(grid)
    console.print(f"Top-1 ({about_mean(balanced)}; a group: over its classes), and below it its 95 % Wilson interval over test "
                  "images; trained: parameters; s: seconds.")
    if runs[0].metrics["mini_world"]:
        console.print(world.NOTE)


def _cell(row: Mapping[Any, Any], group: str) -> str:
    return "-" if row[group] != row[group] else f"{row[group]:.1f}\n{row[group + '_low']:.1f}-{row[group + '_high']:.1f}"


def print_measures(runs: list[Run], view: str, definition: str) -> None:
    """All measures, a column a run."""
    from .runs.compare import MEASURES, measures
    from .runs.metrics import group_names

    frame = measures(runs, view, definition)
    names = {**{g: f"{g} %" for g in group_names(bool(frame["balanced"].all()))}, **{k: f"{v} %" for k, v in MEASURES.items()},
             "negative_log_likelihood": "NLL, nats"}
    grid = plain_grid("measure", *(run.name for run in runs), title="All measures")
    for key, name in names.items():
        digits = 3 if key == "negative_log_likelihood" else 1
        grid.add_row(name, *("-" if value != value else f"{value:.{digits}f}" for value in frame[key]))
    console.print(grid)
    console.print("Top-5: mean over classes; macro-F1, worst class, harmonic and geometric mean: of the classes; ECE (15 bins) "
                  "and NLL: over images.")


def print_record(run: Run, record: Mapping[str, Any], view: str) -> None:
    """What was measured on other images than the test's."""
    from .runs.compare import VIEW_NAMES, percent
    from .runs.metrics import about_mean, group_names

    result = record["results"][view]
    row, groups = percent(result, "own"), group_names(result["balanced"])
    grid = plain_grid("run", *(f"{g} %" for g in groups),
                  title=f"{record['split']}: {record['images']:,} images, {VIEW_NAMES[view]}")
    grid.add_row(run.name, *(_cell(row, g) for g in groups))
    console.print(grid)
    console.print(f"Top-1 ({about_mean(result['balanced'])}), and below it its 95 % Wilson interval over images. The record: "
                  f"{run.file('metrics', record['split'])}.")


def print_differences(base: Run, other: Run, frame: pd.DataFrame) -> None:
    """One pair of runs, a row a group."""
    from .runs.metrics import group_names

    balanced = bool(base.metrics["results"]["single"]["balanced"])
    grid = plain_grid("group", "difference (points)", "95 % interval", "p", "p (Holm)", "test", "images",
                  title=f"{other.name} minus {base.name}, paired on the same images")
    for row in frame[frame["group"].isin(group_names(balanced))].to_dict("records"):
        grid.add_row(row["group"], f"{row['difference']:+.1f}", f"[{row['low']:+.1f}, {row['high']:+.1f}]", f"{row['p']:.3f}",
                     f"{row['p_holm']:.3f}", row["test"], str(row["images"]))
    console.print(grid)
    console.print("p: of the test that is named; random signs where images weigh unequally. Holm within this table. Interval: "
                  "paired bootstrap over test images.")


def print_summary(name: str, frame: pd.DataFrame, balanced: bool, mini: bool) -> None:
    """A study's or sweep's rows over seeds."""
    from .data import world
    from .runs.metrics import about_mean, group_names
    from .studies.summary import corrected

    groups, tested = group_names(balanced), ("mean", "tail")
    against = sorted(set(frame["base"]) - {""})
    held_out = ["val %"] if frame["val"].notna().any() else []
    frame = corrected(frame, tested)
    to = [f"{g}: to {against[0]}" if len(against) == 1 else f"{g}: to its base" for g in tested]
    grid = plain_grid("row", "seeds", *held_out, *(f"{g} %" for g in groups), *to, title=name)
    for row in frame.to_dict("records"):
        means = [f"{row[g]:.1f}\n± {row[g + '_half']:.1f}".replace("\n± nan", "").replace("nan", "-") for g in groups]
        grid.add_row(str(row["row"]), str(row["seeds"]), *(f"{row['val']:.1f}" for _ in held_out), *means,
                     *(_difference(row, g) for g in tested))
    console.print(grid)
    if len(against) > 1:
        console.print("Bases: " + "; ".join(f"{row} to {base}" for row, base in zip(frame["row"], frame["base"], strict=True)
                                            if base) + ".", markup=False)
    console.print("val: mean over classes on the validation images. " * len(held_out) +
                  f"Top-1 on the test images, mean and 95 % t interval over seeds ({about_mean(balanced)}). Differences: "
                  "paired by seed and image, 95 % interval and p by a bootstrap over both; p is Holm's, for the "
                  f"{int(frame[[f'{g}_p' for g in tested]].notna().sum().sum())} comparisons of this table.")
    if mini:
        console.print(world.NOTE)


def _difference(row: Mapping[Any, Any], group: str) -> str:
    if row[group + "_difference"] != row[group + "_difference"]:  # nan: the first row, or nothing to pair
        return ""
    return (f"{row[group + '_difference']:+.1f}\n[{row[group + '_low']:+.1f}, {row[group + '_high']:+.1f}]\n"
            f"p {row[group + '_p_holm']:.3f}")


def print_rows(frame: pd.DataFrame) -> None:
    """Rows of predictions."""
    columns = [c for c in frame if c in ("file", "class", "probability", "class_2", "probability_2", "true_class", "right")]
    grid = plain_grid(*columns)
    for row in frame[columns].to_dict("records"):
        grid.add_row(*(escape(f"{value:.2f}" if isinstance(value, float) else str(value)) for value in row.values()))
    console.print(grid)


def plain_grid(*columns: str, title: str | None = None) -> Table:
    """A table that fits a narrow terminal: no frame, one space between columns, long names folded and not cut."""
    return Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left",
                 box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
