"""Every page with no, one and many runs and with broken ones, without a browser."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import plotly.io as pio
import psutil
import pytest
from conftest import small
from streamlit.testing.v1 import AppTest

import sagekit as sk
from sagekit import Run, paper
from sagekit.methods._about import card
from sagekit.runs.predictions import reduced

APP = Path(__file__).parents[1] / "dashboard" / "app.py"
PAGES = ("overview", "compare", "measures", "images", "what_if", "embeddings", "sweeps", "training", "paper")


def opened(page: str, **link: str | list[str]) -> AppTest:
    """A page after its first run; ``link`` are the address's parameters."""
    app = AppTest.from_file(str(APP), default_timeout=120)
    if page != "overview":
        app.switch_page(f"{page}.py")
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def shown(app: AppTest) -> str:
    """All prose of a page."""
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.code]
    return "\n".join(str(part.value) for part in parts)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    path = tmp_path / "mine"
    monkeypatch.setenv("SAGEKIT_RUNS", str(path))
    return path


@pytest.fixture
def many(folder, runs):
    """Three finished runs, a broken, an unfinished and a failed one, and a sweep with a failed point."""
    for name in ("zero_shot", "lift", "sage"):
        shutil.copytree(runs[name].path, folder / name)
    shutil.copytree(runs["sage"].path, folder / "broken")
    (folder / "broken" / "metrics.json").write_text('{"results": ')
    for name in ("stopped", "failed"):
        shutil.copytree(runs["sage"].path, folder / name)
        (folder / name / "metrics.json").unlink()
    (folder / "failed" / "error.txt").write_text("UserError: the loss is nan")
    (folder / "fig8-mini").mkdir()
    header, point = "row,seed,path,error,status,data,balanced,mean,all,head,medium,tail\n", "mini world,True,80,80,,81,79\n"
    (folder / "fig8-mini" / "results.csv").write_text(
        header + "".join(f"{row},{seed},p,,finished,{point}" for row in ("preset", "gamma=0.1", "gamma=0.2") for seed in (0, 1))
        + "gamma=0.3,0,p,UserError: diverged,failed,,,,,,,\n")
    (folder / "pairs").mkdir()
    (folder / "pairs" / "results.csv").write_text(
        header + "".join(f'"gamma={a}, mu={b}",0,p,,finished,{point}' for a in (0.1, 0.2) for b in (0.5, 1)))
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory, data):
    """A run of a network that sees 24 pixels and has no attention."""
    return sk.train(small("scratch"), tmp_path_factory.mktemp("scratch") / "scratch", data=data, show=False)


@pytest.mark.parametrize("page", PAGES)
def test_pages_without_runs(page):
    app = opened(page)
    assert not app.exception
    assert not app.error
    assert app.title[0].value


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_pages_with_one_run(page, folder, runs):
    shutil.copytree(runs["sage"].path, folder / "only")
    app = opened(page)
    assert not app.exception
    assert not app.error


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_pages_with_many_runs_and_broken_ones(page, many):
    app = opened(page)
    assert not app.exception
    assert not app.error


def test_the_overview_lists_all_and_says_what_is_broken(many):
    app = opened("overview")
    tables = [table.value for table in app.dataframe]
    assert tables[0]["run"].tolist() == ["lift", "sage", "zero_shot"]
    assert tables[0]["mean_interval"].str.fullmatch(r"\d+\.\d-\d+\.\d").all()
    assert tables[1]["run"].tolist() == ["broken"]
    assert "damaged" in tables[1]["problem"].iloc[0]
    assert tables[2].set_index("run")["problem"].to_dict() == {"failed": "UserError: the loss is nan", "stopped": ""}
    assert "192 test images" in shown(app)
    assert "Mini-world numbers" in shown(app)


def test_the_overview_filters(many):
    app = opened("overview", methods=["sage", "lift"], words="sa")
    assert app.dataframe[0].value["run"].tolist() == ["sage"]


