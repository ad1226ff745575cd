"""Studies as rows of runs: the paper's Figures 7 and 8 and Tables 5, 7, 9 and 10, and the questions that it leaves.

    text       is it the text?      the SG-Adapter beside what has its size and shape, or another vector, in the text's place
    mismatch   is it the mismatch?  the compensation factor where rare classes do or do not differ between training and test
    fit        what is FIT worth?   its scalars learned, fixed, or without the loss that teaches them
    choices    what the paper does not say, and what else it might be
    table1     the field from scratch: every loss and every method that needs no CLIP
    on_clip    what of it means something on a CLIP too: decoupling and mixing with LIFT's adapters
    foundation every method that starts from a CLIP

A row is a configuration, or several of which the validation images choose one (``choose``). What the results say is in
``summary``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import Config
from ..errors import UserError, nearest
from ..methods import about

Row = Config | tuple[Config, ...]

FIG_7 = {"lambda_1": (0.0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4), "lambda_2": (0.0, 0.015, 0.03, 0.045),
         "lambda_3": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
FIG_8 = {"gamma": (0.0, 0.02, 0.04, 0.06, 0.09), "mu": (0.1, 0.4, 0.7, 1.0), "alpha": (0.0, 0.1, 0.3, 0.6, 0.9)}
"""The axes of the paper's figures: the printed ranges, in a few steps."""


@dataclass(frozen=True)
class Start:
    """What the rows of a study start from: a method by a preset, with ``changes`` for the methods that have such a setting."""

    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, method: str, **more: Any) -> Config:
        """The configuration of ``method``, with ``more`` of its settings."""
        known = Config.preset(self.preset, method, **more).flat
        return Config.preset(self.preset, method, **more, **{k: value for k, value in self.changes.items() if k in known})


def table_5(start: Start) -> dict[str, Row]:
    """The components one after the other: LIFT, +SG, +Init, +CF, +FIT."""
    sage = start("sage")
    cf = sage.changed(fit=False)
    init = cf.changed(gamma=0.0)
    return {"LIFT": start("lift"), "+SG": init.changed(templates=1), "+SG+Init": init, "+SG+Init+CF": cf,
            "+SG+Init+CF+FIT": sage}


MINI_KPS = 0.01
"""KPS's learning rate for the mini world's few epochs, searched without the factor (``benchmarks/search_scratch.py``)."""


def table_7(start: Start) -> dict[str, Row]:
    """Losses from scratch with and without the compensation factor, by the protocols of their methods and here.

    The paper does not say whether CE + CF has the class counts n_i of Eq 22 beside the factor, so both readings are rows, with
    LA (the counts alone) between them. gamma is the preset's.
    """
    ce, gamma = start("scratch"), _gamma(start)
    kps = ce.changed(loss="kps", head="cosine", batch_size=ce.settings.batch_size // 2, decay=0.1,
                     lr=MINI_KPS if start.preset == "mini" else ce.settings.lr)
    return {"CE": ce, "CE + CF, tau = gamma": ce.changed(gamma=gamma), "LA": ce.changed(loss="la"),
            "CE + CF, tau = 1 + gamma": ce.changed(loss="la", gamma=gamma),
            **_with_factor({"KPS": kps, "ProCo": start("proco")}, gamma)}


def more_losses(start: Start) -> dict[str, Row]:
    """The other losses of ``losses.compared`` from scratch, with and without the compensation factor."""
    return _with_factor(_losses(start), _gamma(start))


def _losses(start: Start) -> dict[str, Config]:
    ce = start("scratch")
    cosine = ce.changed(head="cosine")
    return {"focal": ce.changed(loss="focal"), "class-balanced": ce.changed(loss="class-balanced"),
            "CDB-W-CE": ce.changed(loss="cdb"), "LADE": ce.changed(loss="lade"), "LDAM": cosine.changed(loss="ldam"),
            "LDAM-DRW": cosine.changed(loss="ldam-drw"), "DBM": cosine.changed(loss="dbm"), "ALA": cosine.changed(loss="ala"),
            "GCL, stage 1": cosine.changed(loss="gcl"), "VS": ce.changed(loss="vs"), "DDC": ce.changed(loss="ddc"),
            "balanced BCE": ce.changed(loss="balanced-bce")}


def _gamma(start: Start) -> float:
    return float(Config.preset(start.preset, "sage").flat["gamma"])


