import io
import os

import pandas as pd
import pytest
import torch
from conftest import SMALL, small
from tqdm import tqdm

from sagekit import Config, Run, UserError
from sagekit.config import PARTS
from sagekit.methods.lift import Lift
from sagekit.settings import DataSettings
from sagekit.studies import sweep
from sagekit.studies.sweep import Point, best, best_line, grid, over_seeds, read_grid, results, run_points

TINY = {"largest_class": 6, "imbalance_ratio": 2.0, "test_per_class": 2}


def tiny(**changes):
    return small("lift", **{**TINY, **changes})


def test_a_point_is_its_configuration():
    a, b = Point("x", small()), Point("another name", small())
    assert a.name == b.name
    assert Point("x", small(seed=1)).name != a.name
    assert Point("x", small(lr=0.5)).name != a.name
    assert Point("x", small(device="cpu", workers=0)).name == a.name  # where it runs does not matter
    assert Point("x", small("lift")).name != Point("x", small("classifier")).name


def test_a_new_setting_with_a_default_renames_no_point(monkeypatch):
    before = Point("x", small("lift")).name

    class Later(Lift.Settings):
        something: float = 0.5

    class LaterData(DataSettings):
        something_else: bool = False

    monkeypatch.setattr(Lift, "Settings", Later)
    monkeypatch.setitem(PARTS, "data", LaterData)
    assert small("lift").flat["something"] == 0.5
    assert Point("x", small("lift")).name == before
    assert Point("x", small("lift", something=1.0)).name != before


def test_a_mended_method_renames_its_points(monkeypatch):
    before, other = Point("x", small("lift")).name, Point("x", small("sage")).name
    monkeypatch.setattr(Lift, "version", Lift.version + 1)
    assert Point("x", small("lift")).name != before
    assert Point("x", small("sage")).name == other


def test_grid_is_every_combination():
    rows = grid(small(), {"gamma": [0.0, 0.1], "alpha": [0.1, 0.5, 0.9]})
    assert len(rows) == 6
    assert rows["gamma=0.1, alpha=0.5"].settings.gamma == 0.1
    assert len(over_seeds(rows, 2)) == 12


def test_points_are_trained_once(tmp_path):
    points = over_seeds({"a": tiny(), "b": tiny(lr=0.02), "a again": tiny()}, 1)
    frame = run_points(points, tmp_path, show=False)
    assert frame["status"].tolist() == ["finished"] * 3
    assert len(list(tmp_path.iterdir())) == 2
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")}
    pd.testing.assert_frame_equal(run_points(points, tmp_path, show=False), frame)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")} == before


@pytest.mark.slow
def test_workers_do_not_change_results(tmp_path):
    points = over_seeds({"a": tiny(), "b": tiny(lr=0.02)}, 1)
    one, two = (run_points(points, tmp_path / str(w), workers=w, show=False) for w in (1, 2))
    assert one["all"].tolist() == pytest.approx(two["all"].tolist(), abs=1.1)  # threads: last bits


@pytest.mark.slow
def test_a_failed_point_is_recorded_and_can_be_tried_again(tmp_path):
    points = [Point("good", tiny()), Point("bad", tiny(lr=1e12))]
    frame = run_points(points, tmp_path, show=False)
    assert frame["status"].tolist() == ["finished", "failed"]
    assert "diverged" in frame["error"].iloc[1]
    error = tmp_path / points[1].name / "error.txt"
    written = error.stat().st_mtime_ns
    run_points(points, tmp_path, show=False)
    assert error.stat().st_mtime_ns == written
    run_points(points, tmp_path, retry_failed=True, show=False)
    assert error.stat().st_mtime_ns > written


def test_the_caller_s_threads_stay_as_they_were(tmp_path):
    before = torch.get_num_threads()
    run_points([Point("a", tiny(epochs=0))], tmp_path, workers=1, show=False)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_progress_counts_what_is_on_disk(tmp_path, monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sweep, "bar", lambda total, what, show: tqdm(total=total, file=text))
    run_points([Point("good", tiny()), Point("bad", tiny(lr=1e12))], tmp_path, workers=1)
    assert "2/2" in text.getvalue()


def test_a_network_from_scratch_is_a_point_like_any(tmp_path):
    config = Config.preset("mini", "scratch", **{**SMALL, **TINY})
    assert run_points([Point("CE", config)], tmp_path, show=False)["status"].tolist() == ["finished"]


def test_open_points_are_listed(tmp_path):
    assert results([Point("a", tiny())], tmp_path)["status"].tolist() == ["open"]


@pytest.mark.slow
def test_a_killed_sweep_continues(tmp_path):
    """What a kill leaves behind: one finished point, one with a state; both end up finished, the first untouched."""
    points = over_seeds({"a": tiny(), "b": tiny(lr=0.02)}, 1)
    run_points(points[:1], tmp_path, show=False)
    Run(tmp_path / points[1].name).write_config(points[1].config)
    assert run_points(points, tmp_path, show=False)["status"].tolist() == ["finished", "finished"]


