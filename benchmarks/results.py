"""docs/results.md out of docs/results/*.csv, which ``measure.py`` writes: nothing is trained or measured here.

    python benchmarks/results.py
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import markdown

from sagekit import paper
from sagekit.data.longtail import GROUPS
from sagekit.files import write_text
from sagekit.studies.study import FIG_7, FIG_8
from sagekit.studies.summary import corrected

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER, PAGE = DOCS / "results", DOCS / "results.md"
HEAD = """# Measured

Written by `python benchmarks/results.py` out of [docs/results](results), whose files `benchmarks/measure.py` makes; the
command, commit and date of each stand under its heading. **Everything but a section of photographs is of the mini
world**: a generated toy of 48 classes with a CLIP of 1.7 million parameters, 2,400 balanced test images (so the mean over
classes is the mean over images), single view, groups by the data's own counts. Under "paper" are its printed numbers for
CIFAR-100-LT at imbalance ratio 100, with ViT-B/16.

**What may be compared:** the sign of a difference between two rows, and whether it falls on head, medium or tail. Not the
percentages, and not the size of a difference: data, network, number of classes, the groups and the (believed) five crops
differ.

Accuracies are means with 95 % t intervals over seeds. Differences are paired: same seeds, same test images; interval and
p by a crossed bootstrap over seeds and images, but where a section says otherwise; p is Holm's for all comparisons of its
table, and bold where it is below 0.05. What these intervals hold and what they do not: [statistics.md](statistics.md).
Training is in bf16 where the machine is fast at it, the test in float32.
"""
Line = dict[Hashable, Any]
"""A row of a file."""
SHOWN = ("mean", *GROUPS)
TESTED = ("mean", "tail")
TITLES = {
    "text": "Is it the text?", "text-r4": "Is it the text? At another bottleneck, r = 4",
    "text-draw1": "Is it the text? On another draw of the data", "mismatch": "Is it the mismatch?",
    "fig9": "Figure 9, taken apart", "fit": "What is FIT worth?",
    "inference": "What FIT costs at test time",
    "table1": "Table 1: the field, ResNet-32 from scratch", "on-clip": "Decoupling and mixing with LIFT's adapters",
    "foundation": "Sage's rivals: every method that starts from a CLIP",
    "table5": "Table 5: the components one after the other",
    "table7": "Table 7: the compensation factor on other losses, ResNet-32 from scratch",
    "table9": "Table 9: other modules in LIFT's place", "table10": "Table 10: SG-Adapter with and without W_proj",
    "fig7": "Figure 7: the weights of FIT's losses", "fig8": "Figure 8: gamma, mu and alpha, without FIT",
    "choices": "What the paper leaves open", "real": "CIFAR-100-LT, the photographs: Table 7 from scratch",
}
ABOUT = {
    "text":
        "LIFT's settings in every row (one template, logit adjustment, no compensation factor, no FIT); only the "
        "module differs, and its learning rate, which the validation images chose for each row out of four, two seeds "
        "each. Differences are to the SG-Adapter. AdaptFormer 2r and leaky 2r have its inner width and no text; "
        "\"folded, trained\" is the form that a trained SG-Adapter folds into (finding 4), trained from the start; "
        "\"gate vector\" trains the gate itself (finding 5), \"w/o W_proj\" takes f_t for it. The last four rows are the "
        "SG-Adapter itself with another vector in w_bar's place.",
    "mismatch":
        "LIFT with logit adjustment (LA), with the compensation factor of the preset (CF), with the factor's gamma "
        "chosen on validation images, and with LA's tau chosen likewise; where rare classes show other colours in "
        "training than in the test (mismatch on) and where they do not. CF is LA with tau = 1 + gamma (finding 2), so a "
        "tuned gamma is a tau above 1, and the two tuned rows differ in what was tried alone. The worlds with and without "
        "have the same test images, and training images that differ in colour alone.",
    "fig9":
        "The density ratio of Figure 9 with one thing at a time (`density.apart`; P_t held out, 16 components), five "
        "draws of the mini world, each with trainings of its own: `priors` has equal conditionals, `conditionals` "
        "uniform priors (where the features were trained, this holds that they were fitted to the training images), "
        "`estimation` uniform priors and validation images, which are drawn as the test's, in the training images' place: "
        "as few as the training has, and never more than 200. Means over draws, and the range.",
    "fit":
        "Sage without FIT, with it, with its scalars fixed at 0.5, and without the loss that teaches them.",
    "table1":
        "Every loss and method that needs no CLIP: 24 px, 15 epochs, stage 2 of 5 (LWS 5, OLTR and FUR as their files say), "
        "batch 64 but where a method's file says otherwise. The rate of each row (of stage 2, where the classifier is trained "
        "by itself) is one of four multiples of 0.05 or of the method's own, chosen on validation images, two seeds each; "
        "nothing else was searched. Differences are to CE. It does not say how the methods stand after 200 epochs.",
    "on-clip":
        "Stage 1 is LIFT's training with plain cross entropy and a linear classifier that starts from the texts; the rates of "
        "what follows are chosen as in Table 1. Differences are to LIFT, whose loss is logit adjustment. The paper has no such "
        "table.",
    "table7":
        "24 px, 15 epochs; learning rates searched on one or two seeds of another draw, without the factor (docs/studies.md).",
    "foundation":
        "Every method that starts from a CLIP, at a rate out of six that validation images chose, two seeds each (of BALLAD "
        "its first stage's). Differences are to LIFT. The mini CLIP was pretrained on captions of the same toy, and 48 classes "
        "are few: it does not say how the methods stand on real images.",
    "table9":
        "Each row at a rate of its own, out of six, chosen on validation images, two seeds each; the line above says where "
        "that is not so. LIFT is the row AdaptFormer.",
    "choices":
        "Sage with one choice made otherwise. The choice is made on the validation images (val, the mean over classes); the "
        "test images stand beside it.",
    "real":
        "The photographs of CIFAR-100, 10,847 for training at imbalance ratio 100 (n_i = int(500 beta^(-i/99)), "
        "classes in label order, an own draw), 10,000 for the test; ResNet-32 by the common protocol, 200 epochs. "
        "Last epoch, its 95 % Wilson interval over test images, and beside it, as most papers report, **the best "
        "epoch on the test images** among the last 40: that number is chosen on the images that it is of. One seed: "
        "the intervals hold no seed. Differences: paired by image, p exact (McNemar) and Holm's for the row. LIFT and "
        "Sage are not here: they need OpenAI's weights, which were not at hand.",
}
LITERATURE = {"CE": "38.3 (BagofTricks-LT), 38.1 (DDC)", "LA": "43.0 (BagofTricks-LT's Balanced Softmax)",
              "KPS": "45.0 (from memory)", "ProCo": "52.8 (best epoch)"}
"""All of CIFAR-100-LT 100 in percent, from the authors' papers or code, or the collection that is named."""
AXES = {"fig7": FIG_7, "fig8": FIG_8}
READINGS = ("CE + CF, tau = gamma", "CE + CF, tau = 1 + gamma")
PAPER = {"table5": 5, "table7": 7, "table10": 10}
DATASET = "CIFAR-100-LT 100"


