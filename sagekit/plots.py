"""Figures: numbers in, a plotly figure out. The only place that draws; notebooks and the dashboard share it.

Head, medium and tail are always orange, green and blue, as in the paper, in shades that colour-blind readers tell apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from .data.longtail import GROUPS, Groups
from .errors import show_one_line

GROUP_COLOURS = {"head": "#E69F00", "medium": "#009E73", "tail": "#0072B2"}
SERIES = ("#444444", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#A6761D")
"""For methods and settings: none of the groups' colours."""
INK = "#222222"
COLOURS = {"mean": INK, "all": "#888888", **GROUP_COLOURS}
"""Of every column of a table of accuracies."""

pio.templates["sagekit"] = go.layout.Template(layout={
    "font": {"size": 14, "color": INK}, "colorway": SERIES, "paper_bgcolor": "white", "plot_bgcolor": "white",
    **{axis: {"gridcolor": "#E5E5E5", "zerolinecolor": "#BBBBBB", "linecolor": INK, "ticks": "outside",
              "exponentformat": "none", "automargin": True} for axis in ("xaxis", "yaxis")},
    "margin": {"l": 60, "r": 20, "t": 50, "b": 55}, "legend": {"bgcolor": "rgba(255,255,255,0.7)"},
    "title": {"font": {"size": 16}, "x": 0.02},
})


_DARK = {INK: "#E8E8E8", "#444444": "#BDBDBD", "#E5E5E5": "#3A3A3A", "#BBBBBB": "#707070"}
pio.templates["sagekit-dark"] = go.layout.Template(layout={
    **pio.templates["sagekit"].layout.to_plotly_json(), "font": {"size": 14, "color": _DARK[INK]},
    "colorway": [_DARK.get(colour, colour) for colour in SERIES], "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)", "legend": {"bgcolor": "rgba(0,0,0,0)"},
    **{axis: {"gridcolor": _DARK["#E5E5E5"], "zerolinecolor": _DARK["#BBBBBB"], "linecolor": _DARK[INK], "ticks": "outside",
              "exponentformat": "none", "automargin": True} for axis in ("xaxis", "yaxis")}})


def darkened(figure: go.Figure) -> go.Figure:
    """The figure for a dark page: a new one without background, and what was drawn in ink drawn light."""
    text = figure.to_json()
    for light, dark in _DARK.items():
        text = text.replace(f'"{light}"', f'"{dark}"')
    return go.Figure(pio.from_json(text)).update_layout(template="sagekit-dark")


def browser() -> str | None:
    """The machine's Chromium, with which a figure's still is drawn, if it has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def use_notebook() -> None:
    """Show figures interactively, with a still beside them (for GitHub) where a browser can draw one, and let a cell that fails
    for a reason of the user's say so in one line."""
    show_one_line()
    pio.renderers.default = "plotly_mimetype+png" if browser() else "plotly_mimetype"


def _figure(title: str, x: str, y: str, height: int = 380, width: int = 760) -> go.Figure:
    return go.Figure(layout={"template": "sagekit", "title": title, "height": height, "width": width,
                             "xaxis": {"title": x}, "yaxis": {"title": y}})


def group_of(groups: Groups) -> np.ndarray:
    """Each class's group by name, (C,)."""
    names = np.empty(sum(map(len, groups.values())), dtype=object)
    for group, members in groups.items():
        names[members] = group
    return names


def profile(class_counts: np.ndarray, groups: Groups, title: str) -> go.Figure:
    """Bars of the training images of every class, (C,), largest first, coloured by group; logarithmic."""
    order = np.argsort(-class_counts, kind="stable")
    names = group_of(groups)[order]
    figure = _figure(title, "class, by falling frequency", "training images")
    for group in GROUPS:
        chosen = names == group
        figure.add_bar(x=np.flatnonzero(chosen) + 1, y=class_counts[order][chosen], name=f"{group} ({chosen.sum()} classes)",
                       marker_color=GROUP_COLOURS[group])
    figure.update_yaxes(type="log", dtick=1)
    return figure.update_layout(bargap=0.1)


