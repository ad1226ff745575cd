"""All runs: a table, head against tail, and what is broken. Without runs: the demo's three, at a click."""

import subprocess
import sys
import tempfile
from typing import IO

import pandas as pd
import shared
import streamlit as st

from sagekit import plots
from sagekit.data.longtail import DEFINITIONS
from sagekit.runs import listing
from sagekit.runs.compare import VIEW_NAMES
from sagekit.runs.metrics import group_names
from sagekit.studies import demo


def _columns(balanced: bool) -> list[str]:
    return ["run", "method", "seed", "data", *(c for g in group_names(balanced) for c in (g, f"{g}_interval")), "parameters",
            "seconds"]


@st.cache_resource
def _started() -> dict[str, tuple[subprocess.Popen[bytes], IO[str]]]:
    """The demo that trains into each folder, for all who look."""
    return {}


def _start_demo() -> None:
    log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (it lives as long as the process)
    command = [sys.executable, "-m", "sagekit", "demo", "--headless", "--runs", str(shared.base())]
    _started()[str(shared.base())] = subprocess.Popen(command, stdout=log, stderr=log), log


@st.fragment(run_every="1s")
@shared.errors_shown()
def _demo_progress() -> None:
    process, log = _started()[str(shared.base())]
    done = demo.progress(shared.base())
    st.progress(done, "Training zero-shot, LIFT and Sage on the mini world, one to two minutes on two cores")
    if process.poll() is None:
        return
    if process.returncode:
        log.seek(0)
        said = log.read().strip().splitlines() or ["it was stopped"]
        st.error(f"The demo did not finish: {said[-1]}")
        st.button("Go on with the demo runs", type="primary", on_click=_start_demo)
        return
    del _started()[str(shared.base())]
    st.rerun()


def _runs(lines: pd.DataFrame) -> None:
    views = [view for view in VIEW_NAMES if f"{view}/own/mean" in lines]
    if not views:
        return
    done = lines[lines["status"] == "finished"]
    definitions = [d for d in DEFINITIONS if f"single/{d}/mean" in lines and done[f"single/{d}/mean"].notna().all()]
    view, definition = shared.view_and_groups(views, definitions)
    shown = shared.with_intervals(listing.shown(lines, view, definition))
    left, middle, right = st.columns([2, 2, 3])
    methods = left.multiselect("Method", sorted(shown["method"].unique()), key="methods", **shared.LINK)
    data = middle.multiselect("Data set", sorted(shown["data"].unique()), key="data", **shared.LINK)
    words = right.text_input("Name holds", key="words", **shared.LINK)
    shown = shown[(shown["method"].isin(methods) | (not methods)) & (shown["data"].isin(data) | (not data))
                  & shown["run"].str.contains(words, case=False, regex=False)].reset_index(drop=True)
    if shown.empty:
        st.info("No run passes these filters.")
        return
    columns = shared.accuracies() | {f"{g}_interval": st.column_config.TextColumn("95 %", width=80) for g in group_names()}
    columns |= {"parameters": st.column_config.NumberColumn("trained parameters", format="localized"),
                "seconds": st.column_config.NumberColumn("training s", format="%.0f"), "data": "data set"}
    known = [c for c in _columns(bool(shown["balanced"].all())) if c != "data" or shown["data"].nunique() > 1]
    chosen = shared.table(shown[known], "runs", column_config=columns, on_select="rerun", selection_mode="multi-row")
    picked = [shown["run"][i] for i in chosen["selection"]["rows"] if i < len(shown)]
    if len(picked) > 1:
        st.page_link("compare.py", label=f"Compare {', '.join(picked)}", icon=":material/arrow_forward:",
                     query_params={"runs": picked, "folder": st.session_state["folder"]})
    else:
        st.caption("Mark two rows or more to compare them.")
    st.caption(shared.said(shared.run(shown["run"][0]), view, definition)
               + " In percent; 95 %: Wilson interval over test images.")
    if shown["data"].nunique() > 1:
        st.caption("Runs on several data sets are listed; the note above is of the first one's.")
    drawn = plots.head_tail(shown, "Head against tail, a point a run")
    shared.figure(drawn, "head-tail", shown[["run", "method", "head", "tail"]])


st.title("Overview")
lines = shared.lines()
if str(shared.base()) in _started():
    _demo_progress()
elif not len(lines):
    st.write(f"There are no runs in `{shared.folder()}` yet. The demo trains three on the embedded mini world: zero-shot, LIFT "
             "and Sage.")
    st.button("Train the demo runs", type="primary", on_click=_start_demo)
if len(lines):
    _runs(lines)
    broken = lines[lines["status"] == "broken"]
    if len(broken):
        st.subheader(f"Broken: {len(broken)}")
        shared.table(broken[["run", "problem"]], "broken")
    open_ = lines[lines["status"] == "unfinished"]
    if len(open_):
        st.subheader(f"Unfinished: {len(open_)}")
        shared.table(open_[["run", "method", "seed", "done", "epochs", "problem"]], "unfinished",
                     column_config={"done": "epochs done", "epochs": "of", "problem": "failed with"})
