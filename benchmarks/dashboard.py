"""How fast the dashboard answers: 200 synthetic runs of CIFAR-100-LT's size, in a real headless Chromium.

    python benchmarks/dashboard.py

Made-up logits of 10,000 images x 100 classes (z, z_v, z_t). All runs share one predictions.npz (hard links); their metrics
differ.
Times are wall clock in the browser, from the click or key to the changed page. "cold": the first page that a new server makes,
with all imports.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import markdown
from playwright.sync_api import Page, sync_playwright

import sagekit as sk
from sagekit import Config, Run
from sagekit.data.longtail import groups, profile
from sagekit.plots import browser
from sagekit.runs.metrics import measure
from sagekit.runs.predictions import Predictions

sys.path.insert(0, str(Path(__file__).parents[1] / "dashboard"))
from served import DONE, served

RUNS, IMAGES, CLASSES = 200, 10_000, 100


def make_runs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    labels, counts = np.arange(IMAGES) % CLASSES, profile(CLASSES, 500, 100)
    z, z_v, z_t = (rng.normal(size=(IMAGES, CLASSES)).astype(np.float32) + 3 * np.eye(CLASSES, dtype=np.float32)[labels]
                   for _ in range(3))
    by = {"own": groups(counts), "beta100": groups(counts)}
    for number in range(RUNS):
        method = ("lift", "sage")[number % 2]
        run = Run(folder / f"{method}-{number // 2:03d}")
        run.path.mkdir(parents=True)
        run.write_config(Config.preset("cifar100-lt-100", method, seed=number // 2))
        part = rng.integers(0, IMAGES, IMAGES // 10)  # other metrics for each run
        results = measure(Predictions(labels[part], z[part], None, None, 0.0, 0.0), CLASSES, by)
        run.write_metrics({"data": "CIFAR-100-LT (made up)", "mini_world": False, "test_images": IMAGES,
                           "class_names": [f"class {c}" for c in range(CLASSES)], "class_counts": counts.tolist(),
                           "groups": {name: {group: c.tolist() for group, c in of.items()} for name, of in by.items()},
                           "test_digest": "made up", "thresholds": [100, 20],
                           "prompt_names": [f"class {c}" for c in range(CLASSES)],
                           "trainable_parameters": {"net": 7_299_240, "head": 76_800, "s_v": 1, "s_t": 1},
                           "train_seconds": 600.0, "precision": "bf16", "folded": False,
                           "versions": {"sagekit": sk.__version__, "method": 1, "torch": torch.__version__},
                           "results": {"single": results}})
        first = folder / "lift-000" / "predictions.npz"
        if number:
            os.link(first, run.path / "predictions.npz")
        else:
            run.write_predictions({"single": Predictions(labels, z, z_v, z_t, 0.1, 0.1)})


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def overview(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text("finished").first.wait_for()
    page.wait_for_selector('[data-testid="stDataFrame"] canvas')
    page.wait_for_selector(".js-plotly-plot .main-svg")


def compare(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text("class by class").wait_for()


def changed(page: Page, selector: str, action: Callable[[], object]) -> None:
    """Until the text of ``selector`` is another one."""
    before = page.locator(selector).first.text_content()
    action()
    page.wait_for_function("([s, before]) => document.querySelector(s)?.textContent != before",
                           arg=[selector, before])


def settled(page: Page) -> None:
    page.wait_for_selector(DONE)
    page.wait_for_timeout(1500)


def main() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as started:
        make_runs(Path(place) / "runs")
        chromium = started.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        with served(Path(place) / "runs") as address:
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(60_000)
            rows["overview, cold"] = timed(lambda: overview(page, address))
            rows["overview, another visitor"] = timed(lambda: overview(chromium.new_page(), address))
            settled(page)
            words = page.get_by_label("Name holds")
            words.fill("sage-01")
            note = '[data-testid="stPlotlyChart"] .legend'
            rows["overview, filter by name"] = timed(lambda: changed(page, note, lambda: words.press("Enter")))
            page.goto(f"{address}/what_if")
            page.wait_for_selector('[data-testid="stMetricValue"]')
            settled(page)
            for name, label in (("what if, tau", "tau"), ("what if, s_1", "s_1")):
                slider = page.get_by_role("slider", name=label)
                slider.focus()
                keys = [timed(lambda: changed(page, '[data-testid="stMetricValue"]', lambda: page.keyboard.press("PageUp")))
                        for _ in range(5)]
                rows[name] = float(np.median(keys))
            rows["compare, two runs"] = timed(lambda: compare(page, f"{address}/compare?runs=lift-003&runs=sage-003"))
        chromium.close()
    print(markdown(pd.DataFrame([{"": name, "seconds": f"{seconds:.2f}"} for name, seconds in rows.items()])))


if __name__ == "__main__":
    main()