def read(name: str) -> pd.DataFrame:
    """A file of docs/results; older ones have no mean over classes, which here is that over images, and no bases."""
    frame = pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=True)
    if "mean" not in frame:
        frame = frame.assign(**{str(c).replace("all", "mean", 1): frame[c] for c in frame if str(c).startswith("all")})
    if "base" not in frame:
        frame = frame.assign(base=[""] + [frame["row"].iloc[0]] * (len(frame) - 1) if "row" in frame else "")
    return frame.fillna({"base": ""})


def cell(row: Line, group: str) -> str:
    return f"{row[group]:.1f} ± {row[group + '_half']:.1f}"


def difference(row: Line, group: str, p: str = "p_holm") -> str:
    if np.isnan(row[f"{group}_low"]):
        return ""
    text = (f"{row[group + '_difference']:+.1f} [{row[group + '_low']:+.1f}, {row[group + '_high']:+.1f}], "
            f"p {row[f'{group}_{p}']:.3f}")
    return f"**{text}**" if row[f"{group}_{p}"] < 0.05 else text


def comparisons(frame: pd.DataFrame, groups: tuple[str, ...]) -> str:
    """How many comparisons a table makes, and how many of them hold after Holm's correction."""
    p = frame[[f"{g}_p_holm" for g in groups]].to_numpy(float)
    known = ~np.isnan(p)
    return f"{known.sum()} comparisons, {(p[known] < 0.05).sum()} with a corrected p below 0.05.\n"


def printed(table: int, name: str) -> str:
    """The paper's all / head / medium / tail of a row, or nothing."""
    frame = paper.table(table)
    found = frame[(frame["system"] == ("CE + CF" if name in READINGS else name)) & (frame["dataset"] == DATASET)]
    return "".join(" / ".join(f"{r[g]:.1f}" for g in ("all", *GROUPS)) for r in found.to_dict("records"))