def _with_factor(rows: dict[str, Config], gamma: float) -> dict[str, Row]:
    return {name + tail: config.changed(gamma=gamma * bool(tail)) for name, config in rows.items() for tail in ("", " + CF")}


MODULE_RATES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the preset's rate, which is LIFT's, among which validation chooses for each row of ``table_9`` and
``foundation``: full fine-tuning wants a tenth of an adapter's (LIFT), prompts more."""


def table_9(start: Start) -> dict[str, Row]:
    """One fine-tuning module after the other in LIFT's place, text-initialised cosine classifier and the LA loss, each at a
    rate chosen on validation images."""
    lift = start("lift")
    names = {"none": "classifier only", "bitfit": "BitFit", "vpt-shallow": "VPT-shallow", "vpt-deep": "VPT-deep",
             "adapter": "Adapter", "lora": "LoRA", "adaptformer": "AdaptFormer", "full": "full fine-tuning",
             "layernorm": "LayerNorm", "lora-mlp": "LoRA on the MLP", "ssf": "SSF", "mask": "mask"}
    rows: dict[str, Row] = {name: lift.changed(module=module) for module, name in names.items()}
    rows["SG-Adapter"] = table_5(start)["+SG"]
    return {name: _rates(config, MODULE_RATES) for name, config in rows.items() if isinstance(config, Config)}


def table_10(start: Start) -> dict[str, Row]:
    """SG-Adapter with and without W_proj; all with the 60 templates and the compensation factor, without FIT."""
    sg = start("sage").changed(fit=False)
    return {"Baseline": start("lift").changed(templates=60, gamma=_gamma(start)), "+ SG-Adapter": sg,
            "+ SG-Adapter (w/o W_proj)": sg.changed(gate="text")}


def figure_7(start: Start) -> dict[str, Row]:
    """FIT's loss weights: one at a time around the preset, and lambda_2 with lambda_3, as section 4.4.2 reads."""
    both = {f"lambda_2={a:g}, lambda_3={b:g}": {"lambda_2": a, "lambda_3": b}
            for a in FIG_7["lambda_2"] for b in FIG_7["lambda_3"]}
    base = start("sage")
    return axes(base, FIG_7) | {name: base.changed(**changes) for name, changes in both.items()}


def axes(base: Config, values: Mapping[str, tuple[float, ...]]) -> dict[str, Row]:
    """One setting moved at a time around ``base``, which is the first row."""
    return {"preset": base, **{f"{key}={v:g}": base.changed(**{key: v}) for key, row in values.items() for v in row}}


FIELD = {"bbn": "BBN", "cmo": "CMO", "crt": "cRT", "disalign": "DisAlign", "dive": "DiVE", "fur": "FUR, our reading",
         "gcl": "GCL", "h2t": "H2T", "lws": "LWS", "mislas": "MiSLAS", "mixup": "mixup", "ncm": "NCM", "oltr": "OLTR",
         "otmix": "OTmix", "proco": "ProCo", "remix": "Remix", "tau_norm": "tau-norm"}
"""Methods from scratch, and their rows of ``table_1``."""
FIELD_RATES = (0.25, 0.5, 1.0, 2.0)
"""Multiples of the preset's rate among which validation chooses for each row of ``table_1`` and ``on_clip``: of the last
stage's rate where a method trains its classifier by itself, since stage 1 is then the same for all."""