def lines(x: Sequence[float] | np.ndarray, series: Mapping[str, Sequence[float] | np.ndarray], title: str, x_name: str,
          y_name: str, log_x: bool = False) -> go.Figure:
    """One line a series over ``x`` (n,)."""
    figure = _figure(title, x_name, y_name)
    for name, y in series.items():
        figure.add_scatter(x=list(x), y=list(y), name=name, mode="lines+markers" if len(x) < 40 else "lines",
                           line_color=GROUP_COLOURS.get(name))
    return figure.update_xaxes(type="log" if log_x else "linear")


def group_bars(frame: pd.DataFrame, title: str, label: str = "row") -> go.Figure:
    """Accuracy by head, medium and tail for each row of ``frame``, the mean over classes before them where it has one: columns
    ``label`` and the groups in percent; with ``_half`` (half interval), or ``_low`` and ``_high`` (its ends), where there are
    such columns."""
    figure = _figure(title, "", "top-1 (%)")
    for group in ("mean", *GROUPS) if "mean" in frame else GROUPS:
        error = _error(frame, group)
        if error is not None and group == "mean":
            error["color"] = "#999999"  # seen on its dark bar and above it
        figure.add_bar(x=frame[label].tolist(), y=frame[group].to_numpy(float), name=group, error_y=error,
                       marker_color=COLOURS[group], text=[f"{v:.1f}" for v in frame[group]], textposition="inside",
                       insidetextanchor="start", textangle=0 if len(frame) < 6 else -90)
    return figure.update_layout(barmode="group")


def _error(frame: pd.DataFrame, group: str) -> dict | None:
    if f"{group}_half" in frame:
        return {"array": frame[f"{group}_half"].to_numpy(float)}
    return _ends(frame, group, group) if f"{group}_low" in frame else None


def _ends(frame: pd.DataFrame, column: str, group: str) -> dict:
    """Error bars around ``column`` to the ends ``_low`` and ``_high`` of ``group``."""
    middle = frame[column].to_numpy(float)
    return {"type": "data", "symmetric": False, "array": frame[f"{group}_high"].to_numpy(float) - middle,
            "arrayminus": middle - frame[f"{group}_low"].to_numpy(float)}


def differences(frame: pd.DataFrame, title: str, label: str = "row", groups_shown: Sequence[str] = GROUPS) -> go.Figure:
    """Paired differences with intervals (points): columns ``label``, ``GROUP_difference``, ``GROUP_low``, ``GROUP_high``."""
    known = frame.dropna(subset=[f"{g}_difference" for g in groups_shown], how="all")
    figure = _figure(title, "difference (points)", "", height=max(270, 140 + 60 * len(known)))
    offsets = min(0.22, 0.8 / len(groups_shown)) * (np.arange(len(groups_shown)) - (len(groups_shown) - 1) / 2)
    for offset, group in zip(offsets, groups_shown, strict=True):
        middle = known[f"{group}_difference"].to_numpy(float)
        error = _ends(known, f"{group}_difference", group)
        figure.add_scatter(x=middle, y=np.arange(len(known)) + offset, error_x=error, mode="markers", name=group,
                           marker={"size": 9, "color": COLOURS.get(group, INK)})
    figure.add_vline(x=0, line_color=INK, line_width=1)
    return figure.update_yaxes(tickvals=list(range(len(known))), ticktext=known[label].tolist(), autorange="reversed",
                               automargin=True)


