"""What all pages share: the runs folder, cached readings of it, and one way to show a figure and a table.

A link's parameters only choose among what was found in the runs folder: no path comes from them. Readings are cached by the
time and size of a run's files, and bounded.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

import sagekit as sk
from sagekit import plots
from sagekit.data import world
from sagekit.data.longtail import DEFINITIONS
from sagekit.runs import compare, listing
from sagekit.runs.compare import VIEW_NAMES
from sagekit.runs.listing import Stamp
from sagekit.runs.metrics import about_mean, group_names
from sagekit.runs.predictions import Predictions
from sagekit.runs.run import Run
from sagekit.settings import DataSettings

# --- the runs folder -------------------------------------------------------------------------------------------------


def base() -> Path:
    """``--runs`` after ``--``, or SAGEKIT_RUNS, or runs."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", default=os.environ.get("SAGEKIT_RUNS", "runs"))
    return Path(parser.parse_known_args(sys.argv[1:])[0].runs)


def sidebar() -> None:
    """The folder, and what it holds."""
    with st.sidebar:
        st.selectbox("Runs folder", list(_folders()), key="folder", **LINK,
                     help="The folder that --runs or SAGEKIT_RUNS names, or one in it: sweeps keep their runs in points.")
        status = lines()["status"].value_counts().to_dict() if len(lines()) else {}
        st.caption(", ".join(f"{status[s]} {s}" for s in ("finished", "unfinished", "broken") if s in status) or "No runs yet.")


def _folders() -> dict[str, Path]:
    """What can be chosen, by the name that stands in links: the base's own first."""
    top = base().resolve().name
    below = {f"{top}/{path.name}": path for path in listing.folders(base()) if path != base()}
    return {top: base()} | below


def folder() -> Path:
    """The chosen folder of runs."""
    return _folders().get(st.session_state.get("folder", ""), base())


@st.cache_data(max_entries=2000, show_spinner=False)
def _line(path: str, stamp: Stamp) -> dict[str, object]:
    return listing.row(Path(path))


def lines() -> pd.DataFrame:
    """One row for every run of the folder, the broken ones too (``listing.row``)."""
    return pd.DataFrame([_line(str(path), listing.stamp(path)) for path in listing.run_paths(folder())])


def finished() -> list[str]:
    """Names of the folder's finished runs; the page stops with a hint when there are none."""
    found = lines()
    names = list(found["run"][found["status"] == "finished"]) if len(found) else []
    if not names:
        st.info("There are no finished runs in this folder. The Overview trains the demo's three in one to two minutes.")
        st.page_link("overview.py", label="To the overview", icon=":material/arrow_forward:")
        st.stop()
    return names


def demo_first(names: Sequence[str], *wanted: str) -> list[str]:
    """Of ``names`` the first that holds each of the words, else the first ones: what a page shows before anything is chosen."""
    found = [next((name for name in names if word in name), None) for word in wanted]
    rest = [name for name in names if name not in found]
    return [name or rest.pop(0) for name in found if name or rest]


# --- cached readings -------------------------------------------------------------------------------------------------


@st.cache_resource(max_entries=64, show_spinner=False)
def _run(path: str, stamp: Stamp) -> Run:
    return Run(path)


def run(name: str) -> Run:
    """A run of the folder, by name."""
    path = folder() / name
    return _run(str(path), listing.stamp(path))


@st.cache_resource(max_entries=6, show_spinner=False)
def _predictions(path: str, stamp: Stamp, view: str, split: str) -> Predictions:
    return Run(path).predictions(view, split)


def predictions(opened: Run, view: str) -> Predictions:
    """Stored logits; not to be changed."""
    return _predictions(str(opened.path), listing.stamp(opened.path), view, "test")


def validation(opened: Run, view: str) -> Predictions | None:
    """The same of the run's validation images, where it was measured on some."""
    if "val" not in opened.records or view not in opened.record("val")["results"]:
        return None
    return _predictions(str(opened.path), listing.stamp(opened.path), view, "val")


@st.cache_resource(max_entries=2, show_spinner="Loading the images ...")
def _data(key: str, _settings: DataSettings) -> sk.DataSet:
    return sk.load_data(_settings)


def data(opened: Run) -> sk.DataSet:
    """The data set of a run."""
    return _data(opened.config.data.model_dump_json(), opened.config.data)


@st.cache_resource(max_entries=4, show_spinner="Loading the model ...")
def _model(path: str, stamp: Stamp) -> sk.Method:
    opened = Run(path)
    return sk.load_model(opened, opened.metrics["prompt_names"]).eval()