def table_1(start: Start) -> dict[str, Row]:
    """Every loss and every method that needs no CLIP, each at a rate chosen on validation images."""
    ce = start("scratch")
    rows = {"CE": ce, "LA": ce.changed(loss="la"), **_losses(start),
            "KPS": ce.changed(loss="kps", head="cosine", batch_size=ce.settings.batch_size // 2, decay=0.1)}
    rows |= {row: start(method) for method, row in FIELD.items()}
    return {name: _rates(config, FIELD_RATES, _last_rate(config)) for name, config in rows.items()}


def on_clip(start: Start) -> dict[str, Row]:
    """Decoupling and mixing with LIFT's adapters, beside LIFT and the same with plain cross entropy."""
    lift = start("lift")
    rows = {row: start(method, base="lift") for method, row in FIELD.items() if hasattr(about(method), "ON_LIFT")}
    return {"LIFT": lift, "LIFT with CE": lift.changed(loss="ce"),
            **{name: _rates(config, FIELD_RATES, _last_rate(config)) for name, config in rows.items()}}


FOUNDATION = {"zero_shot": "zero-shot", "linear_probe": "linear probe", "tip_adapter": "Tip-Adapter",
              "clip_adapter": "CLIP-Adapter", "coop": "CoOp", "maple": "MaPLe", "ballad": "BALLAD", "decoder": "Decoder",
              "lpt": "LPT", "gnm_pt": "GNM-PT", "classifier": "classifier only", "lift": "LIFT", "lift_plus": "LIFT+",
              "sage": "Sage"}
"""Methods that start from a CLIP, and their rows of ``foundation``."""


def foundation(start: Start) -> dict[str, Row]:
    """Every method that starts from a CLIP, each at a rate chosen on validation images, and LIFT with LiVT's loss."""
    rows = {row: start(method) for method, row in FOUNDATION.items()}
    rows["LIFT, balanced BCE"] = start("lift", loss="balanced-bce")
    return {name: _rates(config, MODULE_RATES) for name, config in rows.items()}


def _rates(config: Config, multiples: tuple[float, ...], key: str = "lr") -> tuple[Config, ...]:
    """``config`` at ``multiples`` of its rate ``key``; alone where it has none."""
    if key not in config.flat:
        return (config,)
    return tuple(config.changed(**{key: config.flat[key] * m}) for m in multiples)


def _last_rate(config: Config) -> str:
    """The setting that is the rate of what a method from scratch trains last; "" where that is nothing: stage 1 is then the
    same for all."""
    if not config.stages[-1].epochs:
        return ""
    return "classifier_lr" if "classifier_lr" in config.flat else "lr"


# --- questions ----------------------------------------------------------------------------------------------------------

RATES = (0.5, 1.0, 2.0, 4.0)
"""Multiples of the preset's rate among which validation chooses for each row of ``is_it_the_text``."""


def is_it_the_text(start: Start) -> dict[str, Row]:
    """LIFT's settings, only the module changed: what the SG-Adapter is without its text.

    Controls of size and shape: AdaptFormer of the same inner width 2r; that with the SG-Adapter's leaky activation; the
    folded form (finding 4) trained from the start. Controls of the vector in w_bar's place: random, the text's own entries in
    another order, a constant (LayerNorm takes it to its bias, zero at the start: no word of the classes), and the frozen text.
    """
    lift, sg = start("lift"), start("sage").changed(templates=1, gamma=0.0, fit=False)
    wide = lift.changed(widen=2)
    modules = {
        "LIFT": lift, "AdaptFormer 2r": wide, "leaky 2r": wide.changed(slope=1 - sg.settings.alpha),
        "folded, trained": sg.changed(gate="folded"), "gate vector": sg.changed(gate="vector"), "SG-Adapter": sg,
        "w/o W_proj": sg.changed(gate="text"), "random vector": sg.changed(guidance="random"),
        "shuffled text": sg.changed(guidance="shuffled"), "constant": sg.changed(guidance="constant"),
        "frozen text": sg.changed(guidance="frozen"),
    }
    return {name: tuple(c.changed(lr=c.settings.lr * m) for m in RATES) for name, c in modules.items()}


RATIOS = (100.0, 10.0)
TAUS = (0.5, 0.75, 0.9, 1.0, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0)
"""Of ``is_it_the_mismatch``: its worlds, and the tau among which validation chooses."""


def is_it_the_mismatch(start: Start) -> dict[str, Row]:
    """LIFT's loss with the compensation factor, its gamma from the preset or tuned, and logit adjustment with a tuned tau,
    where rare classes differ between training and test and where they do not, at imbalance 100 and 10. The factor is LA with
    tau = 1 + gamma (finding 2), so tuning gamma is choosing a tau above 1."""
    rows: dict[str, Row] = {}
    for ratio in RATIOS:
        for mismatch in (True, False):
            la = start("lift").changed(mismatch=mismatch, imbalance_ratio=ratio)
            where = f"{ratio:g}, mismatch {'on' if mismatch else 'off'}: "
            rows |= {where + "LA": la, where + "CF": la.changed(gamma=_gamma(start)),
                     where + "CF, gamma tuned": tuple(la.changed(tau=tau) for tau in TAUS if tau > 1),
                     where + "LA, tau tuned": tuple(la.changed(tau=tau) for tau in TAUS)}
    return rows


def what_fit_is_worth(start: Start) -> dict[str, Row]:
    """Sage without FIT, with it, and with its scalars fixed or not taught by the loss of the sum; ``fit`` adds what changes
    after training."""
    sage = start("sage")
    return {"without FIT": sage.changed(fit=False), "learned scalars": sage, "fixed scalars": sage.changed(fit_learned=False),
            "lambda_3 = 0": sage.changed(lambda_3=0.0), "lambda_3 = 0, fixed": sage.changed(lambda_3=0.0, fit_learned=False)}


def open_choices(start: Start) -> dict[str, Row]:
    """Sage with one of the choices that the paper leaves open made otherwise (docs/choices.md)."""
    sage = start("sage")
    changes: dict[str, dict[str, Any]] = {
        "W_proj zero": {"gate_init": "zero"}, "W_proj Kaiming": {"gate_init": "kaiming"},
        "w_bar detached": {"guidance_grad": False}, "gate vector": {"gate": "vector"},
        "s = 0": {"fit_init": 0.0}, "s = 1": {"fit_init": 1.0}}
    return {"preset": sage, **{name: sage.changed(**change) for name, change in changes.items()}}


STUDIES: dict[str, Callable[[Start], dict[str, Row]]] = {
    "table5": table_5,
    "table7": table_7,
    "table9": table_9,
    "table10": table_10,
    "losses": more_losses,
    "fig7": figure_7,
    "fig8": lambda start: axes(start("sage").changed(fit=False), FIG_8),
    "text": is_it_the_text,
    "mismatch": is_it_the_mismatch,
    "fit": what_fit_is_worth,
    "choices": open_choices,
    "table1": table_1,
    "on_clip": on_clip,
    "foundation": foundation,
}


def rows_of(study: str, preset: str, changes: Mapping[str, Any] | None = None) -> dict[str, Row]:
    """The rows of one of ``STUDIES`` for a preset, with ``changes`` of settings that some row's method has.

    Raises ``UserError`` for an unknown study or setting, and for a setting that some row has a value of its own for.
    """
    if study not in STUDIES:
        raise UserError(f"there is no study '{study}'.{nearest(study, STUDIES)} Studies: {', '.join(STUDIES)}.")
    start = Start(preset, changes or {})
    rows = STUDIES[study](start)
    configs = [(name, config) for name, row in rows.items() for config in candidates(row)]
    for key, value in start.changes.items():
        having = [(name, config) for name, config in configs if key in config.flat]
        if not having:
            Config.preset(preset, configs[0][1].method, **{key: value})  # says what is wrong with the key
        for name, config in having:
            if config.flat[key] != start(config.method).flat[key]:
                raise UserError(f"study {study} sets {key} itself (row '{name}': {key}={config.flat[key]}), so --set {key} "
                                "would reach only some of its rows; leave it out, or use a sweep with an own file.")
    return rows


def candidates(row: Row) -> tuple[Config, ...]:
    """The configurations of a row: one, or those that validation chooses among."""
    return (row,) if isinstance(row, Config) else row


def bases_of(study: str, rows: Mapping[str, Row]) -> dict[str, str]:
    """The row that each row's difference is taken to: one that it adds something to, ``BASE`` of the study, or the first. Rows
    that are their base under another name have none, nor have those of Figure 7's grid: its picture is read, not tested."""
    usual = BASE.get(study, next(iter(rows)))
    if study == "mismatch":
        bases = {name: name.partition(": ")[0] + ": LA" for name in rows}
    else:
        bases = {name: BASES.get(study, {}).get(name, usual) for name in rows}
    return {name: base for name, base in bases.items() if rows[name] != rows[base] and not (study == "fig7" and ", " in name)}


BASE = {"text": "SG-Adapter", "foundation": "LIFT", "table9": "AdaptFormer"}
"""The row that all others of a study are compared with, where it is not the first."""
BASES = {
    "table5": {"+SG+Init": "+SG", "+SG+Init+CF": "+SG+Init", "+SG+Init+CF+FIT": "+SG+Init+CF"},
    "table7": {"CE + CF, tau = 1 + gamma": "LA", "KPS": "KPS", "KPS + CF": "KPS", "ProCo": "ProCo", "ProCo + CF": "ProCo"},
}
"""Rows that are compared with another one than the rest of their study; with themselves: with none."""