def images(pictures: np.ndarray, titles: Sequence[str], title: str = "", columns: int = 8,
           groups_of: Sequence[str] | None = None, side: int = 110) -> go.Figure:
    """A grid of ``pictures`` uint8 (N, H, W, 3); ``groups_of`` (N,) colours the titles."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = make_subplots(rows, columns, subplot_titles=_coloured(titles, groups_of), horizontal_spacing=0.01,
                           vertical_spacing=0.22 / rows)
    for i, picture in enumerate(pictures):
        figure.add_trace(go.Image(z=picture, hoverinfo="skip"), i // columns + 1, i % columns + 1)
    return _bare(figure, title, columns * side + 20, rows * (side + 30) + 60)


def attention(pictures: np.ndarray, maps: Mapping[str, np.ndarray], titles: Sequence[str], title: str = "",
              groups_of: Sequence[str] | None = None, side: int = 120) -> go.Figure:
    """Rows of maps under a row of ``pictures`` uint8 (N, H, W, 3): each of ``maps`` (N, G, G) laid over its picture.

    Every map is scaled to its own maximum; strong attention is opaque red.
    """
    n, height, width = len(pictures), pictures.shape[1], pictures.shape[2]
    rows = 1 + len(maps)
    figure = make_subplots(rows, n, subplot_titles=_coloured(titles, groups_of), row_titles=["image", *maps],
                           horizontal_spacing=0.01, vertical_spacing=0.01)
    for column in range(n):
        for row in range(rows):
            figure.add_trace(go.Image(z=pictures[column], hoverinfo="skip"), row + 1, column + 1)
    for row, values in enumerate(maps.values(), 2):
        for column in range(n):
            one = values[column] / max(float(values[column].max()), 1e-12)
            step_y, step_x = height / one.shape[0], width / one.shape[1]
            figure.add_trace(go.Heatmap(
                z=one, x0=step_x / 2 - 0.5, dx=step_x, y0=step_y / 2 - 0.5, dy=step_y, zmin=0, zmax=1, showscale=False,
                colorscale=[[0, "rgba(255,255,255,0)"], [1, "rgba(213,0,0,0.75)"]], zsmooth="best",
                hovertemplate="%{z:.2f} of this map's largest<extra></extra>"), row, column + 1)
    figure.for_each_annotation(lambda a: a.update(textangle=0, x=-0.01, xanchor="right") if a.text in ("image", *maps) else a)
    full = max(n * side + 130, 9 * len(title) + 20)  # beside few pictures the title needs room of its own
    figure = _bare(figure, title, full, rows * side + 70)
    return figure.update_layout(margin_l=120, margin_r=full - n * side - 120)


def _coloured(titles: Sequence[str], groups_of: Sequence[str] | None) -> list[str]:
    """Titles in their group's colour."""
    if groups_of is None:
        return list(titles)
    return [f'<span style="color:{GROUP_COLOURS[g]}">{t}</span>' for t, g in zip(titles, groups_of, strict=True)]


def _bare(figure: go.Figure, title: str, width: int, height: int) -> go.Figure:
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    figure.update_annotations(font_size=12)
    return figure.update_layout(template="sagekit", title=title, width=width, height=height,
                                margin={"l": 10, "r": 10, "t": 60 if title else 30, "b": 10})


def scatter(points: np.ndarray, kinds: Sequence[str], title: str, hover: Sequence[str] | None = None) -> go.Figure:
    """Places (N, 2) coloured by ``kinds`` (N,): groups in their colours, other kinds in the series'."""
    figure = _figure(title, "", "", height=480, width=560)
    each = np.asarray(kinds)
    for kind in [g for g in GROUPS if g in each] + sorted(set(each) - set(GROUPS)):
        chosen = each == kind
        figure.add_scatter(x=points[chosen, 0], y=points[chosen, 1], mode="markers", name=str(kind),
                           marker={"size": 5, "opacity": 0.75, "color": GROUP_COLOURS.get(str(kind))},
                           text=None if hover is None else np.asarray(hover)[chosen].tolist(), hoverinfo="text")
    return figure.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False)


def sensitivity(frame: pd.DataFrame, title: str, x: str, reference: float | None = None) -> go.Figure:
    """Mean accuracy with intervals over the setting ``x``: columns ``x``, mean / head / medium / tail (percent) and ``_half``;
    ``all`` where there is no mean.

    ``reference`` marks the preset's value. Where a column ``failed`` counts failed runs, their points get a cross.
    """
    figure = _figure(title, x, "top-1 (%)")
    whole = "mean" if "mean" in frame else "all"
    for group in (whole, *GROUPS):
        figure.add_scatter(x=frame[x], y=frame[group], name=group, mode="lines+markers",
                           line_color=GROUP_COLOURS.get(group, INK),
                           error_y={"array": frame[f"{group}_half"].to_numpy(float), "thickness": 1})
    failed = frame[frame["failed"] > 0] if "failed" in frame else frame.head(0)
    if len(failed):
        low = np.nanmin(frame[list(GROUPS)].to_numpy(float)) if frame["seeds"].sum() else 0.0
        figure.add_scatter(x=failed[x], y=failed[whole].fillna(low), mode="markers", name="runs failed",
                           marker={"symbol": "x", "size": 12, "color": SERIES[3]},
                           text=[f"{n} failed, {s} finished" for n, s in zip(failed["failed"], failed["seeds"], strict=True)])
    if reference is not None:
        figure.add_vline(x=reference, line_dash="dot", annotation_text="preset")
    return figure


