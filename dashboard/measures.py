"""All measures of the chosen runs; whether they are as sure as they are right; and what other test sets would say."""

import pandas as pd
import shared
import streamlit as st

from sagekit import plots
from sagekit.analyses import calibration
from sagekit.runs import compare, listing
from sagekit.runs.compare import MEASURES
from sagekit.runs.metrics import group_names
from sagekit.runs.run import Run


@st.cache_data(max_entries=64, show_spinner=False)
def _priors(path: str, stamp: object, view: str) -> pd.DataFrame:
    run = Run(path)
    return calibration.prior_curve(shared.predictions(run, view), run.metrics["class_counts"])


@st.cache_data(max_entries=64, show_spinner=False)
def _temperature(path: str, stamp: object, view: str) -> float | None:
    held_out = shared.validation(Run(path), view)
    return None if held_out is None else calibration.temperature(held_out)


def _all_measures(runs: list[Run], view: str, definition: str) -> None:
    found = compare.measures(runs, view, definition)
    names = {**{g: g for g in group_names(bool(found["balanced"].all()))}, **MEASURES}
    columns = {key: shared.percent(name.removesuffix(" mean")) for key, name in names.items()}  # short: they fit side by side
    columns["negative_log_likelihood"] = st.column_config.NumberColumn("NLL", format="%.3f")
    shared.table(found, "measures", column_order=["run", *names], column_config=columns)
    st.caption("In percent, NLL in nats. Top-5: mean over classes; macro-F1, worst class, harmonic and geometric mean: of the "
               "classes. ECE: expected calibration error, 15 bins; NLL: negative log likelihood; both over images, and the "
               "smaller the better.")


def _calibration(run: Run, view: str) -> None:
    stored, found = shared.predictions(run, view), _temperature(str(run.path), listing.stamp(run.path), view)
    series = {"as trained": calibration.reliability(stored.confidence, stored.correct)}
    if found is not None:
        confidence, _ = calibration.scaled(stored, found)
        series[f"T = {found:.2f}"] = calibration.reliability(confidence, stored.correct)
    numbers = pd.concat([frame.assign(series=name) for name, frame in series.items()])
    shared.figure(plots.reliability(series, f"{run.name}: right as often as it says?"), "reliability", numbers)
    if found is None:
        st.caption("No temperature is fitted: this run was not measured on validation images.")
    else:
        both = calibration.calibrated(stored, found)
        ece, nll = 100 * both["calibration_error"], both["negative_log_likelihood"]
        st.caption(f"T = {found:.2f} was fitted on the validation images. On test: ECE {ece['before']:.1f} before and "
                   f"{ece['after']:.1f} % after, NLL {nll['before']:.3f} and {nll['after']:.3f}. No prediction changes.")
    if stored.classes is not None and found is not None:
        st.caption(f"Approximate: only {stored.z.shape[1]} classes of each image are stored.")


st.title("Measures")
names = shared.finished()
chosen = st.multiselect("Runs", names, default=shared.demo_first(names, "lift", "sage")[:2], key="runs", **shared.LINK)
if not chosen:
    st.info("Choose a run.")
    st.stop()
runs = [shared.run(name) for name in chosen]
compare.check_comparable(runs)
view, definition = shared.view_and_groups(*shared.in_all(runs))
st.caption(shared.said(runs[0], view, definition))
_all_measures(runs, view, definition)
left, right = st.columns(2)
with left:
    st.subheader("Calibration")
    looked_at = chosen[0] if len(chosen) == 1 else st.selectbox("Of", chosen, key="of", **shared.LINK)
    _calibration(shared.run(looked_at), view)
with right:
    st.subheader("Other test sets")
    curves = {run.name: _priors(str(run.path), listing.stamp(run.path), view) for run in runs}
    shared.figure(plots.prior_curve(curves, "The same predictions under other test priors"), "priors",
                  pd.concat([frame.assign(run=name) for name, frame in curves.items()]))
    st.caption("forward r: the test set is long-tailed as the training set, its most frequent class r times its rarest; "
               "backward r: the other way round; uniform: the mean over classes. The classifier is told of none of them.")