def test_without_runs_a_button_trains_the_demo(folder):
    app = opened("overview")
    app.button[0].click().run()
    assert not app.exception
    child = next(p for p in psutil.Process().children() if "demo" in p.cmdline())
    assert str(folder) in child.cmdline()
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:  # ended, and left for the dashboard to notice
        time.sleep(0.05)
    app.run()
    assert "did not finish" in app.error[0].value
    assert [b.label for b in app.button] == ["Go on with the demo runs"]


def test_compare_shows_the_paired_test(many):
    app = opened("compare", runs=["zero_shot", "sage"])
    table = app.dataframe[0].value
    assert table["group"].tolist() == ["mean", "medium", "tail"]
    assert table["images"].iloc[0] == 192
    assert "sage minus zero_shot, class by class" in shown(app)
    drawn = pio.from_json(app.get("plotly_chart")[1].proto.spec)
    assert drawn.layout.yaxis.ticktext == ("sage",)  # a group without images hides no other


def test_compare_refuses_other_test_sets_with_the_reason(many):
    path = many / "sage" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["class_names"][0] = "another"
    path.write_text(json.dumps(metrics))
    app = opened("compare", runs=["lift", "sage"])
    assert not app.exception
    assert "cannot be compared: other classes" in app.error[0].value


def test_compare_methods_over_seeds(many, runs):
    for method in ("lift", "sage"):
        shutil.copytree(runs[method].path, many / f"{method}-1")
        path = many / f"{method}-1" / "config.yaml"
        path.write_text(path.read_text().replace("\nseed: 0", "\nseed: 1"))
    app = opened("compare", what="methods over seeds")
    assert not app.exception
    assert not app.error
    assert "2 seed(s) in both" in shown(app)
    assert app.dataframe[0].value["group"].tolist() == ["mean", "head", "medium", "tail"]


def test_a_seed_that_is_there_twice_counts_once(many, runs):
    """In the label and in the page's numbers."""
    for method in ("lift", "sage"):
        shutil.copytree(runs[method].path, many / f"{method}-again")
    app = opened("compare", what="methods over seeds")
    assert not app.exception
    assert not app.error
    labels = app.selectbox(key="first_method").options
    assert [label.rpartition(" (")[2] for label in labels] == ["1 seed)"] * 3
    app.selectbox(key="first_method").set_value(next(label for label in labels if "lift" in label))
    app.selectbox(key="second_method").set_value(next(label for label in labels if "sage" in label)).run()
    assert "1 seed(s) in both. 2 run(s) repeat a seed" in shown(app)
    alone = opened("compare", runs=["lift", "sage"]).dataframe[0].value.set_index("group")["difference"]
    found = app.dataframe[0].value.set_index("group")["difference"].dropna()
    assert found.to_dict() == pytest.approx(alone.to_dict())


def test_compare_says_which_test_a_p_is_of(many):
    """The words of ``sagekit.runs.compare``."""
    app = opened("compare", runs=["zero_shot", "sage"])
    for table in (app.dataframe[0], app.dataframe[1]):
        columns = json.loads(table.proto.columns)
        assert (columns["p"]["label"], columns["p_holm"]["label"]) == ("p", "p (Holm)")
    assert set(app.dataframe[0].value["test"]) == {"exact McNemar"}
    assert "Holm: corrected for the groups of one run" in shown(app)
    assert "Holm: corrected for all 48 classes" in shown(app)


def test_images_that_one_run_gets_right_and_the_other_wrong(many):
    app = opened("images", first="zero_shot", second="sage", show="only sage is right")
    table = next(t.value for t in app.dataframe if "true class" in t.value)
    assert table["sage"].str.startswith("✓").all()
    assert table["zero_shot"].str.startswith("✗").all()
    measured = next(t.value for t in app.dataframe if "model" in t.value).set_index("model")["on the object (%)"]
    assert measured.index.tolist() == ["zero-shot (frozen)", "sage", "spread evenly"]
    assert measured.between(0, 100).all()