def heat_map(frame: pd.DataFrame, x: str, y: str, group: str, title: str) -> go.Figure:
    """Mean accuracy of ``group`` (percent) over two settings, columns ``x`` and ``y``; with ``failed`` and ``seeds`` runs."""
    figure = _figure(title, x, y, height=420)
    xs, ys = sorted(frame[x].unique()), sorted(frame[y].unique())
    places = {(row[x], row[y]): row for row in frame.to_dict("records")}
    cells = [[places.get((a, b)) for a in xs] for b in ys]
    figure.add_heatmap(x=[f"{v:g}" if isinstance(v, float) else v for v in xs],
                       y=[f"{v:g}" if isinstance(v, float) else v for v in ys],
                       z=[[None if c is None else c[group] for c in line] for line in cells], colorscale="Viridis",
                       text=[[_cell_text(c, group) for c in line] for line in cells], texttemplate="%{text}",
                       colorbar={"title": f"{group} (%)"}, hoverongaps=False)
    return figure.update_xaxes(type="category").update_yaxes(type="category")


def _cell_text(cell: dict | None, group: str) -> str:
    if cell is None:
        return ""
    number = f"{cell[group]:.1f}" if cell["seeds"] else ""
    return number + (f"<br>{cell['failed']} failed" if cell["failed"] else "")


def head_tail(frame: pd.DataFrame, title: str) -> go.Figure:
    """Tail over head accuracy, one colour a method: columns ``run``, ``method``, ``head``, ``tail`` (percent)."""
    figure = _figure(title, "head top-1 (%)", "tail top-1 (%)")
    for method, part in frame.groupby("method", sort=True):
        figure.add_scatter(x=part["head"], y=part["tail"], mode="markers", name=str(method), text=part["run"],
                           marker={"size": 11, "opacity": 0.8},
                           hovertemplate="%{text}<br>head %{x:.1f} %, tail %{y:.1f} %<extra></extra>")
    return figure


def class_differences(frame: pd.DataFrame, title: str) -> go.Figure:
    """Bars of every class's ``difference`` (points), columns as in ``compare.per_class``, most frequent class first."""
    figure = _figure(title, "class, by falling frequency", "difference (points)")
    for group in GROUPS:
        part = frame[frame["group"] == group]
        figure.add_bar(x=part.index + 1, y=part["difference"], name=group, marker_color=GROUP_COLOURS[group],
                       text=[f"{n} ({i} training images)" for n, i in zip(part["name"], part["images"], strict=True)],
                       textposition="none", hovertemplate="%{text}<br>%{y:+.1f} points<extra></extra>")
    return figure.add_hline(y=0, line_color=INK, line_width=1).update_layout(bargap=0.15)


def pareto(frame: pd.DataFrame, trained: tuple[float, float], here: tuple[float, float], title: str) -> go.Figure:
    """Tail over head accuracy along tau: columns ``tau``, ``head``, ``tail``, ``best``. ``trained`` and ``here`` are (head,
    tail) of the run as it was trained and of the sliders."""
    figure = _figure(title, "head top-1 (%)", "tail top-1 (%)", height=430)
    names = np.array([f"tau {t:g}" for t in frame["tau"]])
    figure.add_scatter(x=frame["head"], y=frame["tail"], mode="lines", line={"color": SERIES[0], "width": 1}, name="tau moved",
                       hoverinfo="skip")
    for best, name, symbol in ((True, "unbeaten", "circle"), (False, "beaten by another tau", "circle-open")):
        part = frame["best"] == best
        figure.add_scatter(x=frame["head"][part], y=frame["tail"][part], mode="markers", name=name,
                           marker={"symbol": symbol, "size": 8, "color": SERIES[0]}, text=names[part],
                           hovertemplate="%{text}<br>head %{x:.1f} %, tail %{y:.1f} %<extra></extra>")
    places = {"as trained": (trained, "star", 20, SERIES[3]), "the sliders": (here, "diamond", 11, SERIES[1])}
    for name, (place, symbol, size, colour) in places.items():
        figure.add_scatter(x=[place[0]], y=[place[1]], mode="markers", name=name,
                           marker={"symbol": symbol, "size": size, "color": colour})
    return figure