def model(opened: Run) -> sk.Method:
    """The trained network of a run, on the CPU."""
    return _model(str(opened.path), listing.stamp(opened.path))


# --- choosing --------------------------------------------------------------------------------------------------------


LINK: dict[str, Any] = {"bind": "query-params"}
"""Of every control: its value is part of the page's address, so that any view is a link."""


def choice(place: Any, label: str, options: Sequence[str], key: str, **settings: Any) -> str:
    """One of a few ``options``, side by side; the first at the start."""
    return place.segmented_control(label, list(options), default=options[0], key=key, required=True, **LINK, **settings)


def in_all(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """The views that all of ``runs`` were measured in, and the definitions of groups that all have."""
    return ([v for v in VIEW_NAMES if all(v in run.metrics["results"] for run in runs)],
            [d for d in DEFINITIONS if all(d in run.metrics["groups"] for run in runs)])


def view_and_groups(views: Sequence[str], definitions: Sequence[str]) -> tuple[str, str]:
    """How the test images were shown, and which of the ``definitions`` of head / medium / tail."""
    left, right = st.columns(2)
    view = choice(left, "Test view", list(views), "view", format_func=VIEW_NAMES.get)
    about = "; ".join(f"{name}: {text}" for name, text in DEFINITIONS.items() if name in definitions)
    definition = choice(right, "Groups by", list(definitions), "groups", help=about,
                        format_func={"own": "own counts", "beta100": "counts at ratio 100", "thirds": "thirds"}.get)
    return view, definition


def said(opened: Run, view: str, definition: str) -> str:
    """What a run's numbers are of."""
    note = f" {world.NOTE}" if opened.metrics["mini_world"] else ""
    return (f"{compare.said(opened, view, definition)}. Top-1; {about_mean(balanced(opened))}; a group: over its "
            f"classes.{note}")


def balanced(opened: Run) -> bool:
    """Whether every class has as many test images."""
    return bool(opened.metrics["results"]["single"]["balanced"])


# --- showing ---------------------------------------------------------------------------------------------------------


@contextmanager
def errors_shown() -> Iterator[None]:
    """A mistake of the user's, or of a file, is one line on the page; fragments need their own, they run alone."""
    try:
        yield
    except sk.UserError as error:
        st.error(str(error), icon=":material/error:")


def figure(drawn: go.Figure, name: str, numbers: pd.DataFrame | None = None, stretch: bool = True) -> None:
    """A figure in the page's theme, and its downloads: numbers as CSV, and an SVG where this machine has a browser.

    The camera above a figure saves a PNG in the reader's own browser.
    """
    shown = plots.darkened(drawn) if st.context.theme.type == "dark" else drawn
    st.plotly_chart(shown, theme=None, width="stretch" if stretch else "content", key=f"figure-{name}", config={
        "displaylogo": False, "toImageButtonOptions": {"format": "png", "scale": 2, "filename": name}})
    with st.container(horizontal=True):
        if numbers is not None:
            csv(numbers, name)
        if find_spec("kaleido") and plots.browser():
            st.download_button("SVG", lambda: drawn.to_image("svg"), f"{name}.svg", "image/svg+xml", key=f"svg-{name}",
                               type="tertiary", icon=":material/download:", on_click="ignore")


def table(frame: pd.DataFrame, name: str, **settings: Any) -> Any:
    """A table with its CSV, which has all columns also where ``column_order`` shows fewer."""
    answer = st.dataframe(frame, hide_index=True, key=f"table-{name}", placeholder="", **settings)
    csv(frame, name)
    return answer


def csv(frame: pd.DataFrame, name: str) -> None:
    """A download of the numbers."""
    st.download_button("CSV", frame.to_csv(index=False), f"{name}.csv", "text/csv", key=f"csv-{name}", type="tertiary",
                       icon=":material/download:", on_click="ignore")


def percent(label: str) -> Any:
    """A column of percentages."""
    return st.column_config.NumberColumn(label, format="%.1f")


def accuracies() -> dict[str, Any]:
    """Columns mean / all / head / medium / tail in percent, and their half intervals."""
    halves = {f"{group}_half": percent("±") for group in group_names()}
    return {group: percent(f"{group} %") for group in group_names()} | halves


def with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns ``mean_interval`` ... with "low-high" beside each accuracy, for reading."""
    result = frame.copy()
    for group in group_names():
        low, high = (frame[group + end].to_numpy(float) for end in ("_low", "_high"))
        result[f"{group}_interval"] = ["" if np.isnan(a) else f"{a:.1f}-{b:.1f}" for a, b in zip(low, high, strict=True)]
    return result