@pytest.mark.parametrize("order", [("scratch", "sage"), ("sage", "scratch")])
def test_runs_that_see_other_sizes_each_get_their_own_view(many, scratch, order):
    """A network without attention says so in one line, beside the others."""
    shutil.copytree(scratch.path, many / "scratch")
    app = opened("images", first=order[0], second=order[1])
    assert not app.exception
    assert not app.error
    (line,) = (caption.value for caption in app.caption if "attention maps" in caption.value)
    assert line.startswith("scratch has no attention maps: ")
    titles = [json.loads(figure.proto.spec)["layout"]["title"]["text"] for figure in app.get("plotly_chart")]
    assert sorted(titles) == ["CLS attention, block 6, mean of heads", "Seen by scratch: 24 pixels"]
    measured = next(t.value for t in app.dataframe if "model" in t.value)["model"].tolist()
    assert measured == ["zero-shot (frozen)", "sage", "spread evenly"]
    table = next(t.value for t in app.dataframe if "true class" in t.value)
    assert {"scratch", "sage"} < set(table.columns)


def test_a_view_that_differs_is_a_figure_of_its_own(many):
    path = many / "lift" / "config.yaml"
    path.write_text(path.read_text().replace("test_resize: 48", "test_resize: 60"))
    app = opened("images", first="lift", second="sage", block="3")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2
    assert [slider.value for slider in app.select_slider] == [3, 6]


def test_only_networks_from_scratch(folder, scratch):
    shutil.copytree(scratch.path, folder / "scratch")
    app = opened("images")
    assert not app.exception
    assert not app.error
    assert "scratch has no attention maps" in shown(app)
    assert "needs a run that fine-tunes a CLIP" in opened("embeddings").info[0].value


def test_images_of_a_class_block_and_head_by_link(many):
    app = opened("images", **{"class": "plain star", "block": "2", "head": "3"})
    table = next(t.value for t in app.dataframe if "true class" in t.value)
    assert set(table["true class"]) == {"plain star"}
    assert app.select_slider[0].value == 2


def test_what_if_moves_with_the_slider(many):
    app = opened("what_if", run="sage")
    before = {metric.label: metric.value for metric in app.metric}
    app.slider(key="tau").set_value(1.5).run()
    after = {metric.label: metric.value for metric in app.metric}
    assert before.keys() == after.keys()
    assert before != after
    assert opened("what_if", run="sage", tau="1.5").metric[0].value == after["mean, top-1"]
    app.slider(key="tau").set_value(0.0).run()
    app.slider(key="s2").set_value(3.0).run()
    assert {metric.label: metric.value for metric in app.metric} != before


def test_what_if_at_the_trained_point_is_what_was_measured(many, runs):
    app = opened("what_if", run="sage")
    assert app.metric[0].value == f"{100 * runs['sage'].metrics['results']['single']['all']['accuracy']:.1f} %"
    assert {metric.delta for metric in app.metric} <= {"+0.0 points", "+nan points"}


def test_what_if_says_what_a_tau_was_chosen_on(many):
    """Validation images where there are some; else it says that the test images chose."""
    app = opened("what_if", run="sage")
    assert "Validation picks tau = " in shown(app)
    for file in (many / "sage").glob("*-val.*"):
        file.unlink()
    app = opened("what_if", run="sage")
    assert "chosen on the test images" in shown(app)
    assert "Validation picks" not in shown(app)


def test_measures_lists_them_all_and_fits_a_temperature(many, runs):
    app = opened("measures", runs=["lift", "sage"])
    assert not app.exception
    table = app.dataframe[0].value.set_index("run")
    result = runs["sage"].metrics["results"]["single"]
    assert table.loc["sage", "mean"] == pytest.approx(100 * result["mean"]["accuracy"])
    assert table.loc["sage", "calibration_error"] == pytest.approx(100 * result["calibration_error"])
    assert "was fitted on the validation images" in shown(app)
    lines = [trace.name for trace in pio.from_json(app.get("plotly_chart")[0].proto.spec).data]
    assert lines[:2] == ["calibrated", "as trained"]
    assert lines[2].startswith("T = ")
    for file in (many / "lift").glob("*-val.*"):
        file.unlink()
    app = opened("measures", runs=["lift", "sage"])
    assert "No temperature is fitted" in shown(app)