def pictures_on_hover(frame: pd.DataFrame, title: str) -> Any:
    """``scatter`` whose hover shows each point's picture: columns ``x``, ``y``, ``kind`` (colour), ``split`` (shape), ``name``,
    ``image`` (a data URI).

    An Altair chart, which comes with Streamlit: plotly's hover holds text only.
    """
    import altair as alt

    kinds = set(frame["kind"])
    known = [g for g in GROUPS if g in kinds] + sorted(kinds - set(GROUPS))
    colours = [GROUP_COLOURS.get(k, SERIES[i % len(SERIES)]) for i, k in enumerate(known)]
    plain = alt.Axis(labels=False, ticks=False, title=None, grid=False)
    shapes = alt.Shape("split:N", title=None, legend=alt.Legend(orient="bottom", symbolFillColor="#888888"),
                       scale=alt.Scale(domain=["test", "training"], range=["circle", "cross"]))
    return alt.Chart(frame, title=title).mark_point(size=35, opacity=0.7, filled=True).encode(
        x=alt.X("x:Q", axis=plain, scale=alt.Scale(zero=False)), y=alt.Y("y:Q", axis=plain, scale=alt.Scale(zero=False)),
        color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=known, range=colours),
                        legend=alt.Legend(orient="bottom") if len(known) <= 12 else None),
        shape=shapes, tooltip=["image:N", "name:N", "kind:N", "split:N"]).properties(height=460).interactive()


def training(history: pd.DataFrame, columns: Sequence[str], title: str, y: str) -> go.Figure:
    """Columns of a run's ``history`` over its epochs."""
    return lines(history["epoch"].to_numpy(), {name: history[name].to_numpy() for name in columns}, title, "epoch", y)


def by_class_size(frame: pd.DataFrame, y: str, title: str, y_name: str, line: tuple[float, float] | None = None) -> go.Figure:
    """``frame[y]`` of every class over its ``images``, coloured by its ``group``; ``line`` = (mu, gamma) draws mu n^gamma."""
    figure = _figure(title, "training images of the class", y_name)
    for group in GROUPS:
        part = frame[frame["group"] == group]
        figure.add_scatter(x=part["images"], y=part[y], mode="markers", name=group,
                           marker={"color": GROUP_COLOURS[group], "size": 8})
    if line is not None:
        n = np.geomspace(frame["images"].min(), frame["images"].max(), 50)
        figure.add_scatter(x=n, y=line[0] * n ** line[1], mode="lines", line_color=INK, name=f"{line[0]:.2g} n^{line[1]:.2g}")
    return figure.update_xaxes(type="log", dtick=1)


def reliability(series: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """Accuracy over confidence, bin by bin, one line a frame of ``calibration.reliability``; on the diagonal confidence is what
    it says. The larger a point, the more images are in its bin."""
    figure = _figure(title, "confidence (%)", "accuracy (%)", height=420)
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line={"dash": "dot", "color": INK, "width": 1}, name="calibrated",
                       hoverinfo="skip")
    for i, (name, frame) in enumerate(series.items()):
        known = frame[frame["images"] > 0]
        figure.add_scatter(x=100 * known["confidence"], y=100 * known["accuracy"], mode="lines+markers", name=name,
                           line={"color": SERIES[(i + 1) % len(SERIES)], "width": 1.5},
                           marker={"size": 5 + 18 * np.sqrt(known["share"].to_numpy(float))}, text=known["images"].tolist(),
                           hovertemplate="confidence %{x:.1f} %, accuracy %{y:.1f} %, %{text} images<extra></extra>")
    return figure.update_xaxes(range=[0, 102]).update_yaxes(range=[0, 102])


