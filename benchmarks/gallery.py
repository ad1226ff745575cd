"""docs/methods.md, the gallery of methods and losses, out of their files and of what was measured (docs/results).

    python benchmarks/gallery.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pandas as pd
from common import markdown
from results import FOLDER

from sagekit.files import write_text
from sagekit.losses import compared
from sagekit.methods import Published, about, load, names
from sagekit.methods._about import idea, listing
from sagekit.studies.study import FIELD, FOUNDATION, Start, table_1

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
CIFAR = "cifar100-lt-100"
HEAD = """# The methods

Written by `python benchmarks/gallery.py` out of the methods' files and [results.md](results.md). Each method is one file of
[sagekit/methods](../sagekit/methods); `sagekit methods NAME` prints its page, with every setting and its source.

**Mini world** is the mean over classes on a generated toy of 48 classes, in percent with a 95 % t interval over five seeds, at
a rate that validation images chose; from scratch at 24 px and 15 epochs, from a CLIP that has read the toy's captions: it
orders methods there and nowhere else, and not those of one kind against the other. Empty: not measured.
**Printed** is for CIFAR-100-LT at imbalance ratio 100, mostly the best epoch on the test images; where from is in the section
of each. The columns hold other data, networks and training lengths: compare within a column, and there with care.
"""
ABSENT = {
    "BALMS": "Balanced Softmax with a sampler that is learned through an unrolled training step, on ImageNet-LT against "
             "validation images; Balanced Softmax itself is `scratch` with `loss=la`.",
    "CR": "Curvature regularisation has no public training code, and no reading that we tried measures curvature: on the "
          "mini world (one seed, recorded features of a CE run) |det| of the local quadratic fit is distributed as in a "
          "Gaussian cloud of the same mean and covariance, its sign is a coin (46 to 48 % positive), and over classes its "
          "logarithm follows the distance to the nearest neighbours (r = -0.84 to -0.95) and so the count. Trained, it cost "
          "accuracy or did nothing, or gave nan where a class had one image in the batch. A file of that name would be a "
          "penalty on distances.",
    "DBM-GML": "The folder of that name in the authors' repository holds GML without DBM's margin: what was run is not known.",
    "RIDE, SADE, NCL, PaCo, GPaCo, BCL, GML, KCL, TSC, DBM-NCL": "Experts, contrast and teachers with queues: not built yet.",
    "LiVT": "A ViT from nothing: 800 epochs of masked pretraining on the long-tailed set itself, then 100 of fine-tuning "
            "with mixup and CutMix. That is out of proportion to a study kit, and a shorter pretraining would be another "
            "method. Its loss is here for every method that takes one: `loss=balanced-bce`.",
    "CoCoOp, MMA, Candle": "Few-shot neighbours without a number on a long tail: CoCoOp needs all texts anew for each image, "
                           "Candle's prediction hangs on the other images of its batch.",
    "LT-Soups, CUE, Rethinking the Bias, GLA": "Several models, an external language model's lists, or no released code.",
    "SAM with DDC": "DDC's best printed numbers train with sharpness-aware minimisation for 400 epochs; ours has its losses.",
    "TACKLE, ECVL": "No public code, and too little text to write them from.",
    "VL-LTR": "It reads sentences of Wikipedia for every class: external data.",
    "LTGC": "It trains on generated images: external data.",
}
"""What the paper compares, or the literature does, and is not here."""
TAKERS = ", ".join(f"`{name}`" for name in names() if "loss" in load(name).Settings.model_fields)
LOSSES = f"""`--set loss=NAME`, of {TAKERS}. Formulas, sources and differences stand in
[sagekit/losses/compared.py](../sagekit/losses/compared.py).
"""


def page() -> str:
    """The whole page."""
    absent = [f"- **{name}.** {why}" for name, why in ABSENT.items()]
    return "\n".join([HEAD, "## All\n", markdown(table()), "\n## Losses\n", LOSSES, markdown(losses()), "",
                      *map(section, names()), "## Not here, and why\n", *absent, ""])


def table() -> pd.DataFrame:
    """A row a method."""
    rows = []
    for row in listing().to_dict("records"):
        name = str(row["name"])
        rows.append({"method": f"[{name}](#{name})", "year": row["year"], "idea": short(name), "starts from": row["needs"],
                     "mini world": measured("table1", FIELD.get(name, "")) or measured("foundation", FOUNDATION.get(name, "")),
                     "printed": printed(about(name).PUBLISHED.get(CIFAR))})
    return pd.DataFrame(rows)


def losses() -> pd.DataFrame:
    """A row a loss."""
    rows = {config[0].settings.loss: row for row, config in table_1(Start("mini")).items()
            if isinstance(config, tuple) and config[0].method == "scratch"}
    return pd.DataFrame([{"loss": f"`{name}`", "row of `study table1`": row, "mini world": measured("table1", row),
                          "head": "cosine" if name in compared.COSINE else ""} for name, row in rows.items()])


def short(name: str) -> str:
    """What a method does: its file's first sentence after the name and its source."""
    return idea(name).partition(": ")[2].rstrip(".") or idea(name)


def measured(study: str, row: str) -> str:
    """A row's mini-world number, where it was measured."""
    file = FOLDER / f"{study}.csv"
    if not row or not file.exists():
        return ""
    found = pd.read_csv(file)
    return "".join(f"{r['mean']:.1f} ± {r['mean_half']:.1f}" for r in found[found["row"] == row].to_dict("records"))


def printed(row: Published | None) -> str:
    """The number for all classes."""
    return f"{row.numbers['all']:.1f}" if row is not None and "all" in row.numbers else ""


def section(name: str) -> str:
    """One method: what it believes, where paper and code differ, commands and printed numbers."""
    method = load(name)
    paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(about(name).__doc__ or "").split("\n\n")]
    said = [text for text in paragraphs if re.match(r"It believes|Where ", text)]
    real = f"sagekit train --preset {CIFAR} --method {name} --set data_root=DATA --out RUN"
    commands = f"```\nsagekit train --preset mini --method {name} --out RUN\n{real}\n```"
    rows = [f"- {preset}: " + ", ".join(f"{group} {value:.1f}" for group, value in row.numbers.items()) + f" ({row.source})"
            for preset, row in about(name).PUBLISHED.items() if row.numbers]
    paper = "" if method.paper.startswith("none") else f"{method.paper}.\n"
    return "\n".join(filter(None, [f"## {name}\n", f"{idea(name)}\n", *(f"{text}\n" for text in said), paper, f"{commands}\n",
                                   "Printed:\n\n" + "\n".join(rows) + "\n" if rows else ""]))


if __name__ == "__main__":
    write_text(PAGE, page())
