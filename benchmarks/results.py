"""docs/results.md: the paper's studies on the mini world over seeds, beside the paper's own numbers.

    python benchmarks/results.py [SEEDS] [RUNS]

Trains what RUNS/points does not hold yet (build/results; about three hours on two cores), then writes the page, and
docs/results/STUDY.csv with each study's summary against its first row, which the notebooks read.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from common import markdown

from sagekit import paper
from sagekit.data.longtail import GROUPS
from sagekit.files import write_text
from sagekit.runs.run import Run
from sagekit.studies.study import FIG_7, FIG_8, rows_of
from sagekit.studies.summary import save, summary
from sagekit.studies.sweep import over_seeds, run_points

HEAD = """# Measured: the paper's studies on the mini world

Written by `python benchmarks/results.py` on {date}, {seeds} seeds a row. **All numbers but those under "paper" are
mini-world numbers**: a generated toy of 48 classes with a CLIP of 1.7 million parameters,
{images} test images, single view, groups by the data's own counts. Under "paper" are its printed numbers for
CIFAR-100-LT at imbalance ratio 100, with ViT-B/16.

**What may be compared:** the sign of a difference between two rows, and whether it falls on head, medium or tail. Not
the percentages, and not the size of a difference: data, network, number of classes, the groups
and the (believed) five crops differ.

Accuracies are means with 95 % t intervals over seeds. Differences are paired: same seeds, same test images; their
intervals are a crossed bootstrap over seeds and the images that these share; [statistics.md](statistics.md) says what
that means. A difference whose interval excludes zero is bold. Training is in bf16 (`precision`: auto, on a CPU that
has the instructions), the test in float32.
"""
TABLES = {
    "table5": ("Table 5: the components one after the other", 5),
    "table7": ("Table 7: the compensation factor on other losses, ResNet-32 from scratch", 7),
    "table9": ("Table 9: other modules in LIFT's place", None),
    "table10": ("Table 10: SG-Adapter with and without W_proj", 10),
}
NOTES = {
    "table7": "24 px, 15 epochs; learning rates searched on one seed of another draw, without the factor (docs/studies.md).\n",
    "table9": "All rows at the learning rate that was searched on LIFT, so rows that want another one (VPT, LoRA) stand worse "
              "than they could. Full fine-tuning, which LIFT's authors find to hurt, is the best row of this toy.\n",
}
READINGS = ("CE + CF, tau = gamma", "CE + CF, tau = 1 + gamma")
PAIRS = {"table5": {"+SG": "LIFT", "+SG+Init": "+SG", "+SG+Init+CF": "+SG+Init", "+SG+Init+CF+FIT": "+SG+Init+CF"},
         "table7": {**dict.fromkeys((*READINGS, "LA"), "CE"), "KPS + CF": "KPS", "ProCo + CF": "ProCo"}}
FIGURES = {"fig7": ("Figure 7: the weights of FIT's losses", FIG_7),
           "fig8": ("Figure 8: gamma, mu and alpha, without FIT", FIG_8)}
DATASET = "CIFAR-100-LT 100"


def measured(study: str, seeds: int, runs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The results of a study's runs, and their summary against the first row."""
    results = run_points(over_seeds(rows_of(study, "mini"), seeds), runs / "points")
    usual = save(results, runs / f"{study}-mini")
    failed = results[results["status"] != "finished"].to_dict("records")
    if failed:
        raise SystemExit(f"{len(failed)} runs of {study} are not finished; the first: {failed[0]['row']}: {failed[0]['error']}")
    return results, usual


def cell(row: dict, group: str) -> str:
    return f"{row[group]:.1f} ± {row[group + '_half']:.1f}"


def difference(row: dict, group: str) -> str:
    low, high = row[f"{group}_low"], row[f"{group}_high"]
    if np.isnan(low):
        return ""
    text = f"{row[group + '_difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def comparisons(frame: pd.DataFrame, groups: tuple[str, ...]) -> str:
    ends = np.array([(row[f"{g}_low"], row[f"{g}_high"]) for row in frame.to_dict("records") for g in groups])
    ends = ends[~np.isnan(ends[:, 0])]
    apart = int(((ends[:, 0] > 0) | (ends[:, 1] < 0)).sum())
    return (f"{len(ends)} comparisons, {apart} with an interval that excludes zero; by chance alone it would be about "
            f"{len(ends) / 20:.1f}.\n")


def printed(table: int | None, name: str) -> str:
    """The paper's all / head / medium / tail of a row, or nothing."""
    if table is None:
        return ""
    name = "CE + CF" if name in READINGS else name
    frame = paper.table(table)
    found = frame[(frame["system"] == name) & (frame["dataset"] == DATASET)].to_dict("records")
    return " / ".join(f"{found[0][g]:.1f}" for g in ("all", *GROUPS)) if found else ""


