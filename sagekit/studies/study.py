"""The paper's studies as rows of runs: Figures 7 and 8, Tables 5, 7, 9 and 10; and what their results say.

A study's summary gives each row's mean over seeds with its 95 % t interval, and its paired difference to the first row: the
same seeds, the same test images. The interval of a difference is a bootstrap over seeds and, inside each, over images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import Config
from ..data.longtail import groups
from ..errors import UserError, nearest
from ..files import write_atomic
from ..runs.compare import t_half_width
from ..runs.metrics import DRAWS, group_names
from ..runs.run import Run

FIG_7 = {"lambda_1": (0.0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4), "lambda_2": (0.0, 0.01, 0.02, 0.03, 0.045),
         "lambda_3": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
FIG_8 = {"gamma": (0.0, 0.02, 0.04, 0.06, 0.09), "mu": (0.1, 0.4, 0.7, 1.0), "alpha": (0.0, 0.1, 0.3, 0.6, 0.9)}
"""The axes of the paper's figures: the printed ranges, in a few steps."""


def table_5(preset: str) -> dict[str, Config]:
    """The components one after the other: LIFT, +SG, +Init, +CF, +FIT."""
    lift, sage = Config.preset(preset, "lift"), Config.preset(preset, "sage")
    sg = lift.changed(module="sg")
    init = sg.changed(templates=sage.templates)
    return {"LIFT": lift, "+SG": sg, "+SG+Init": init, "+SG+Init+CF": init.changed(compensation=True), "+SG+Init+CF+FIT": sage}


MINI_RATES = {"kps": 0.01, "proco": 0.05}
"""Learning rates of the mini world's few epochs, searched without the factor (``benchmarks/search_scratch.py``)."""


