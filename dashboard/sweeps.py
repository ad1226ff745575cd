"""Sweeps and studies: curves over a setting, heat maps over two, rows of a table; what failed is marked."""

import pandas as pd
import shared
import streamlit as st

from sagekit import plots
from sagekit.data import world
from sagekit.runs import listing
from sagekit.runs.metrics import group_names
from sagekit.studies.summary import axes_of
from sagekit.studies.sweep import best_line

st.title("Sweeps")
found = {path.name: path for path in listing.sweeps(shared.base())}
if not found:
    st.info(f"There are no sweeps in `{shared.base()}` yet. `sagekit sweep fig8` or `sagekit study table5` makes one "
            "(ten to twenty minutes on two cores).")
    st.stop()
path = found[st.selectbox("Sweep", list(found), key="sweep", **shared.LINK)]
results = listing.read_sweep(path)
status = results["status"].value_counts()
st.caption(f"{len(results)} runs: " + ", ".join(f"{status[s]} {s}" for s in ("finished", "failed", "open") if s in status)
           + ". Mean top-1 and 95 % t interval over seeds; mean: over classes; single view, groups by the data's own counts."
           + (f" {world.NOTE}" if "data" in results and "mini world" in set(results["data"]) else ""))
if status.get("finished"):
    st.markdown(f"{best_line(results)}.")
points = axes_of(results)
balanced = "balanced" in results and bool((results["balanced"].dropna() == True).all())  # noqa: E712 (objects where some failed)
groups = group_names(balanced)
known = ("row", "seeds", "failed", "val")
axes = [c for c in map(str, points) if c not in known and c.removesuffix("_half") not in group_names()]
seeds = int(points["seeds"].max())
named = points[axes].notna().sum(axis=1) if axes else pd.Series(0, index=points.index)

alone, together = points[named == 1], points[named == 2]
single = [axis for axis in axes if alone[axis].notna().any()]
both = [axis for axis in axes if together[axis].notna().any()]

for left, right in zip(single[::2], [*single[1::2], None], strict=False):
    for column, axis in zip(st.columns(2), (left, right), strict=True):
        if axis is not None:
            with column:
                part = alone[alone[axis].notna()].sort_values(axis)
                shared.figure(plots.sensitivity(part, f"{axis}, {seeds} seeds a point", axis), f"sweep-{axis}", part)
if single and (named == 0).any():
    first = points[named == 0].iloc[0]
    st.caption("The preset itself: " + ", ".join(f"{g} {first[g]:.1f} ± {first[f'{g}_half']:.1f} %" for g in groups))
if len(both) == 2 and together[both].notna().all(axis=None):
    group = shared.choice(st, "Group", list(groups), "group")
    shared.figure(plots.heat_map(together, both[0], both[1], group, f"{group}, {seeds} seeds a point"), "heat", together)
elif not single:
    drawn = points.fillna({f"{g}_half": 0 for g in group_names()})
    shared.figure(plots.group_bars(drawn, f"{seeds} seeds a row"), "rows", points)
held_out = ["val"] if points["val"].notna().any() else []
shared.table(points, "points", column_config={**shared.accuracies(), "val": shared.percent("val %")},
             column_order=["row", "seeds", "failed", *held_out, *(c for g in groups for c in (g, f"{g}_half"))])
if held_out:
    st.caption("val: the mean over classes on the validation images, over seeds.")
failed = results[results["status"] == "failed"]
if len(failed):
    st.subheader(f"Failed: {len(failed)}")
    shared.table(failed[["row", "seed", "error"]], "failed")
    st.caption("The same command with --retry-failed tries them again.")
