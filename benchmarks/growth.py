"""docs/growth.md: how cost grows with classes, tokens, blocks, images and devices.

    python benchmarks/growth.py

Times are measured on this machine's CPU in float32, operations counted by torch; what is extrapolated is marked. The GPU's rate
and the share of it are assumptions, not measurements.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pandas as pd
import torch
from common import best, made_up, markdown, model_of, start
from reading import picture
from torch.utils.flop_counter import FlopCounterMode

import sagekit as sk
from sagekit.analyses import counting
from sagekit.data import photos
from sagekit.data.prompts import TEMPLATES, fill
from sagekit.data.views import crop
from sagekit.files import write_text
from sagekit.networks.adapters import default_bottleneck
from sagekit.networks.backbone import load_backbone
from sagekit.networks.heads import Features
from sagekit.runs.predictions import ALL, KEPT

CLASSES = (10, 100, 365, 1000, 8142)
TOKENS = {"ViT-B/32, 224 px": 50, "ViT-B/16, 224 px": 197, "ViT-B/16, 384 px": 577}
H200 = 989e12
"""bf16 operations a second that NVIDIA states for an H200 (dense); nothing here was measured on one."""
SHARE = 0.45
"""Of that rate: the goal, an assumption."""
IMAGES, EPOCHS, TEST = 437_513, 20, 24_426  # iNaturalist 2018


def by_classes(backbone: sk.Backbone) -> pd.DataFrame:
    rows = []
    d, batch = backbone.width, 128
    own, frozen = torch.randn(2, batch, d).unbind()
    config = sk.Config.preset("inat2018", pretrained="random")
    for classes in CLASSES:
        model, batches = model_of(config, backbone, classes), made_up(batch, 1, classes)
        # The step without its network: features come from nowhere.
        model.features = lambda images, known=None: Features(own.clone().requires_grad_(), frozen)  # type: ignore

        def head(model: sk.Method = model, batches: Any = batches) -> None:
            model(batches, start())["loss"].backward()

        r = default_bottleneck(classes, backbone.layers)
        rows.append({"classes": f"{classes:,}", "bottleneck r": r, "classifier, parameters": f"{classes * d:,}",
                     "SG-Adapters, parameters": f"{backbone.layers * counting.block_parameters('SG-Adapter', d, r):,}",
                     "head and loss, ms a batch of 128": f"{1000 * best(head):.1f}",
                     "stored predictions, bytes an image": f"{6 * classes if classes <= ALL else KEPT * (3 * 2 + 4) + 4:,}"})
    return pd.DataFrame(rows)


def by_tokens(backbone: sk.Backbone) -> pd.DataFrame:
    rows = []
    for name, tokens in TOKENS.items():
        x = torch.randn(4, tokens, backbone.width)

        def block(x: torch.Tensor = x) -> None:
            with torch.inference_mode():
                mid = backbone.attend(1, x)
                backbone.mlp(1, mid)

        rows.append({"tokens": f"{tokens} ({name})", "seconds": best(block) / 4})
    frame = pd.DataFrame(rows)
    base = frame["seconds"].iloc[1]
    return frame.assign(**{"one frozen block, ms an image": [f"{1000 * s:.1f}" for s in frame["seconds"]],
                           "against 197 tokens": [f"{s / base:.2f} x" for s in frame["seconds"]]}).drop(columns="seconds")


def forward_operations(backbone: sk.Backbone) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        backbone.features(torch.rand(1, 3, 224, 224))
    return counter.get_total_flops()


def images_read(size: tuple[int, int] = (800, 600)) -> tuple[float, float]:
    """Images a second that one core decodes and crops for training, and the kB of the JPEG that it was tried on."""
    views, threads = sk.Config.preset("inat2018").views, torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        picture(*size).save(path, quality=90)

        def view(seed: int) -> object:
            return photos.train_views(path, 224, (crop,), views, torch.Generator().manual_seed(seed))

        seconds = best(lambda: [view(n) for n in range(20)]) / 20
        kilobytes = path.stat().st_size / 1e3
    torch.set_num_threads(threads)
    return 1 / seconds, kilobytes


PAGE = """# How cost grows

