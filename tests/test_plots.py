"""Figures carry the numbers they were given, and head / medium / tail keep their colours."""

import numpy as np
import pandas as pd
import pytest

from sagekit import plots
from sagekit.data import longtail
from sagekit.data.longtail import GROUPS

COUNTS = np.array([5, 500, 60, 8])
OWN = longtail.groups(COUNTS)
PAIRED = {"difference": 10.0, "low": 8.0, "high": 13.0}
TABLE = pd.DataFrame({
    "row": ["a", "b"],
    **{g: [10.0, 20.0] for g in ("all", *GROUPS)},
    **{f"{g}_half": [1.0, 2.0] for g in ("all", *GROUPS)},
    **{f"{g}_{key}": [np.nan, value] for g in GROUPS for key, value in PAIRED.items()},
})


def trace(figure, name):
    return next(t for t in figure.data if t.name is not None and t.name.startswith(name))


def test_groups_have_the_paper_s_colours():
    assert list(plots.group_of(OWN)) == ["tail", "head", "medium", "tail"]
    figure = plots.profile(COUNTS, OWN, "t")
    assert [trace(figure, g).marker.color for g in GROUPS] == list(plots.GROUP_COLOURS.values())
    assert list(trace(figure, "head").y) == [500]
    assert list(trace(figure, "tail").y) == [8, 5]


def test_bars_and_intervals():
    bar = trace(plots.group_bars(TABLE, "t"), "tail")
    assert (list(bar.y), list(bar.error_y.array)) == ([10, 20], [1, 2])


def test_differences_leave_out_the_first_row():
    dot = trace(plots.differences(TABLE, "t"), "head")
    assert (list(dot.x), list(dot.error_x.array), list(dot.error_x.arrayminus)) == ([10], [3], [2])


def test_differences_of_many_columns_do_not_reach_the_next_row():
    groups = ("mean", "all", *GROUPS)
    frame = TABLE.assign(**{f"{g}_{key}": value for g in groups for key, value in PAIRED.items()})
    dots = plots.differences(frame, "t", groups_shown=groups).data
    places = np.array([dot.y for dot in dots])
    assert places[:, 0].max() < places[:, 1].min()
    assert len({dot.marker.color for dot in dots}) == 5


def test_reliability_leaves_out_empty_bins():
    frame = pd.DataFrame({"confidence": [0.5, np.nan, 0.9], "accuracy": [0.4, np.nan, 0.8], "share": [0.25, 0, 0.75],
                          "images": [1, 0, 3]})
    line = trace(plots.reliability({"before": frame}, "t"), "before")
    assert (list(line.x), list(line.y)) == ([50, 90], [40, 80])
    assert line.marker.size[1] > line.marker.size[0]


def test_prior_curves_keep_their_order():
    frame = pd.DataFrame({"prior": ["forward 2", "uniform", "backward 2"], "accuracy": [3.0, 2.0, 1.0]})
    line = trace(plots.prior_curve({"a": frame}, "t"), "a")
    assert (list(line.x), list(line.y)) == (["forward 2", "uniform", "backward 2"], [3, 2, 1])


def test_a_title_is_not_cut_beside_one_picture():
    picture, maps = np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 2, 2))
    title = "CLS attention, block 12, mean of heads"
    drawn = plots.attention(picture, {"a": maps}, ["x"], title).layout
    assert drawn.width - drawn.margin.l - drawn.margin.r == 120
    assert drawn.width >= 9 * len(title)


def test_attention_lies_over_every_picture():
    pictures, maps = np.zeros((3, 8, 8, 3), np.uint8), np.random.default_rng(0).random((3, 2, 2))
    figure = plots.attention(pictures, {"a": maps, "b": maps}, ["x", "y", "z"], groups_of=GROUPS)
    heat = [t for t in figure.data if t.type == "heatmap"]
    assert len(heat) == 6
    assert np.max(heat[0].z) == 1
    assert (heat[0].x0, heat[0].dx) == (1.5, 4)  # the first patch covers pixels 0 to 3
    assert sum(t.type == "image" for t in figure.data) == 9
    assert plots.GROUP_COLOURS["head"] in figure.layout.annotations[0].text


def test_a_grid_has_every_picture():
    figure = plots.images(np.zeros((10, 4, 4, 3), np.uint8), [str(i) for i in range(10)])
    assert len(figure.data) == 10


def test_points_keep_their_kind():
    figure = plots.scatter(np.arange(8.0).reshape(4, 2), ["tail", "head", "train", "tail"], "t", hover=list("abcd"))
    assert [t.name for t in figure.data] == ["head", "tail", "train"]
    assert list(trace(figure, "tail").text) == ["a", "d"]


def test_curves():
    frame = TABLE.assign(gamma=[0.0, 0.1])
    assert list(trace(plots.sensitivity(frame, "t", "gamma", 0.05), "all").x) == [0, 0.1]
    assert list(trace(plots.lines([1, 2], {"head": [3, 4]}, "t", "x", "y"), "head").y) == [3, 4]
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]})
    assert list(trace(plots.training(history, ["loss"], "t", "loss"), "loss").y) == [2, 1]