def table_section(study: str, results: pd.DataFrame, usual: pd.DataFrame) -> str:
    title, number = TABLES[study]
    frame = summary(results, PAIRS[study]) if study in PAIRS else usual
    first = str(frame["row"].iloc[0])
    rows = []
    for row in frame.to_dict("records"):
        name = str(row["row"])
        base = PAIRS[study].get(name, "") if study in PAIRS else first if name != first else ""
        rows.append({"": name, **{f"{g} %": cell(row, g) for g in ("all", *GROUPS)}, "against": base,
                     "all": difference(row, "all"), "tail": difference(row, "tail"),
                     "paper: all / head / medium / tail": printed(number, name)})
    seconds = results.groupby("row", sort=False)["seconds"].mean()
    columns = [c for c in rows[0] if number is not None or not c.startswith("paper")]
    return (f"## {title}\n\n{markdown(pd.DataFrame(rows)[columns])}\n\n{comparisons(frame, ('all', 'tail'))}"
            f"Training took {seconds.min():.0f} to {seconds.max():.0f} s a run, two runs at a time on two cores.\n"
            + NOTES.get(study, "") + (readings(frame) if study == "table7" else ""))


def readings(frame: pd.DataFrame) -> str:
    """Which tau of "CE + CF" is nearer to the published gain over CE."""
    groups, table = ("all", *GROUPS), paper.table(7)
    own = table[table["dataset"] == DATASET].set_index("system")
    published = {g: own.loc["CE + CF", g] - own.loc["CE", g] for g in groups}
    measured_rows = [row for row in frame.to_dict("records") if row["row"] in READINGS]
    found = {str(row["row"]): {g: row[f"{g}_difference"] for g in groups} for row in measured_rows}
    lines = [{"gain over CE": name, **{g: f"{gain[g]:+.1f}" for g in groups}}
             for name, gain in {"paper, CIFAR-100-LT 100": published, **found}.items()]
    distance = {name: np.mean([abs(gain[g] - published[g]) for g in groups]) for name, gain in found.items()}
    signs = {name: sum(np.sign(gain[g]) == np.sign(published[g]) for g in groups) for name, gain in found.items()}
    near, far = sorted(distance, key=distance.__getitem__)
    return (f"\n{markdown(pd.DataFrame(lines))}\n\nThe paper does not say whether its CE + CF has the class counts of Eq 22 "
            f"beside the factor (tau = 1 + gamma) or the factor alone (tau = gamma).\n\n"
            f"- In size \"{near}\" is nearer to the published gain: mean distance {distance[near]:.1f} points, the other "
            f"{distance[far]:.1f}.\n- In direction \"{near}\" has {signs[near]} of 4 signs as published, \"{far}\" "
            f"{signs[far]}.\n\n"
            "Sizes are not comparable across data sets, directions are.\n")


def figure_section(study: str, results: pd.DataFrame) -> str:
    title, axes = FIGURES[study]
    same = set(results[results["row"] == "preset"]["path"])  # points of an axis that are the preset itself
    copies = set(results[results["path"].isin(same)]["row"])
    frame = summary(results, {row: "preset" for row in results["row"] if row not in copies})
    records = {str(row["row"]): row for row in frame.to_dict("records")}
    preset = records["preset"]
    known = ", ".join(f"{g} {cell(preset, g)}" for g in ("all", "head", "tail"))
    parts = [f"## {title}\n\nThe preset has {known}; differences are to it.\n"]
    for axis, values in axes.items():
        rows = [records[f"{axis}={v:g}"] for v in values]
        lines = [{axis: f"{v:g}", **{f"{g} %": cell(row, g) for g in ("all", "head", "tail")},
                  **{g: difference(row, g) for g in ("all", "head", "tail")}} for v, row in zip(values, rows, strict=True)]
        spread = np.ptp([row["all"] for row in rows])
        parts.append(f"{markdown(pd.DataFrame(lines))}\n\nOver {axis} the mean of all moves by {spread:.1f} points; "
                     f"the widest interval of one row is ± {max(row['all_half'] for row in rows):.1f}.\n")
    return "\n".join([*parts, comparisons(frame, ("all", "head", "tail"))])


def main(seeds: int, runs: Path) -> None:
    parts = []
    for study in (*TABLES, *FIGURES):
        results, usual = measured(study, seeds, runs)
        table = usual.drop(columns=["failed"])
        write_text(Path(f"docs/results/{study}.csv"), table.to_csv(index=False, float_format="%.3f"))
        parts.append(table_section(study, results, usual) if study in TABLES else figure_section(study, results))
    images = Run(results["path"].iloc[0]).metrics["test_images"]
    write_text(Path("docs/results.md"), "\n".join([HEAD.format(date=date.today(), seeds=seeds, images=images), *parts]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, Path(sys.argv[2] if len(sys.argv) > 2 else "build/results"))
