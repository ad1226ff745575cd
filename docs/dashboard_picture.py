"""Draws docs/dashboard.png: the compare page on the demo's runs (make demo first; needs Chromium)."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "dashboard"))
from served import ROOT, served

from sagekit.plots import browser

with served(ROOT / "runs") as address, sync_playwright() as started:
    chromium = started.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/compare?runs=demo-lift-0&runs=demo-sage-0")
    page.get_by_text("class by class").wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    page.screenshot(path=Path(__file__).with_name("dashboard.png"))
    chromium.close()