@pytest.mark.slow
def test_a_real_local_dask_cluster_trains_the_points(tmp_path, monkeypatch):
    from distributed import LocalCluster

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.setenv(name, "")  # Dask writes these into this process; the later tests' processes would inherit them
        monkeypatch.delenv(name)
    points = over_seeds({"a": tiny(), "b": tiny(lr=0.02)}, 1)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        frame = run_points(points, tmp_path, workers=2, backend="dask", show=False)
    assert frame["status"].tolist() == ["finished", "finished"], frame["error"].tolist()


def test_unknown_backend(tmp_path):
    with pytest.raises(UserError, match="no back end 'moon'"):
        run_points([Point("a", tiny())], tmp_path, backend="moon", show=False)


def test_a_grid_is_read_from_yaml(tmp_path):
    (tmp_path / "s.yaml").write_text("method: lift\nseeds: 2\nset: {epochs: 1}\ngrid:\n  lr: [0.1, 0.2]\n")
    rows, seeds = read_grid(tmp_path / "s.yaml")
    assert (list(rows), seeds) == (["lr=0.1", "lr=0.2"], 2)
    assert rows["lr=0.2"].method == "lift"


@pytest.mark.parametrize(("text", "message"), [
    ("method: lift", "needs 'grid:'"),
    ("grid: {lr: 0.1}", "must be a list"),
    ("grid: {lr: [0.1]}\nseed: 3", "Did you mean 'seeds'"),
    ("grid: {lr: [0.1]}\nseeds: zero", "'seeds' is 'zero'"),
    ("grid: {lrr: [0.1]}", "no setting 'lrr'"),
    ("grid: {1: [0.1]}", "no setting '1'"),
    ("grid: {method: [lift, sage]}", "'method' is no setting"),
    ("grid: {lr: [0.1]}\nset: {method: lift}", "'method' is no setting"),
    ("grid: {lr: [0.1]}\nset: {name: mini}", "no setting 'name'"),
    ("grid: {lr: [0.1]}\nset: 3", "'set' must be settings"),
    ("grid: {lr: [0.1]}\nmethod: [lift, sage]", "'method' must be one name"),
    ("grid: {alpha: [0.1]}\nmethod: lift", "'alpha' is a setting of sage, not of lift"),
    ("grid: [", "cannot read the sweep"),
])
def test_bad_sweeps_are_one_line(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_grid(tmp_path / "s.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_dask_s_own_local_workers_leave_the_environment_alone(tmp_path):
    before = dict(os.environ)
    frame = run_points([Point("a", tiny()), Point("b", tiny(lr=0.02))], tmp_path, workers=2, backend="dask", show=False)
    assert frame["status"].tolist() == ["finished", "finished"], frame["error"].tolist()
    assert dict(os.environ) == before


def frame_of(*rows):
    return pd.DataFrame(rows, columns=["row", "seed", "status", "mean", "val"])


def test_the_best_row_is_chosen_on_validation_and_reported_on_test():
    frame = frame_of(("a", 0, "finished", 90.0, 60.0), ("a", 1, "finished", 90.0, 70.0), ("b", 0, "finished", 80.0, 66.0),
                     ("b", 1, "finished", 70.0, 66.0))
    assert best(frame) == ("b", "val")
    assert best_line(frame) == "Best by validation images: b (val 66.0 %, test 75.0 %)"


def test_without_validation_images_the_choice_says_that_it_flatters():
    frame = frame_of(("a", 0, "finished", 80.0, None), ("b", 0, "finished", 90.0, None)).astype({"val": float})
    for given in (frame, frame.drop(columns="val")):
        assert best(given) == ("b", "test")
        assert best_line(given).startswith("No validation images: b is the best on the test images, so its number flatters it "
                                           "(chosen on the test images")


def test_a_row_with_fewer_finished_seeds_does_not_win():
    frame = frame_of(("lucky", 0, "finished", 99.0, 99.0), ("lucky", 1, "failed", None, None), ("a", 0, "finished", 80.0, 60.0),
                     ("a", 1, "finished", 80.0, 60.0))
    assert best(frame)[0] == "a"
    with pytest.raises(UserError, match="no run is finished"):
        best(frame[frame["status"] == "failed"])


def test_results_hold_the_mean_over_classes_on_validation(tmp_path):
    points = [Point("a", tiny()), Point("none", tiny(seed=1))]
    run_points(points, tmp_path, show=False)
    (tmp_path / points[1].name / "metrics-val.json").unlink()
    frame = results(points, tmp_path).set_index("row")
    assert (frame["status"] == "finished").all()
    stored = Run(frame.loc["a", "path"]).predictions(split="val")
    classes = [stored.correct[stored.labels == c].mean() for c in range(48)]
    assert frame.loc["a", "val"] == pytest.approx(100 * sum(classes) / 48)
    assert pd.isna(frame.loc["none", "val"])
