"""What if tau, or FIT's scalars, were others? Answered from the stored logits, at once."""

import pandas as pd
import shared
import streamlit as st

from sagekit import plots
from sagekit.runs import listing, whatif
from sagekit.runs.metrics import group_names
from sagekit.runs.run import Run


@st.cache_data(max_entries=64, show_spinner=False)
def _curve(path: str, stamp: object, view: str, definition: str, s_v: float, s_t: float) -> pd.DataFrame:
    run = Run(path)
    stored, metrics = shared.predictions(run, view), run.metrics
    return whatif.curve(stored, metrics["class_counts"], run.groups(definition), s_v, s_t)


def _scalar(label: str, trained: float, key: str) -> float:
    """A slider that starts at the trained value, and means it exactly while it stands there."""
    start = round(trained, 2)
    low, high = min(-1.0, start), max(3.0, start)
    value = st.slider(label, low, high, start, 0.01, key=key, **shared.LINK)
    return trained if value == start else value


@st.fragment
@shared.errors_shown()
def _sliders(run: Run, view: str, definition: str) -> None:
    stored, metrics = shared.predictions(run, view), run.metrics
    counts, groups = metrics["class_counts"], run.groups(definition)
    left, right = st.columns([1, 2])
    with left:
        tau = st.slider("tau, post-hoc logit adjustment", -1.5, 1.5, 0.0, 0.05, key="tau", **shared.LINK,
                        help="z - tau log(n / N): above 0 rare classes are favoured, below 0 frequent ones. 0: as trained.")
        s_v, s_t = stored.s_v, stored.s_t
        if stored.z_v is None:
            st.caption("This run has no FIT: there are no s_1 and s_2 to move.")
        else:
            s_v, s_t = _scalar("s_1, weight of z_v", s_v, "s1"), _scalar("s_2, weight of z_t", s_t, "s2")
            st.caption(f"Trained: s_1 = {stored.s_v:.3f}, s_2 = {stored.s_t:.3f}. Other scalars are Eq 23 with the same z, z_v "
                       "and z_t; a training with them fixed would end elsewhere.")
    now = whatif.accuracies(whatif.predicted(stored, counts, tau, s_v, s_t), stored.labels, groups)
    trained = whatif.accuracies(stored.predicted, stored.labels, groups)
    with right:
        groups_shown = group_names(shared.balanced(run))
        for column, group in zip(st.columns(len(groups_shown)), groups_shown, strict=True):
            change = f"{now[group] - trained[group]:+.1f}"
            moved = abs(float(change)) > 0  # no group, no change
            column.metric(f"{group}, top-1", f"{now[group]:.1f} %", f"{change} points", border=True,
                          delta_color="normal" if moved else "off", delta_arrow="auto" if moved else "off")
        found = _curve(str(run.path), listing.stamp(run.path), view, definition, s_v, s_t)
        shared.figure(plots.pareto(found, (trained["head"], trained["tail"]), (now["head"], now["tail"]),
                                   "Head against tail as tau moves"), "pareto", found)
    if stored.classes is not None:
        st.warning(f"Approximate: each image has only {stored.z.shape[1]} of {len(counts):,} classes stored, the likeliest (as "
                   "trained) and its true one; the winner is looked for among these.")
    st.caption("Points that no other tau beats in both head and tail are filled. They are measured on the test images.")
    held_out = shared.validation(run, view)
    if held_out is None:
        tau = whatif.best_tau(stored, counts, s_v, s_t)
        mean = found.set_index("tau").loc[tau, "mean"]
        st.markdown(f"tau = {tau:g} has the highest mean: {mean:.1f} %, **chosen on the test images**, which flatters it: this "
                    "run has no validation images.")
    else:
        tau = whatif.best_tau(held_out, counts, s_v, s_t)
        chosen = found.set_index("tau").loc[tau]
        st.markdown(f"**Validation picks tau = {tau:g}** (the highest mean over classes of {len(held_out.labels):,} images): "
                    "on test " + ", ".join(f"{group} {chosen[group]:.1f} %" for group in groups_shown) + ".")


st.title("What if")
names = shared.finished()
name = st.selectbox("Run", names, names.index(shared.demo_first(names, "sage")[0]), key="run", **shared.LINK)
run = shared.run(name)
view, definition = shared.view_and_groups(*shared.in_all([run]))
st.caption(shared.said(run, view, definition))
_sliders(run, view, definition)