def test_class_sizes_with_a_power_law():
    frame = pd.DataFrame({"images": COUNTS, "group": plots.group_of(OWN), "gap": [1.0, 2, 3, 4]})
    figure = plots.by_class_size(frame, "gap", "t", "gap", line=(2.0, 0.5))
    line = figure.data[-1]
    assert line.y[-1] == pytest.approx(2 * 500**0.5)
    assert list(trace(figure, "medium").y) == [3]


def test_the_architecture_says_what_is_frozen_and_what_is_trained():
    texts = {a.text for a in plots.architecture(6).layout.annotations}
    assert {"frozen", "trained", "SG-Adapter"} <= texts


@pytest.mark.parametrize("browser", [True, False])
def test_notebooks_show_a_still_where_a_browser_is(monkeypatch, browser):
    monkeypatch.setattr(plots.shutil, "which", lambda name: "/bin/browser" if browser else None)
    before = plots.pio.renderers.default
    plots.use_notebook()
    assert ("png" in plots.pio.renderers.default) == browser
    plots.pio.renderers.default = before


def test_ends_of_intervals_may_be_given():
    frame = TABLE.drop(columns=[c for c in TABLE if "_half" in c or "_low" in c or "_high" in c])
    frame = frame.assign(**{f"{g}_low": [8.0, 19.0] for g in GROUPS}, **{f"{g}_high": [11.0, 24.0] for g in GROUPS})
    error = trace(plots.group_bars(frame, "t"), "head").error_y
    assert (list(error.array), list(error.arrayminus)) == ([1.0, 4.0], [2.0, 1.0])


def test_failed_points_are_marked():
    frame = pd.DataFrame({"gamma": [0.1, 0.2], "seeds": [2, 0], "failed": [0, 3],
                          **{g: [80.0, np.nan] for g in ("all", *GROUPS)},
                          **{f"{g}_half": [1.0, np.nan] for g in ("all", *GROUPS)}})
    cross = trace(plots.sensitivity(frame, "t", "gamma"), "runs failed")
    assert (list(cross.x), list(cross.y), list(cross.text)) == ([0.2], [80.0], ["3 failed, 0 finished"])


def test_a_heat_map_has_every_pair_and_says_what_failed():
    frame = pd.DataFrame({"mu": [0.1, 0.2, 0.1], "gamma": [1.0, 1.0, 2.0], "seeds": [1, 1, 0], "failed": [0, 0, 2],
                          "all": [70.0, 71.0, np.nan]})
    figure = plots.heat_map(frame, "mu", "gamma", "all", "t")
    assert [list(line) for line in figure.data[0].text] == [["70.0", "71.0"], ["<br>2 failed", ""]]


def test_pareto_marks_the_trained_point_and_the_sliders():
    frame = pd.DataFrame({"tau": [-1.0, 0.0, 1.0], "head": [90.0, 80.0, 70.0], "tail": [50.0, 70.0, 60.0],
                          "best": [True, True, False]})
    figure = plots.pareto(frame, (80.0, 70.0), (85.0, 60.0), "t")
    assert list(trace(figure, "unbeaten").x) == [90.0, 80.0]
    assert list(trace(figure, "beaten").x) == [70.0]
    assert (trace(figure, "as trained").x[0], trace(figure, "the sliders").y[0]) == (80.0, 60.0)


def test_class_bars_keep_their_place_and_colour():
    frame = pd.DataFrame({"name": ["a", "b", "c"], "group": ["head", "medium", "tail"], "images": [300, 50, 3],
                          "difference": [1.0, -2.0, 3.0]})
    figure = plots.class_differences(frame, "t")
    assert [(list(t.x), list(t.y)) for t in figure.data] == [([1], [1.0]), ([2], [-2.0]), ([3], [3.0])]
    assert [t.marker.color for t in figure.data] == list(plots.GROUP_COLOURS.values())


def test_runs_by_head_and_tail():
    frame = pd.DataFrame({"run": ["a", "b"], "method": ["lift", "sage"], "head": [1.0, 2.0], "tail": [3.0, 4.0]})
    assert [(t.name, t.x[0], t.y[0]) for t in plots.head_tail(frame, "t").data] == [("lift", 1.0, 3.0), ("sage", 2.0, 4.0)]


def test_dark_figures_have_light_ink_and_the_same_groups():
    light = plots.sensitivity(pd.DataFrame({"x": [1.0], **{g: [2.0] for g in ("all", *GROUPS)},
                                            **{f"{g}_half": [0.1] for g in ("all", *GROUPS)}}), "t", "x")
    dark = plots.darkened(light)
    assert trace(light, "all").line.color == plots.INK
    assert trace(dark, "all").line.color != plots.INK
    assert [trace(dark, g).line.color for g in GROUPS] == list(plots.GROUP_COLOURS.values())
    assert dark.to_json().count('"y"') == light.to_json().count('"y"')


def test_hover_shows_the_picture():
    pytest.importorskip("altair")
    frame = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0], "kind": ["tail", "head"], "split": ["test", "training"],
                          "name": ["a", "b"], "image": ["data:image/png;base64,AA", "data:image/png;base64,BB"]})
    chart = plots.pictures_on_hover(frame, "t").to_dict()
    assert chart["encoding"]["tooltip"][0]["field"] == "image"
    assert chart["encoding"]["color"]["scale"] == {"domain": ["head", "tail"],
                                                   "range": [plots.GROUP_COLOURS["head"], plots.GROUP_COLOURS["tail"]]}