def table_section(name: str) -> str:
    frame = corrected(read(name), TESTED)
    rates = _chosen(name)
    rows = []
    for row in frame.to_dict("records"):
        picked = {"chosen": rates.get(row["row"], "")} if rates else {}
        val = {} if np.isnan(row.get("val", np.nan)) else {"val %": f"{row['val']:.1f}"}
        line = {"": row["row"], **picked, **val, **{f"{g} %": cell(row, g) for g in SHOWN}, "against": row["base"],
                **{g: difference(row, g) for g in TESTED}}
        rows.append(line | ({"paper: all / head / medium / tail": printed(PAPER[name], row["row"])} if name in PAPER else {}))
    parts = [markdown(pd.DataFrame(rows)), comparisons(frame, TESTED).strip(), *_edges(name)]
    more = {"table7": lambda: readings(frame), "mismatch": mismatch, "fit": afterwards}
    return "\n\n".join(parts + ([more[name]()] if name in more else []))


def _chosen(name: str) -> dict[str, str]:
    """What validation chose for each row."""
    file = FOLDER / f"{name}-choices.csv"
    if not file.exists():
        return {}
    frame = pd.read_csv(file)
    return dict(zip(frame["row"][frame["chosen"]], frame["candidate"][frame["chosen"]], strict=True))


def _edges(name: str) -> list[str]:
    """Rows whose choice lies at an end of what was tried, where a wider search might have found better."""
    file = FOLDER / f"{name}-choices.csv"
    if not file.exists():
        return []
    tried = pd.read_csv(file).groupby("row", sort=False)["chosen"]
    ends = [str(row) for row, chosen in tried if chosen.iloc[0] or chosen.iloc[-1]]
    return [f"Chosen at an end of what was tried: {'; '.join(ends) or 'no row'}."]


def mismatch() -> str:
    """Whether the factor gains more where there is a mismatch."""
    rows = [{"": row["row"], **{f"{g}: gain with mismatch minus gain without": difference(row, g, "p") for g in TESTED}}
            for row in pd.read_csv(FOLDER / "mismatch-contrast.csv").to_dict("records")]
    return ("Were the factor an answer to the mismatch, it would gain more with it (p here is not corrected):\n\n"
            f"{markdown(pd.DataFrame(rows))}\n")


def afterwards() -> str:
    """What changes after training."""
    rows = [{"run": row["row"], "scalars": row["reading"], "s_1": f"{row['s_v']:.2f}", "s_2": f"{row['s_t']:.2f}",
             **{f"{g} %": f"{row[g]:.1f}" for g in SHOWN}, **{g: difference(row, g, "p") for g in TESTED}}
            for row in pd.read_csv(FOLDER / "fit-afterwards.csv").to_dict("records")]
    return ("The same runs with other scalars at test time; without z^v the pass through the frozen network is saved; fitted: "
            "on the validation images. Differences to the learned scalars as trained, p not corrected:\n\n"
            f"{markdown(pd.DataFrame(rows))}\n")


def cost() -> str:
    """What the pass that FIT needs takes."""
    frame = pd.read_csv(FOLDER / "inference.csv").pivot(index="what", columns="backbone", values="to_lift")
    frame = frame.loc[pd.read_csv(FOLDER / "inference.csv")["what"].unique()].map(lambda ratio: f"{ratio:.2f} x").reset_index()
    return f"Time of a prediction, LIFT's being 1 (random weights, float32, two cores):\n\n{markdown(frame)}\n"


def readings(frame: pd.DataFrame) -> str:
    """Which tau of "CE + CF" is nearer to the published gain over CE."""
    groups = ("mean", *GROUPS)
    own = paper.table(7)
    own = own[own["dataset"] == DATASET].set_index("system").rename(columns={"all": "mean"})
    published = {g: own.loc["CE + CF", g] - own.loc["CE", g] for g in groups}
    rows = {str(row["row"]): row for row in frame.to_dict("records")}
    found = {name: {g: rows[name][g] - rows["CE"][g] for g in groups} for name in READINGS if name in rows}
    lines = [{"gain over CE": name, **{g: f"{gain[g]:+.1f}" for g in groups}}
             for name, gain in {"paper, CIFAR-100-LT 100": published, **found}.items()]
    said = []
    for name, gain in found.items():
        distance = np.mean([abs(gain[g] - published[g]) for g in GROUPS])
        signs = sum(np.sign(gain[g]) == np.sign(published[g]) for g in GROUPS)
        said.append(f'- "{name}": over head, medium and tail {distance:.1f} points from the published gains on average, '
                    f"{signs} of 3 signs as published.")
    return (f"{markdown(pd.DataFrame(lines))}\n\nThe paper does not say whether its CE + CF has the class counts of Eq 22 "
            "beside the factor (tau = 1 + gamma) or the factor alone (tau = gamma).\n\n" + "\n".join(said) + "\n")