Written by `python benchmarks/growth.py` on {date}. Times are of this machine's CPU ({threads} threads, float32, random
weights, ViT-B/16); they show how cost grows, not what a GPU needs. **Nothing here was measured on a GPU**; what is
extrapolated says so.

## With classes (measured)

{classes}

Everything of the head grows in proportion to the classes, but is small beside the {forward:.0f} billion operations of one
frozen forward. Above {all:,} classes an image's stored predictions keep its {kept} likeliest classes and the true one:
for iNaturalist 2018's {test:,} test images {few:.0f} MB in place of {full:,.0f} MB. The guidance is one vector whatever
the number of classes. A class's 60 prompts take {texts:.1f} s here (padded to CLIP's 77 tokens they would take {padded:.1f} s);
they are encoded once and kept for all runs.

## With tokens (measured)

{tokens}

Attention's part grows with the square of the tokens, all the rest in proportion.

## With blocks and images

Cost is proportional to both: every block costs the same but the first and the last, which are cheaper (block 1 is shared
by the frozen and the tuned branch up to its adapter; only the CLS token leaves the last). {forward_note}

## With devices, and iNaturalist 2018 on H200s (extrapolated)

A Sage step costs about three forwards an image: tuned, frozen, and the backward pass through the tuned branch, which
needs no weight gradients of the frozen weights. {images:,} training images x {epochs} epochs x 3 x {forward:.1f}e9
operations = {total:.1e}.

| devices | seconds for the arithmetic (extrapolated) | images a second that must be read | cores for reading (extrapolated) |
| --- | --- | --- | --- |
{devices}

Assumed: {rate:.0f}e12 operations a second (NVIDIA's figure for bf16), of which {share:.0%} are reached (a goal), perfect
scaling over devices, and images of 800 x 600 px, of which one core of this machine decodes and crops {read:.0f} a second
(measured on a made-up JPEG of {kilobytes:.0f} kB). Gradients of one step are {gradients:.0f} MB (float32), to be summed
over devices. With fewer cores than that the reading decides how long a run takes, and the run says so (`waiting` in
`history.csv`).
"""


def main() -> None:
    torch.manual_seed(0)
    backbone = load_backbone(sk.Config.preset("inat2018", pretrained="random").network)
    forward, (read, kilobytes) = forward_operations(backbone), images_read()
    total = IMAGES * EPOCHS * 3 * forward
    r = default_bottleneck(8142, backbone.layers)
    parameters = backbone.layers * counting.block_parameters("SG-Adapter", backbone.width, r) + 8142 * backbone.width
    lines = []
    for devices in (1, 8):
        seconds = total / (H200 * SHARE * devices)
        needed = IMAGES * EPOCHS / seconds
        lines.append(f"| {devices} H200 | {seconds:,.0f} | {needed:,.0f} | {needed / read:,.0f} |")
    prompts = backbone.tokenizer(fill(TEMPLATES, "thing"))
    with torch.inference_mode():
        padded = best(lambda: cast(Any, backbone.clip).encode_text(prompts), 2)
    texts = best(lambda: backbone.text_features(["thing"], TEMPLATES), 2)
    note = (f"ViT-B/16 has {backbone.layers} blocks and {forward / 1e9:.1f} billion operations a forward at 224 px (counted by "
            "torch).")
    write_text(Path("docs/growth.md"), PAGE.format(
        date=date.today(), threads=torch.get_num_threads(), classes=markdown(by_classes(backbone)), forward=forward / 1e9,
        texts=texts, padded=padded,
        all=ALL, kept=KEPT, test=TEST, few=TEST * (KEPT * 10 + 4) / 1e6, full=TEST * 8142 * 6 / 1e6,
        tokens=markdown(by_tokens(backbone)), forward_note=note, images=IMAGES, epochs=EPOCHS, total=total,
        devices="\n".join(lines), rate=H200 / 1e12, share=SHARE, read=read, kilobytes=kilobytes,
        gradients=4 * parameters / 1e6))
    print(Path("docs/growth.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