def prior_curve(series: Mapping[str, pd.DataFrame], title: str) -> go.Figure:
    """Accuracy over the test prior, one line a frame of ``calibration.prior_curve``: from forward over uniform to backward."""
    figure = _figure(title, "test prior", "top-1 (%)", height=420)
    for i, (name, frame) in enumerate(series.items()):
        figure.add_scatter(x=frame["prior"].tolist(), y=frame["accuracy"].to_numpy(float), mode="lines+markers", name=name,
                           line_color=SERIES[(i + 1) % len(SERIES)])
    return figure.update_xaxes(type="category", tickangle=-90, automargin=True, title_standoff=16)


def architecture(layers: int) -> go.Figure:
    """Figure 6: one block with its SG-Adapter, frozen parts grey, trained parts orange, and what leaves it."""
    figure = go.Figure(layout={"template": "sagekit", "width": 820, "height": 520,
                               "title": f"Sage: one of {layers} blocks, and the head"})
    frozen, trained = "#D9DEE4", "#F6C177"

    def box(x: float, y: float, w: float, h: float, text: str, fill: str) -> None:
        figure.add_shape(type="rect", x0=x, y0=y, x1=x + w, y1=y + h, fillcolor=fill, line={"color": INK, "width": 1})
        figure.add_annotation(x=x + w / 2, y=y + h / 2, text=text, showarrow=False, font_size=13)

    def arrow(x0: float, y0: float, x1: float, y1: float, text: str = "") -> None:
        figure.add_annotation(x=x1, y=y1, ax=x0, ay=y0, xref="x", yref="y", axref="x", ayref="y", showarrow=True, arrowhead=2,
                              arrowcolor=INK, text="")
        if text:
            figure.add_annotation(x=(x0 + x1) / 2, y=(y0 + y1) / 2, text=text, showarrow=False, font_size=12, bgcolor="white")

    box(0.2, 1.0, 2.2, 0.8, "LN, attention", frozen)
    box(0.2, 3.0, 2.2, 0.8, "LN, MLP", frozen)
    box(3.4, 3.0, 2.6, 0.8, "SG-Adapter", trained)
    box(3.4, 1.0, 2.6, 0.8, "w&#772; = mean of W's rows", trained)
    box(0.2, 5.0, 2.2, 0.8, "f, the CLS feature", frozen)
    box(3.4, 5.0, 2.6, 0.8, "classifier W (starts as text)", trained)
    box(7.0, 3.0, 2.6, 0.8, "frozen CLIP: f_zs", frozen)
    box(7.0, 5.0, 2.6, 0.8, "frozen text W_zs", frozen)
    box(3.4, 6.6, 2.6, 0.8, "z + s₁ z_v + s₂ z_t", trained)
    arrow(1.3, 0.3, 1.3, 1.0, "tokens")
    arrow(1.3, 1.8, 1.3, 3.0, "f̃")
    arrow(1.3, 2.3, 3.4, 3.2)
    arrow(4.7, 1.8, 4.7, 3.0, "guides")
    arrow(1.3, 3.8, 1.3, 5.0, "+")
    arrow(3.4, 3.6, 1.5, 4.4, "s · out")
    arrow(1.3, 5.8, 3.6, 6.6, "z")
    arrow(4.7, 5.8, 4.7, 6.6)
    arrow(8.3, 5.8, 5.8, 6.6, "z_t = k W_zs f")
    arrow(8.3, 3.8, 5.6, 5.0)
    figure.add_annotation(x=7.4, y=4.45, text="z_v = k W f_zs", showarrow=False, font_size=12, bgcolor="white")
    box(7.0, 0.4, 0.4, 0.4, "", frozen)
    box(7.0, 1.1, 0.4, 0.4, "", trained)
    figure.add_annotation(x=7.55, y=0.6, text="frozen", showarrow=False, xanchor="left")
    figure.add_annotation(x=7.55, y=1.3, text="trained", showarrow=False, xanchor="left")
    return figure.update_xaxes(visible=False, range=[-0.2, 10]).update_yaxes(visible=False, range=[0, 7.7])
