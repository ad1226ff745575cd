"""Two runs or more, or two methods over their seeds: is the difference real, and where does it come from?"""

from textwrap import wrap

import pandas as pd
import shared
import streamlit as st

from sagekit import plots
from sagekit.data.longtail import GROUPS
from sagekit.runs import compare, listing
from sagekit.runs.metrics import group_names
from sagekit.runs.run import Run
from sagekit.studies.summary import PAIRED, corrected, summary

P_VALUES = {"p": st.column_config.NumberColumn("p", format="%.3f"), "test": "p by",
            "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.3f")}


@st.cache_data(max_entries=256, show_spinner=False)
def _differences(paths: tuple[str, str], stamps: object, view: str, definition: str) -> pd.DataFrame:
    return compare.differences(Run(paths[0]), Run(paths[1]), view, definition)


def _wide(names: list[str], view: str, definition: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every other run against the first: for reading (a line a group), and for drawing (a line a run)."""
    base, long, wide = shared.run(names[0]), [], []
    for name in names[1:]:
        other = shared.run(name)
        stamps = (listing.stamp(base.path), listing.stamp(other.path))
        frame = _differences((str(base.path), str(other.path)), stamps, view, definition)
        long.append(frame.assign(run=name))
        wide.append({"row": name} | {f"{r['group']}_{end}": r[end] for r in frame.to_dict("records")
                                     for end in ("difference", "low", "high")})
    groups = group_names(shared.balanced(base))
    shown = pd.concat(long)
    return shown[shown["group"].isin(groups)], pd.DataFrame(wide).reindex(columns=["row", *(
        f"{g}_{e}" for g in groups for e in ("difference", "low", "high"))])


def _runs(names: list[str]) -> None:
    chosen = st.multiselect("Runs, the first is what the others are compared with", names,
                            default=shared.demo_first(names, "lift", "sage"), key="runs", **shared.LINK)
    if len(chosen) < 2:
        st.info("Choose two runs or more.")
        return
    runs = [shared.run(name) for name in chosen]
    compare.check_comparable(runs)
    view, definition = shared.view_and_groups(*shared.in_all(runs))
    shown = compare.table(runs, view, definition)
    groups = group_names(shared.balanced(runs[0]))
    st.caption(shared.said(runs[0], view, definition))
    left, right = st.columns(2)
    with left:
        shared.figure(plots.group_bars(shown, "Top-1, with 95 % Wilson intervals over test images", "run"), "groups", shown)
    long, wide = _wide(chosen, view, definition)
    with right:
        shared.figure(plots.differences(wide, f"Against {chosen[0]}, the same test images", groups_shown=groups),
                      "differences", long)
    shared.table(long[["run", "group", "difference", "low", "high", "p", "p_holm", "test", "images"]], "tests", column_config={
        "difference": st.column_config.NumberColumn("difference (points)", format="%+.1f"),
        "low": shared.percent("95 % from"), "high": shared.percent("to"), "images": "test images", **P_VALUES})
    st.caption("95 %: paired bootstrap over test images. p: exact McNemar where images weigh the same, random signs where "
               "they do not. Holm: corrected for the groups of one run, not for several runs. One run a method says nothing of "
               "other seeds.")
    others = chosen[1:]
    other = others[0] if len(others) == 1 else st.selectbox("Look closer at", others, key="other", **shared.LINK)
    _closer(chosen[0], other, view, definition)


def _closer(base: str, other: str, view: str, definition: str) -> None:
    st.subheader(f"{other} minus {base}, class by class")
    classes = compare.per_class(shared.run(base), shared.run(other), view, definition)
    shared.figure(plots.class_differences(classes, "Difference by class"), "classes", classes)
    by_change = classes.sort_values("difference", kind="stable")
    left, right = st.columns(2)
    for place, title, part in ((left, "Lost most", by_change.head(6)), (right, "Gained most", by_change.tail(6)[::-1])):
        with place:
            st.markdown(f"**{title}**: look at these first")
            shared.table(part, title.lower(), column_order=["name", "group", "images", "difference", "p", "p_holm"],
                         column_config={"images": "training images", **P_VALUES,
                                        "difference": st.column_config.NumberColumn("points", format="%+.1f")})
            st.page_link("images.py", label=f"Images of {part['name'].iloc[0]}", icon=":material/image:", query_params={
                "folder": st.session_state["folder"], "first": base, "second": other, "class": part["name"].iloc[0]})
    st.caption(f"p: exact McNemar. Holm: corrected for all {len(classes)} classes.")
    confused = compare.confusions(shared.run(base), shared.run(other), view)
    for place, title, part in ((left, "Confusions that grew", confused[confused["change"] > 0]),
                               (right, "Confusions that shrank", confused[confused["change"] < 0])):
        with place:
            st.markdown(f"**{title}** ({len(part)} pairs of classes; test images)")
            shared.table(part.head(8), title.lower(), column_config={
                "taken_for": "taken for", "base": "first", "other": "second",
                "change": st.column_config.NumberColumn("change", format="%+d")})


def _seeds(runs: list[Run]) -> set[int]:
    return {run.config.seed for run in runs}


def _methods(lines: pd.DataFrame) -> None:
    settings = compare.by_setting([shared.run(name) for name in lines["run"][lines["status"] == "finished"]])
    seeds = {name: len(_seeds(runs)) for name, runs in settings.items()}
    by_name = {f"{name} ({n} seed{'s' if n > 1 else ''})": settings[name] for name, n in seeds.items()}
    names = list(by_name)
    if len(names) < 2:
        st.info("There is one setting only in this folder.")
        return
    left, right = st.columns(2)
    start = shared.demo_first(names, " lift (", " sage (")
    first = left.selectbox("First", names, names.index(start[0]), key="first_method", **shared.LINK)
    second = right.selectbox("Second", names, names.index(start[1]), key="second_method", **shared.LINK)
    if first == second:
        st.info("Choose two different settings.")
        return
    runs = by_name[first] + by_name[second]
    compare.check_comparable(runs)
    view, definition = shared.view_and_groups(*shared.in_all(runs))
    shown = listing.shown(lines, view, definition).assign(row=None)
    for name in (first, second):
        shown.loc[shown["run"].isin([run.name for run in by_name[name]]), "row"] = name
    shown = shown.dropna(subset="row").sort_values("row", key=lambda rows: rows != first, kind="stable")
    groups = group_names(shared.balanced(runs[0]))
    means = corrected(summary(shown, {second: first}, definition, view), groups)
    pairs = len(_seeds(by_name[first]) & _seeds(by_name[second]))
    again = len(runs) - len(_seeds(by_name[first])) - len(_seeds(by_name[second]))
    st.caption(f"{shared.said(runs[0], view, definition)} {pairs} seed(s) in both."
               + (f" {again} run(s) repeat a seed and are left out: of each the first by name counts." if again else ""))
    drawn = means.drop(columns=[f"{g}_{end}" for g in group_names() for end in ("low", "high")]).assign(
        row=["<br>".join(wrap(name, 44)) for name in means["row"]],
        **{f"{g}_half": means[f"{g}_half"].fillna(0) for g in GROUPS})
    shared.figure(plots.group_bars(drawn, "Mean top-1 with 95 % t intervals over seeds"), "method-groups", means)
    found = means[means["row"] == second].iloc[0]
    tests = pd.DataFrame([{"group": g, **{k: found[f"{g}_{k}"] for k in (*PAIRED, "p_holm")}} for g in groups])
    shared.table(tests, "method-tests", column_config={
        "difference": st.column_config.NumberColumn("second minus first (points)", format="%+.1f"),
        "low": shared.percent("95 % from"), "high": shared.percent("to"),
        "p": st.column_config.NumberColumn("p (bootstrap)", format="%.3f"),
        "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.3f")})
    st.caption("Bootstrap over seeds and images; Holm: corrected for this table's rows. "
               "Paired: same seeds, same test images. With two or three seeds that differ much the interval is too narrow; "
               "with one seed it is of that seed alone (docs/statistics.md).")


st.title("Compare")
names = shared.finished()
if shared.choice(st, "What", ["runs", "methods over seeds"], "what") == "runs":
    _runs(names)
else:
    _methods(shared.lines())