def test_measures_of_other_test_images_are_not_put_together(many):
    path = many / "sage" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test_digest": "another"}))
    assert "their test images differ" in opened("measures", runs=["lift", "sage"]).error[0].value


def test_only_groups_that_all_shown_runs_have_are_offered(many):
    path = many / "sage" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["groups"]["beta100"]
    path.write_text(json.dumps(metrics))
    for page, link, expected in (("what_if", {"run": "sage"}, 2), ("what_if", {"run": "lift"}, 3), ("overview", {}, 2)):
        app = opened(page, **link)
        assert not app.exception
        groups = next(control for control in app.get("button_group") if control.key == "groups")
        assert len(groups.options) == expected


def test_without_fit_there_are_no_scalars(many):
    app = opened("what_if", run="lift")
    assert [slider.key for slider in app.slider] == ["tau"]
    assert "no FIT" in shown(app)


def test_what_if_says_when_it_is_approximate(many):
    run = Run(many / "sage")
    run.write_predictions({"single": reduced(run.predictions(), 6)})
    app = opened("what_if", run="sage", tau="0.5")
    assert not app.exception
    assert "Approximate: each image has only 6 of 48 classes" in app.warning[0].value
    assert not opened("what_if", run="lift").warning


@pytest.mark.slow
def test_embeddings_measure_the_gap(many):
    app = opened("embeddings", run="sage")
    gaps = app.dataframe[0].value
    assert len(gaps) == 48
    assert gaps[["before", "after"]].to_numpy().min() >= 0


def test_sweeps_mark_what_failed(many):
    app = opened("sweeps", sweep="fig8-mini")
    points = app.dataframe[0].value.set_index("row")
    assert points.loc["gamma=0.3", ["seeds", "failed"]].tolist() == [0, 1]
    assert points.loc["gamma=0.1", "mean"] == 80
    assert app.dataframe[1].value["error"].tolist() == ["UserError: diverged"]
    assert "No validation images: preset is the best on the test images" in shown(app)


def test_sweeps_choose_on_validation(many):
    (many / "pairs" / "results.csv").write_text(
        "row,seed,path,error,status,data,mean,all,head,medium,tail,val\na=1,0,p,,finished,d,90,90,,90,90,60\n"
        "a=2,0,p,,finished,d,80,80,,80,80,70\n")
    app = opened("sweeps", sweep="pairs")
    assert not app.exception
    assert "Best by validation images: a=2 (val 70.0 %, test 80.0 %)." in shown(app)
    assert app.dataframe[0].value.set_index("row").loc["a=2", "val"] == 70


def test_two_settings_are_a_heat_map(many):
    app = opened("sweeps", sweep="pairs")
    assert not app.exception
    assert [control.key for control in app.get("button_group")] == ["group"]


def test_axes_and_their_grid_are_drawn_apart(many):
    """Rows of one setting are curves, rows of two a heat map, and a name that holds "tau = gamma" is a name."""
    head = "row,seed,path,error,status,data,mean,all,head,medium,tail\n"
    (many / "pairs" / "results.csv").write_text(
        head + "".join(f'"{row}",0,p,,finished,d,{90 + i},90,90,90,90\n' for i, row in enumerate(
            ("preset", "a=1", "a=2", "b=1", "b=2", "a=1, b=1", "a=1, b=2", "a=2, b=1", "a=2, b=2"))))
    app = opened("sweeps", sweep="pairs")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 3
    (many / "pairs" / "results.csv").write_text(head + '"CE + CF, tau = gamma",0,p,,finished,d,90,90,90,90,90\n'
                                                '"lambda_3 = 0",0,p,,finished,d,91,90,90,90,90\n')
    app = opened("sweeps", sweep="pairs")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 1
    assert app.dataframe[0].value["row"].tolist() == ["CE + CF, tau = gamma", "lambda_3 = 0"]


