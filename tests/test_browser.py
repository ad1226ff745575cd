"""The dashboard end to end in a real headless Chromium; screenshots of all pages go to build/screenshots."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import small
from PIL import Image

import sagekit as sk
from sagekit.plots import browser as browser_path

served = pytest.importorskip("served")
playwright = pytest.importorskip("playwright.sync_api")

SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
PAGES = ("", "overview", "compare", "measures", "images", "what_if", "embeddings", "sweeps", "training", "paper")
DONE = served.DONE
KNOWN = "the server responded with a status of 404"
"""Streamlit looks for its health page below every page's own address first, and then at the top."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    browser_path() is None, reason="no Chromium on this machine (Debian: apt install chromium)")]


@pytest.fixture(scope="module")
def address(runs, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    for name in ("zero_shot", "lift", "sage"):
        shutil.copytree(runs[name].path, folder / name)
    sk.train(small("scratch"), folder / "scratch", data=data, show=False)
    shutil.copytree(runs["sage"].path, folder / "stopped")
    (folder / "stopped" / "metrics.json").unlink()
    (folder / "fig8-mini").mkdir()
    lines = [f"gamma={g},{s},p,,finished,mini world,True,{80 + g},{80 + g},{81 + s},79,{78 + s}"
             for g in (0.1, 0.2, 0.3) for s in (0, 1)]
    (folder / "fig8-mini" / "results.csv").write_text("\n".join([
        "row,seed,path,error,status,data,balanced,mean,all,head,medium,tail", *lines,
        "gamma=0.4,0,p,UserError: nan,failed,,,,,,,"]))
    with served.served(folder) as where:
        yield where


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A tab at 1280 x 800 that fails the test when its console shows an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab, errors = context.new_page(), []
    tab.set_default_timeout(60_000)
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" and KNOWN not in m.text else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    yield tab
    context.close()
    assert errors == []


def visit(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("h1")
    page.wait_for_selector(DONE)


def shot(page, name: str) -> None:
    """A picture of the whole page."""
    tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": min(int(tall) + 40, 4000)})
    page.wait_for_timeout(500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_loads(page, address, name):
    visit(page, f"{address}/{name}")
    assert page.locator('[data-testid="stException"]').count() == 0
    assert page.locator('[data-testid="stAlertContentError"]').count() == 0
    assert page.get_by_text("Page not found").count() == 0
    if name not in ("paper", "training"):
        page.wait_for_selector(".js-plotly-plot .main-svg, .vega-embed canvas, .vega-embed svg")
    shot(page, name or "home")
    wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth - "
                         "document.querySelector('[data-testid=stMain]').clientWidth")
    assert wide <= 0  # nothing runs out of the page


def metrics(page) -> list[str]:
    page.wait_for_selector('[data-testid="stMetricValue"]')
    return page.locator('[data-testid="stMetricValue"]').all_inner_texts()


def test_a_slider_moves_the_numbers_and_the_address(page, address):
    visit(page, f"{address}/what_if?run=sage")
    before = metrics(page)
    slider = page.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("End")  # one move: several would leave numbers in between to be read
    page.wait_for_function("before => [...document.querySelectorAll('[data-testid=stMetricValue]')].map(m => m.innerText)"
                           ".join() != before.join()", arg=before)
    page.wait_for_selector(DONE)
    page.wait_for_function("location.search.includes('tau=')")
    moved, link = metrics(page), page.url
    visit(page, link)  # the address is the view
    page.wait_for_function("after => document.querySelector('[data-testid=stMetricValue]').innerText == after", arg=moved[0])
    assert metrics(page) == moved


def test_a_shared_link_opens_the_view(page, address):
    visit(page, f"{address}/compare?runs=zero_shot&runs=sage&groups=counts+at+ratio+100")
    page.get_by_role("heading", name="sage minus zero_shot, class by class").wait_for()


def test_the_overview_opens_by_its_own_address(page, address):
    """With all that stands in the link, and marked in the menu as when one comes by the menu."""
    visit(page, f"{address}/overview?folder=runs&methods=sage&methods=lift&words=s")
    page.get_by_role("heading", name="Overview").wait_for()
    page.wait_for_function("!location.pathname.includes('overview')")
    page.wait_for_selector(DONE)
    name = page.get_by_label("Name holds")
    playwright.expect(name).to_have_value("s", timeout=60_000)  # the browser fills it in after the script has ended
    assert page.get_by_text("Page not found").count() == 0
    assert all(part in page.url for part in ("methods=sage", "methods=lift", "words=s"))
    marked = page.locator('[data-testid="stSidebarNavLink"][aria-current="page"]')
    playwright.expect(marked).to_have_text(["Overview"], timeout=60_000)


def test_runs_of_other_sizes_stand_beside_each_other(page, address):
    visit(page, f"{address}/images?first=scratch&second=sage")
    page.get_by_text("scratch has no attention maps").wait_for()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg .gtitle').length == 2")
    shot(page, "sizes")


def test_a_method_says_what_it_does(page, address):
    visit(page, f"{address}/paper?table=1:+CIFAR-100-LT&method=BBN")
    page.get_by_text("--method bbn").wait_for()
    shot(page, "method")


def test_methods_over_seeds(page, address):
    visit(page, f"{address}/compare?what=methods+over+seeds")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    shot(page, "seeds")


def test_an_upload_is_predicted_and_a_bad_one_refused(page, address, tmp_path):
    visit(page, f"{address}/images?images=my+own")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 70, 3), dtype=np.uint8)).save(tmp_path / "mine.png")
    (tmp_path / "fake.png").write_bytes(b"<svg onload=alert(1)>")
    page.locator('input[type="file"]').set_input_files(tmp_path / "mine.png")
    page.get_by_text("Five likeliest of the run's own classes").wait_for()
    page.locator('input[type="file"]').set_input_files(tmp_path / "fake.png")
    page.get_by_text("fake.png is damaged or not an image").wait_for()


def test_a_point_shows_its_image(page, address):
    visit(page, f"{address}/embeddings?run=sage")
    chart = page.locator(".vega-embed").first
    chart.wait_for()
    box = chart.bounding_box()
    for step in range(400):  # over the cloud until a point is met
        across, down = 0.2 + 0.03 * (step % 20), 0.2 + 0.025 * (step // 20)
        page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
        if page.locator("#vg-tooltip-element.visible img").count():
            break
    assert page.locator("#vg-tooltip-element.visible img").first.get_attribute("src").startswith("data:image/jpeg")
    page.screenshot(path=SHOTS / "hover.png")


def test_figures_and_tables_download(page, address, tmp_path):
    visit(page, f"{address}/?folder=runs")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.wait_for_selector(DONE)
    for kind, start in (("CSV", "run,method,seed"), ("SVG", "<svg")):
        with page.expect_download() as waiting:
            page.locator('[data-testid="stDownloadButton"] button', has_text=kind).first.click()
        waiting.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_text().startswith(start)