def figure_section(name: str) -> str:
    frame = read(name)
    frame = corrected(frame, ("mean", "head", "tail"))
    records = {str(row["row"]): row for row in frame.to_dict("records")}
    preset = records["preset"]
    parts = [f"The preset has {', '.join(f'{g} {cell(preset, g)}' for g in ('mean', 'head', 'tail'))}; differences are to it. "
             "A row with the preset's own value is the same runs."]
    for axis in AXES[name]:
        rows = [row for point, row in records.items() if point.startswith(axis + "=") and ", " not in point]
        lines = [{axis: str(row["row"]).partition("=")[2], **{f"{g} %": cell(row, g) for g in ("mean", "head", "tail")},
                  **{g: difference(row, g) for g in ("mean", "head", "tail")}} for row in rows]
        spread = np.ptp([row["mean"] for row in rows])
        parts.append(f"{markdown(pd.DataFrame(lines))}\n\nOver {axis} the mean moves by {spread:.1f} points; "
                     f"the widest interval of one row is ± {max(row['mean_half'] for row in rows):.1f}.")
    if name == "fig7" and any(", " in row for row in records):
        parts.append(joint(records))
    return "\n\n".join([*parts, comparisons(frame, ("mean", "head", "tail"))])


def joint(records: dict[str, Line]) -> str:
    """The mean over lambda_2 and lambda_3 together."""
    lines = [{"mean %, lambda_2": f"{a:g}", **{f"lambda_3 = {b:g}": cell(records[f"lambda_2={a:g}, lambda_3={b:g}"], "mean")
                                              for b in FIG_7["lambda_3"]}} for a in FIG_7["lambda_2"]]
    return f"Together, as section 4.4.2 reads:\n\n{markdown(pd.DataFrame(lines))}"


def figure_9() -> str:
    frame = pd.read_csv(FOLDER / "fig9.csv")
    rows = []
    for (features, part), own in frame.groupby(["features", "part"], sort=False):
        rows.append({"features": features, "part": part,
                     **{title: f"{own[key].mean():.2f} ({own[key].min():.2f} to {own[key].max():.2f})" for title, key in
                        (("r", "r"), ("gamma", "gamma"), ("mean log ratio of tail classes", "tail_log_ratio"))}})
    return markdown(pd.DataFrame(rows)) + "\n"


def real() -> str:
    frame = pd.read_csv(FOLDER / "real.csv").fillna({"base": ""})
    rows = []
    for row in frame.to_dict("records"):
        line = {"": row["row"], **{f"{g} %": f"{row[g]:.1f} [{row[g + '_from']:.1f}, {row[g + '_to']:.1f}]" for g in SHOWN},
                "best epoch on test": f"{row['best_on_test']:.1f} (epoch {row['best_epoch']})", "against": row["base"]}
        line |= {g: difference(row, g) if row["base"] else "" for g in SHOWN if f"{g}_low" in row}
        rows.append(line | {"paper: all / head / medium / tail": printed(7, row["row"]),
                            "elsewhere: all": LITERATURE.get(row["row"], "")})
    return markdown(pd.DataFrame(rows)) + "\n\n" + readings(frame)


def section(name: str, made: dict[str, Any]) -> str:
    own = {"fig9": figure_9, "inference": cost, "real": real}
    body = own.get(name) or (lambda: figure_section(name) if name in AXES else table_section(name))
    seconds = made.get("seconds")
    said = f"`{made['command']}`, commit {made['commit']}, {made['date']}."
    if seconds:
        said += f" Training took {seconds[0]} to {seconds[1]} s a run, two runs at a time on two cores."
    said += f" {made['note']}" if "note" in made else ""
    return "\n\n".join([f"## {TITLES[name]}", said, *([ABOUT[name]] if name in ABOUT else []), body()])


def page() -> str:
    """The whole page."""
    made = json.loads((FOLDER / "made.json").read_text(encoding="utf-8"))
    return "\n".join([HEAD, *(section(name, made[name]) for name in TITLES if name in made)])


if __name__ == "__main__":
    write_text(PAGE, page())