def test_a_damaged_sweep_is_one_line(many):
    (many / "pairs" / "results.csv").write_text("row\n")
    app = opened("sweeps", sweep="pairs")
    assert not app.exception
    assert "damaged" in app.error[0].value


def test_training_says_how_to_continue(many):
    app = opened("training", run="stopped")
    assert "sagekit train --resume --out" in shown(app)
    assert app.metric[0].value == "1 of 1"
    failed = opened("training", run="failed")
    assert any("the loss is nan" in warning.value for warning in failed.warning)


def test_the_paper_s_tables_can_be_searched(many):
    app = opened("paper", table="5: parts, CIFAR-100-LT", search="lift")
    assert app.dataframe[0].value["system"].tolist() == ["LIFT"] * 3
    assert "another thing" in shown(app)
    assert all(f"\n{n}. {finding.text}" in "\n" + shown(app) for n, finding in enumerate(paper.FINDINGS, 1))
    assert len(paper.FINDINGS) == 18
    assert "groups do not give" not in shown(app)  # every row of Table 5 fits


def test_what_is_doubtful_in_a_table_stands_below_it():
    app = opened("paper", table="2: Places-LT")
    assert "LPT (51.9; its groups give 51.57)" in shown(app)
    assert "- LPT: its README has 50.07" in shown(app)


@pytest.mark.slow
def test_a_system_of_the_paper_s_tables_says_what_it_does():
    app = opened("paper", table="1: CIFAR-100-LT")
    known = app.selectbox(key="method").options
    assert {"LIFT", "Sage", "BBN", "ProCo"} <= set(known) < set(paper.table(1)["system"])
    app.selectbox(key="method").set_value("BBN").run()
    assert not app.exception
    assert "`--method bbn`" in shown(app)
    assert card("bbn").splitlines()[0] in shown(app)
    assert opened("paper", table="7: other losses", method="CE").selectbox(key="method").value == "CE"
    assert "`--method scratch`" in shown(opened("paper", table="7: other losses", method="CE"))
    assert "method" not in [box.key for box in opened("paper", table="10: W_proj, CIFAR-100-LT").selectbox]


def test_runs_of_the_table_s_own_data_are_put_beside_it(many):
    path = many / "sage" / "config.yaml"
    path.write_text(path.read_text().replace("preset_name: mini", "preset_name: cifar100-lt-100"))
    app = opened("paper", table="5: parts, CIFAR-100-LT")
    assert app.dataframe[1].value["run"].tolist() == ["sage"]


@pytest.mark.slow
def test_folders_are_chosen_by_link_and_only_among_those_found(many, runs, tmp_path):
    shutil.copytree(runs["lift"].path, many / "points" / "inner")
    app = opened("overview", folder="mine/points")
    assert app.dataframe[0].value["run"].tolist() == ["inner"]
    shutil.copytree(runs["lift"].path, tmp_path / "outside" / "secret")
    for bad in ("mine/../outside", str(tmp_path / "outside"), "../outside"):
        app = opened("overview", folder=bad)
        assert not app.exception
        assert "secret" not in app.dataframe[0].value["run"].tolist()


def test_a_run_that_breaks_while_it_is_looked_at_is_one_line(many):
    app = opened("what_if", run="sage")
    (many / "sage" / "predictions.npz").write_bytes(b"PK")
    app.run()
    assert not app.exception
    assert app.selectbox(key="run").value != "sage"  # it is broken now, and no longer offered


@pytest.mark.slow
def test_the_runs_option_stands_after_two_dashes():
    """``streamlit run dashboard/app.py -- --runs DIR``: Streamlit hands on what stands after the dashes."""
    code = "import shared; print(shared.base())"
    command = [sys.executable, "-c", code, "--runs", "there"]
    found = subprocess.run(command, cwd=APP.parent, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "there"
