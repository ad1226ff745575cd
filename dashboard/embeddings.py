"""Features of training and test images before and after fine-tuning: two pictures, and the gap as a number."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import shared
import streamlit as st
import torch
from PIL import Image
from torch import Tensor

from sagekit import plots
from sagekit.analyses import embeddings
from sagekit.data import world
from sagekit.data.batches import single_views
from sagekit.data.splits import Split
from sagekit.runs import listing
from sagekit.runs.run import Run

A_CLASS = 12  # images of each class and split that are shown at most


def _splits(run: Run) -> dict[str, Split]:
    data = shared.data(run)
    return {"test": data.test.first_of_each(A_CLASS), "training": data.train.first_of_each(A_CLASS)}


@st.cache_data(max_entries=8, show_spinner="Computing features of training and test images ...")
def _features(path: str, stamp: object, frozen: bool) -> dict[str, Tensor]:
    run = Run(path)
    return {name: embeddings.features(shared.model(run), split, run.config.views, frozen)
            for name, split in _splits(run).items()}


@st.cache_data(max_entries=8, show_spinner="Laying the points out (some seconds) ...")
def _picture(path: str, stamp: object, frozen: bool, method: Any) -> np.ndarray:
    return embeddings.picture(torch.cat(list(_features(path, stamp, frozen).values())), method)


@st.cache_data(max_entries=4, show_spinner=False)
def _thumbnails(path: str, stamp: object, size: int) -> list[str]:
    run = Run(path)
    uris = []
    for split in _splits(run).values():
        pixels, _ = single_views(split, run.config.views, size, "bilinear")
        for picture in (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy():
            file = io.BytesIO()
            Image.fromarray(picture).resize((72, 72)).save(file, "JPEG", quality=80)
            uris.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return uris


def _points(run: Run, places: np.ndarray, colour: str) -> pd.DataFrame:
    stamp = listing.stamp(run.path)
    splits, names = _splits(run), run.metrics["class_names"]
    labels = torch.cat([split.labels for split in splits.values()]).tolist()
    group = plots.group_of(run.groups("own"))
    return pd.DataFrame({
        "x": places[:, 0], "y": places[:, 1], "split": [name for name, split in splits.items() for _ in range(len(split))],
        "kind": [group[c] if colour == "group" else names[c] for c in labels], "name": [names[c] for c in labels],
        "image": _thumbnails(str(run.path), stamp, shared.model(run).image_size)})


def _gaps(run: Run) -> pd.DataFrame:
    splits, found = _splits(run), {}
    for stage, frozen in (("before", True), ("after", False)):
        f = _features(str(run.path), listing.stamp(run.path), frozen)
        found[stage] = embeddings.gap(f["training"], splits["training"].labels, f["test"], splits["test"].labels)
    frame = embeddings.gap_change(found["before"], found["after"])
    labels = frame.pop("label").to_numpy()
    names, counts = (np.array(run.metrics[key])[labels] for key in ("class_names", "class_counts"))
    group = plots.group_of(run.groups("own"))[labels]
    return pd.DataFrame({"name": names, "images": counts, "group": group}).join(frame)


def _fine_tunes(run: Run) -> bool:
    return bool(run.config.stages) and run.config.needs == "clip"


st.title("Embeddings")
names = [name for name in shared.finished() if _fine_tunes(shared.run(name))]
if not names:
    st.info("This page needs a run that fine-tunes a CLIP.")
    st.stop()
columns = st.columns(3)
run = shared.run(columns[0].selectbox("Run", names, names.index(shared.demo_first(names, "sage")[0]), key="run", **shared.LINK))
method = shared.choice(columns[1], "Picture", ["tsne", "umap"], "picture",
                       format_func={"tsne": "t-SNE", "umap": "UMAP"}.get)
colour = shared.choice(columns[2], "Colour", ["group", "class"], "colour")
mini = f" {world.NOTE}" if run.metrics["mini_world"] else ""
st.caption(f"Up to {A_CLASS} training and {A_CLASS} test images of each class. Hover over a point to see its image; crosses "
           f"are training images. Both pictures keep neighbours and distort distances.{mini}")
stamp = listing.stamp(run.path)
stages = {"Before: the frozen features": True, f"After: {run.name}": False}
for column, (title, frozen) in zip(st.columns(2), stages.items(), strict=True):
    frame = _points(run, _picture(str(run.path), stamp, frozen, method), colour)
    with column:
        st.altair_chart(plots.pictures_on_hover(frame, title), theme="streamlit", key=f"points-{frozen}")
        shared.csv(frame.drop(columns="image"), "before" if frozen else "after")
gaps = _gaps(run)
st.subheader("The train-test gap of each class")
left, right = st.columns(2)
with left:
    shared.figure(plots.by_class_size(gaps, "after", "Gap after fine-tuning", "1 - cos(mean training, mean test)"), "gap", gaps)
with right:
    shared.table(gaps.sort_values("after", ascending=False), "gaps",
                 column_order=["name", "images", "before", "after", "change"], column_config={
        "images": "training images",
        **dict.fromkeys(("before", "after", "change"), st.column_config.NumberColumn(format="%.3f"))})
st.caption("gap = 1 - cosine between the mean feature of a class's training images and that of its test images, from the "
           "images shown above. A rare class's mean is of few images, so its gap would be larger even if nothing differed.")
