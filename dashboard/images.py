"""Test images one by one, or one of your own: what each run predicts, and where it looks."""

import numpy as np
import pandas as pd
import shared
import streamlit as st
import torch
from torch import Tensor

import sagekit as sk
from sagekit import plots
from sagekit.analyses import attention
from sagekit.data import views
from sagekit.data.batches import single_views
from sagekit.data.photos import UPLOAD_LIMIT, decode_upload
from sagekit.runs import compare, listing
from sagekit.runs.run import Run
from sagekit.training.evaluate import likeliest

MOST = 8
FROZEN = "zero-shot (frozen)"


@st.cache_data(max_entries=32, show_spinner="Computing attention maps ...", hash_funcs={Tensor: lambda t: t.numpy().tobytes()})
def _maps(path: str, stamp: object, frozen: bool, pixels: Tensor) -> Tensor:
    return attention.maps(shared.model(Run(path)), pixels, frozen)


def _looks(runs: list[Run]) -> list[list[Run]]:
    """Runs that are shown an image alike, together: one network's view of one size."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        size = shared.model(run).image_size
        seen = (size, views.resized_side(run.config.views, size, False), run.config.network.model_dump_json())
        found.setdefault(seen, []).append(run)
    return list(found.values())


def _attention(runs: list[Run], pixels: Tensor, masks: Tensor | None, titles: list[str], suffix: str) -> None:
    """What these runs see, and maps of the frozen model and of every run that has some. ``suffix`` tells figures apart."""
    maps: dict[str, Tensor] = {}
    for run in runs:
        path, stamp = str(run.path), listing.stamp(run.path)
        try:
            if not maps:
                maps[FROZEN] = _maps(path, stamp, True, pixels)
            if run.config.stages:
                maps[run.name] = _maps(path, stamp, False, pixels)
        except sk.UserError as error:
            st.caption(f"{run.name} has no attention maps: {error}")
    pictures = (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy()
    rows = {} if masks is None else {"the object": masks.float().numpy()}
    title, shown = f"Seen by {', '.join(run.name for run in runs)}: {pixels.shape[-1]} pixels", maps
    if maps:
        layers, _, heads = next(iter(maps.values())).shape[:3]
        left, right = st.columns(2)
        block = left.select_slider("Block", list(range(1, layers + 1)), layers, key=f"block{suffix}", **shared.LINK)
        head = shared.choice(right, "Head", ["mean", *map(str, range(1, heads + 1))], f"head{suffix}")
        shown = {name: m[block - 1].mean(1) if head == "mean" else m[block - 1][:, int(head) - 1] for name, m in maps.items()}
        title = f"CLS attention, block {block}, {'mean of heads' if head == 'mean' else f'head {head}'}"
    rows |= {name: m.numpy() for name, m in shown.items()}
    drawn = plots.attention(pictures, rows, titles, title, side=min(160, 760 // len(pictures)))
    shared.figure(drawn, f"attention{suffix}", stretch=False)
    if masks is not None and shown:
        shares = {name: attention.on_object(m[:, None], masks)[:, 0].mean().item() for name, m in shown.items()}
        even = attention.covered(masks, next(iter(shown.values())).shape[-1]).mean().item()
        numbers = pd.DataFrame([{"model": n, "on the object (%)": 100 * s} for n, s in shares.items()]
                               + [{"model": "spread evenly", "on the object (%)": 100 * even}])
        shared.table(numbers, f"on-object{suffix}",
                     column_config={"on the object (%)": shared.percent("attention on the object (%)")})
        st.caption(f"Mean over the {len(pixels)} image(s) above; the object's pixels are known in the mini world.")


def _suffix(number: int) -> str:
    """Of keys and files: none for the first."""
    return f"-{number}" if number > 1 else ""


def _test_images(runs: list[Run]) -> None:
    first, second = runs[0], runs[-1]
    compare.check_comparable([first, second])
    names, labels = first.metrics["class_names"], shared.predictions(first, "single").labels
    kinds = ["a class", *([f"only {second.name} is right", f"only {first.name} is right"] if second.name != first.name else [])]
    left, right, place = st.columns(3)
    kind = left.selectbox("Show", kinds, key="show", **shared.LINK)
    if kind == "a class":
        counts = dict(zip(names, first.metrics["class_counts"], strict=True))
        by_count = sorted(names, key=lambda n: -counts[n])
        name = right.selectbox("Class, by falling frequency", by_count, key="class", **shared.LINK)
        right.caption(f"{counts[name]} training images")
        found = np.flatnonzero(labels == names.index(name))
    else:
        won, lost = compare.won_and_lost(first, second)
        found = won if kind == kinds[1] else lost
    if not len(found):
        st.info("There are no such images.")
        return
    pages = -(-len(found) // MOST)
    page = place.number_input(f"Page, 1 to {pages} ({len(found)} images)", 1, pages, key="page", **shared.LINK)
    index = found[MOST * (page - 1) : MOST * page]
    split = shared.data(first).test.take(torch.from_numpy(index))
    table = pd.DataFrame({"test image": index, "true class": [names[labels[i]] for i in index]})
    unique = list({run.name: run for run in runs}.values())
    for run in unique:
        p = shared.predictions(run, "single")
        table[run.name] = [f"{'✓' if p.correct[i] else '✗'} {names[p.predicted[i]]}" for i in index]
    for number, alike in enumerate(_looks(unique), 1):
        model = shared.model(alike[0])
        pixels, masks = single_views(split, alike[0].config.views, model.image_size, model.interpolation)
        _attention(alike, pixels, masks, [names[labels[i]] for i in index], _suffix(number))
    shared.table(table, "predictions")
    st.caption("✓ right, ✗ wrong: the stored predictions, single view.")


def _own_image(runs: list[Run]) -> None:
    file = st.file_uploader("A JPEG, PNG, WebP, BMP, GIF or TIFF image", max_upload_size=UPLOAD_LIMIT // 1_000_000,
                            help="It is resized as a test image is, and not kept.")
    if file is None:
        st.caption("Nothing is stored: the image is held in memory while this page shows it.")
        return
    image = decode_upload(file.getvalue(), file.name)
    found: dict[str, pd.DataFrame] = {}
    for number, alike in enumerate(_looks(list({run.name: run for run in runs}.values())), 1):
        model = shared.model(alike[0])
        pixels = views.centre_view(image[None], model.image_size, alike[0].config.views, model.interpolation)
        found |= {run.name: likeliest(shared.model(run), pixels, run.metrics["class_names"]) for run in alike}
        _attention(alike, pixels, None, ["your image"], _suffix(number))
    table = pd.concat(found, names=["run", None]).reset_index("run").drop(columns="image")
    table["probability"] *= 100
    shared.table(table, "own-image", column_config={"probability": shared.percent("probability (%)")})
    st.caption("Five likeliest of the run's own classes; an image of something else gets one of them too.")


st.title("Images")
names = shared.finished()
start = shared.demo_first(names, "lift", "sage")
columns = st.columns(2)
chosen = [columns[0].selectbox("First run", names, names.index(start[0]), key="first", **shared.LINK),
          columns[1].selectbox("Second run", names, names.index(start[-1]), key="second", **shared.LINK)]
runs = [shared.run(name) for name in chosen]
if shared.choice(st, "Images", ["of the test set", "my own"], "images") == "my own":
    _own_image(runs)
else:
    _test_images(runs)
