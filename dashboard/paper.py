"""The paper's tables, searchable, beside measured runs of the same setting; and what checking the paper found."""

from urllib.parse import quote

import pandas as pd
import shared
import streamlit as st

from sagekit import methods, paper
from sagekit.data.longtail import DEFINITIONS, GROUPS
from sagekit.methods import _about as about
from sagekit.runs import listing
from sagekit.runs.compare import VIEW_NAMES
from sagekit.runs.metrics import group_names

TITLES = {1: "1: CIFAR-100-LT", 2: "2: Places-LT", 3: "3: ImageNet-LT", 4: "4: iNaturalist 2018", 5: "5: parts, CIFAR-100-LT",
          6: "6: parts, large sets", 7: "7: other losses", 10: "10: W_proj, CIFAR-100-LT", 11: "11: W_proj, large sets"}
JUPYTER = "http://localhost:8888/lab/tree/"


def _measured(datasets: set[str], definition: str) -> pd.DataFrame:
    """Runs of the folder whose preset stands for one of these data sets, grouped by ``definition``."""
    lines = shared.lines()
    if not len(lines) or "preset" not in lines:
        return pd.DataFrame()
    parts = []
    for view in VIEW_NAMES:
        shown = listing.shown(lines, view, definition)
        parts.append(shown.assign(dataset=shown["preset"].map(paper.DATASET_OF), view=VIEW_NAMES[view]))
    frame = pd.concat(parts)
    return frame[frame["dataset"].isin(datasets)]


@st.cache_data(show_spinner=False)
def _methods() -> dict[str, str]:
    """The kit's method of each printed system: of its own name, or whose file cites the row."""
    rows = {published.source.rpartition("row ")[2]: name for name in methods.names()
            for published in methods.about(name).PUBLISHED.values()}
    systems = pd.concat([paper.table(number) for number in TITLES])["system"].unique()
    own = {system: system.lower().replace("-", "_") for system in systems}
    return {system: rows.get(system, own[system]) for system in systems if system in rows or own[system] in methods.names()}


st.title("Paper")
left, right = st.columns([2, 3])
number = left.selectbox("Table", list(TITLES), key="table", **shared.LINK, format_func=lambda table: TITLES[table])
words = right.text_input("Search", key="search", **shared.LINK, placeholder="a system, a backbone, a data set")
assert number is not None
frame = paper.table(number).drop(columns="table")
holds = frame.astype(str).apply(lambda column: column.str.contains(words, case=False, regex=False)).any(axis=1)
numbers = shared.accuracies()
shared.table(frame[holds], f"table-{number}", column_config={
    **numbers, "dataset": "data set", "system": st.column_config.TextColumn(width=150),
    "pretrained": st.column_config.CheckboxColumn("fine-tunes a foundation model")},
    column_order=["system", "dataset", "all", *GROUPS, "backbone", "parameters", "unit", "epochs", "pretrained"])
st.caption("As printed in the paper, top-1 in percent; empty where the paper has no number. Parameters: Sage's are in units of "
           "2^20, LIFT's of 10^6 (finding 6).")
odd = paper.odd(number)
if len(odd):
    names = odd["system"] + (", " + odd["dataset"] if number == 7 else "")
    rows = [f"{name} ({printed}; its groups give {mean:.2f})"
            for name, printed, mean in zip(names, odd["all"], odd["of_groups"], strict=True)]
    st.markdown("Rows whose mean their own groups do not give, beyond rounding (finding 14): " + "; ".join(rows) + ".")
doubts = [f"- {doubt.system}: {doubt.text}" for doubt in paper.DOUBTS if doubt.table == number]
if doubts:
    st.markdown("Against the sources:\n\n" + "\n".join(doubts))
known = {system: name for system, name in _methods().items() if system in set(frame["system"])}
if known:
    system = st.selectbox("Methods of this table that the kit has", list(known), index=None, key="method", **shared.LINK,
                          placeholder="choose one to read what it does")
    if system is not None:
        with st.container(border=True):
            st.markdown(f"**{system}**: `--method {known[system]}`")
            st.markdown(about.card(known[system]).replace("\n## ", "\n#### "))  # below this page's own headings

st.subheader("Measured here, of the same setting")
definition = "own" if number == 7 else "beta100"  # finding 9
measured = _measured(set(frame["dataset"]), definition)
if len(measured):
    shared.table(measured, "measured", column_config=numbers,
                 column_order=["run", "method", "dataset", "view", "seed", *group_names(), "parameters"])
    st.caption(f"As in the table: {DEFINITIONS[definition]}. LIFT's printed numbers are believed to be with "
               "five crops averaged (finding 10).")
else:
    st.info("No run in this folder has this table's data set. Runs on the mini world are another thing and are not put beside "
            "it; docs/results.md says what may be compared.")

st.subheader("What we found by checking the paper")
for place, finding in enumerate(paper.FINDINGS, 1):
    file = f"notebooks/{finding.notebook}.ipynb"
    st.markdown(f"{place}. {finding.text}  \n   [{file}]({JUPYTER}{quote(file)})")
st.caption("The links open the notebook in JupyterLab where it runs: `jupyter lab` in the folder of the repository.")
