"""Figures carry the numbers they were given, and head / medium / tail keep their colours."""

import numpy as np
import pandas as pd
import pytest

from sagekit import plots
from sagekit.longtail import GROUPS

COUNTS = np.array([5, 500, 60, 8])
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
    assert list(plots.group_of(COUNTS)) == ["tail", "head", "medium", "tail"]
    figure = plots.profile(COUNTS, "t")
    assert [trace(figure, g).marker.color for g in GROUPS] == list(plots.GROUP_COLOURS.values())
    assert list(trace(figure, "head").y) == [500]
    assert list(trace(figure, "tail").y) == [8, 5]


def test_bars_and_intervals():
    bar = trace(plots.group_bars(TABLE, "t"), "tail")
    assert (list(bar.y), list(bar.error_y.array)) == ([10, 20], [1, 2])


def test_differences_leave_out_the_first_row():
    dot = trace(plots.differences(TABLE, "t"), "head")
    assert (list(dot.x), list(dot.error_x.array), list(dot.error_x.arrayminus)) == ([10], [3], [2])


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
    frame = pd.DataFrame({"images": COUNTS, "gap": [1.0, 2, 3, 4]})
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
