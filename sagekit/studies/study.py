"""The paper's studies as rows of runs: Figures 7 and 8, Tables 5, 7, 9 and 10. What their results say is in ``summary``."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..errors import UserError, nearest

FIG_7 = {"lambda_1": (0.0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4), "lambda_2": (0.0, 0.01, 0.02, 0.03, 0.045),
         "lambda_3": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
FIG_8 = {"gamma": (0.0, 0.02, 0.04, 0.06, 0.09), "mu": (0.1, 0.4, 0.7, 1.0), "alpha": (0.0, 0.1, 0.3, 0.6, 0.9)}
"""The axes of the paper's figures: the printed ranges, in a few steps."""


def table_5(preset: str) -> dict[str, Config]:
    """The components one after the other: LIFT, +SG, +Init, +CF, +FIT."""
    sage = Config.preset(preset, "sage")
    cf = sage.changed(fit=False)
    init = cf.changed(gamma=0.0)
    return {"LIFT": Config.preset(preset, "lift"), "+SG": init.changed(templates=1), "+SG+Init": init, "+SG+Init+CF": cf,
            "+SG+Init+CF+FIT": sage}


MINI_KPS = 0.01
"""KPS's learning rate for the mini world's few epochs, searched without the factor (``benchmarks/search_scratch.py``)."""


def table_7(preset: str) -> dict[str, Config]:
    """Losses from scratch with and without the compensation factor, by the protocols of their methods and here.

    The paper does not say whether CE + CF has the class counts n_i of Eq 22 beside the factor, so both readings are rows, with
    LA (the counts alone) between them. gamma is the preset's.
    """
    ce, gamma = Config.preset(preset, "scratch"), _gamma(preset)
    kps = ce.changed(loss="kps", head="cosine", batch_size=ce.settings.batch_size // 2, decay=0.1,
                     lr=MINI_KPS if preset == "mini" else ce.settings.lr)
    return {"CE": ce, "CE + CF, tau = gamma": ce.changed(gamma=gamma), "LA": ce.changed(loss="la"),
            "CE + CF, tau = 1 + gamma": ce.changed(loss="la", gamma=gamma),
            **_with_factor({"KPS": kps, "ProCo": Config.preset(preset, "proco")}, gamma)}


def more_losses(preset: str) -> dict[str, Config]:
    """The other losses of ``losses.compared`` from scratch, with and without the compensation factor."""
    ce = Config.preset(preset, "scratch")
    cosine = ce.changed(head="cosine")
    return _with_factor({
        "focal": ce.changed(loss="focal"), "class-balanced": ce.changed(loss="class-balanced"),
        "CDB-W-CE": ce.changed(loss="cdb"), "LADE": ce.changed(loss="lade"), "LDAM": cosine.changed(loss="ldam"),
        "LDAM-DRW": cosine.changed(loss="ldam-drw"), "DBM": cosine.changed(loss="dbm")}, _gamma(preset))


def _gamma(preset: str) -> float:
    return float(Config.preset(preset, "sage").flat["gamma"])


def _with_factor(rows: dict[str, Config], gamma: float) -> dict[str, Config]:
    return {name + tail: config.changed(gamma=gamma * bool(tail)) for name, config in rows.items() for tail in ("", " + CF")}


def table_9(preset: str) -> dict[str, Config]:
    """One fine-tuning module after the other in LIFT's place: text-initialised cosine classifier and the LA loss."""
    lift = Config.preset(preset, "lift")
    names = {"none": "classifier only", "bitfit": "BitFit", "vpt-shallow": "VPT-shallow", "vpt-deep": "VPT-deep",
             "adapter": "Adapter", "lora": "LoRA", "adaptformer": "AdaptFormer", "full": "full fine-tuning"}
    rows = {name: lift.changed(module=module) for module, name in names.items()}
    return rows | {"SG-Adapter": table_5(preset)["+SG"]}


def table_10(preset: str) -> dict[str, Config]:
    """SG-Adapter with and without W_proj; all with the 60 templates and the compensation factor, without FIT."""
    sg = Config.preset(preset, "sage").changed(fit=False)
    return {"Baseline": Config.preset(preset, "lift").changed(templates=60, gamma=_gamma(preset)), "+ SG-Adapter": sg,
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