def table_7(preset: str) -> dict[str, Config]:
    """Losses from scratch with and without the compensation factor, by the protocols in ``METHODS`` and here.

    The paper does not say whether CE + CF has the class counts n_i of Eq 22 beside the factor, so both readings are rows, with
    LA (the counts alone) between them. gamma is the preset's.
    """
    ce = Config.preset(preset, "scratch")
    rates = MINI_RATES if preset == "mini" else {"kps": ce.lr, "proco": 3 * ce.lr}
    kps = ce.changed(loss="kps", head="cosine", batch_size=ce.batch_size // 2, decay=0.1, lr=rates["kps"])
    proco = ce.changed(loss="proco", batch_size=2 * ce.batch_size, lr=rates["proco"])
    return {"CE": ce, "CE + CF, tau = gamma": ce.changed(compensation=True), "LA": ce.changed(loss="la"),
            "CE + CF, tau = 1 + gamma": ce.changed(loss="la", compensation=True), **_with_factor({"KPS": kps, "ProCo": proco})}


def more_losses(preset: str) -> dict[str, Config]:
    """The other losses of ``compared_losses`` from scratch, with and without the compensation factor."""
    ce = Config.preset(preset, "scratch")
    cosine = ce.changed(head="cosine")
    return _with_factor({
        "focal": ce.changed(loss="focal"), "class-balanced": ce.changed(loss="class-balanced"),
        "CDB-W-CE": ce.changed(loss="cdb"), "LADE": ce.changed(loss="lade"), "LDAM": cosine.changed(loss="ldam"),
        "LDAM-DRW": cosine.changed(loss="ldam-drw"), "DBM": cosine.changed(loss="dbm")})


def _with_factor(rows: dict[str, Config]) -> dict[str, Config]:
    return {name + tail: config.changed(compensation=bool(tail)) for name, config in rows.items() for tail in ("", " + CF")}


def table_9(preset: str) -> dict[str, Config]:
    """One fine-tuning module after the other in LIFT's place: text-initialised cosine classifier and the LA loss."""
    lift = Config.preset(preset, "lift")
    names = {"none": "classifier only", "bitfit": "BitFit", "vpt-shallow": "VPT-shallow", "vpt-deep": "VPT-deep",
             "adapter": "Adapter", "lora": "LoRA", "adaptformer": "AdaptFormer", "sg": "SG-Adapter", "full": "full fine-tuning"}
    return {name: lift.changed(module=module) for module, name in names.items()}


def table_10(preset: str) -> dict[str, Config]:
    """SG-Adapter with and without W_proj; all with the 60 templates and the compensation factor, without FIT."""
    sg = Config.preset(preset, "sage").changed(fit=False)
    return {"Baseline": sg.changed(module="adaptformer"), "+ SG-Adapter": sg,
            "+ SG-Adapter (w/o W_proj)": sg.changed(gate="text")}


def axes(preset: str, values: dict[str, tuple[float, ...]], fit: bool) -> dict[str, Config]:
    """One setting moved at a time around the preset; the first row is the preset itself."""
    base = Config.preset(preset, "sage").changed(fit=fit)
    return {"preset": base, **{f"{key}={v:g}": base.changed(**{key: v}) for key, row in values.items() for v in row}}


STUDIES: dict[str, Callable[[str], dict[str, Config]]] = {
    "table5": table_5,
    "table7": table_7,
    "table9": table_9,
    "table10": table_10,
    "losses": more_losses,
    "fig7": lambda preset: axes(preset, FIG_7, fit=True),
    "fig8": lambda preset: axes(preset, FIG_8, fit=False),
}


def rows_of(study: str, preset: str) -> dict[str, Config]:
    """The rows of one of ``STUDIES`` for a preset."""
    if study not in STUDIES:
        raise UserError(f"there is no study '{study}'.{nearest(study, STUDIES)} Studies: {', '.join(STUDIES)}.")
    return STUDIES[study](preset)


def summary(results: pd.DataFrame, bases: Mapping[str, str] | None = None, definition: str = "own",
            view: str = "single") -> pd.DataFrame:
    """One row for each of ``sweep.results``' rows, over its finished seeds; accuracies and differences in percent, groups by
    the data set's own counts.

    Columns: ``row``, ``seeds``, ``failed``, and for each of all / head / medium / tail: its mean, ``_half`` (half width of the
    t interval), ``_difference`` to the row's base, with ``_low``, ``_high`` and ``_p``. ``definition`` and ``view`` are of the
    differences; the means are those of ``results``. ``bases`` names each row's base (nan without
    one); by default it is the first row.
    """
    finished = results[results["status"] == "finished"]
    first = results["row"].iloc[0]
    bases = {name: first for name in results["row"].unique() if name != first} if bases is None else bases
    rows = []
    for name, part in results.groupby("row", sort=False):
        base = finished[finished["row"] == bases.get(str(name))].set_index("seed")["path"]
        done = part[part["status"] == "finished"]
        row: dict[str, object] = {"row": name, "seeds": len(done), "failed": int((part["status"] == "failed").sum())}
        pairs = [(Run(base[s]), Run(p)) for s, p in zip(done["seed"], done["path"], strict=True) if s in base.index]
        for group in group_names():
            values = done[group].to_numpy(float) if len(done) else np.array([np.nan])
            row |= {group: values.mean(), f"{group}_half": t_half_width(values)}
            unknown = dict.fromkeys(("difference", "low", "high", "p"), np.nan)
            found = paired(pairs, group, definition, view) if pairs else unknown
            row |= {f"{group}_{key}": value for key, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def paired(pairs: list[tuple[Run, Run]], group: str, definition: str = "own", view: str = "single",
           seed: int = 0) -> dict[str, float]:
    """Mean ``difference`` (second minus first, percent) over pairs of runs with one seed each, the ends ``low`` and ``high`` of
    its 95 % interval, and the two-sided ``p``; nan for a group without images.

    Two-level bootstrap: seeds are drawn with replacement, and in each drawn seed the images. Given a seed's share of images
    won and lost, resampling its images is one multinomial draw.
    """
    shares, n = [], 0
    for a, b in pairs:
        first, second = a.predictions(view), b.predictions(view)
        if not np.array_equal(first.labels, second.labels):
            raise UserError(f"{a.path} and {b.path} cannot be paired: their test images differ.")
        members = np.unique(first.labels) if group == "all" else groups(a.metrics["group_counts"][definition])[group]
        chosen = np.isin(first.labels, members)
        n = int(chosen.sum())
        if n == 0:
            return dict.fromkeys(("difference", "low", "high", "p"), np.nan)
        won = (second.correct & ~first.correct)[chosen].mean()
        lost = (first.correct & ~second.correct)[chosen].mean()
        shares.append((won, lost, max(0.0, 1 - won - lost)))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(shares), size=(DRAWS, len(shares)))
    counts = rng.multinomial(n, np.asarray(shares)[drawn])  # (DRAWS, seeds, 3)
    means = 100 * (counts[..., 0] - counts[..., 1]).mean(1) / n
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return {"difference": float(100 * np.mean([w - lost for w, lost, _ in shares])), "low": float(low), "high": float(high),
            "p": float(min(1.0, max(2 * tail, 1 / DRAWS)))}


def axes_of(results: pd.DataFrame) -> pd.DataFrame:
    """The points of a sweep by the settings that its rows name ("gamma=0.1, mu=0.5"): a column for each of them (nan where a
    row does not name it, as the preset), then ``row``, ``seeds``, ``failed``, and for all / head / medium / tail the mean
    over finished seeds and ``_half`` of its t interval. Only ``results`` is read, no run."""
    rows = []
    for name, part in results.groupby("row", sort=False):
        done = part[part["status"] == "finished"]
        line: dict[str, object] = {"row": name, "seeds": len(done), "failed": int((part["status"] == "failed").sum())}
        for assignment in str(name).split(", "):
            key, equals, value = assignment.partition("=")
            if equals:
                line[key] = _as_number(value)
        for group in group_names():
            values = done[group].to_numpy(float) if group in done and len(done) else np.array([np.nan])
            line |= {group: values.mean(), f"{group}_half": t_half_width(values)}
        rows.append(line)
    return pd.DataFrame(rows)


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def save(results: pd.DataFrame, folder: Path) -> None:
    """Write ``results.csv`` and ``summary.csv`` into the study's folder."""
    write_atomic(folder / "results.csv", lambda path: results.to_csv(path, index=False))
    write_atomic(folder / "summary.csv", lambda path: summary(results).to_csv(path, index=False))
