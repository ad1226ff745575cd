import pytest
from conftest import SMALL

from sagekit import UserError
from sagekit.studies.demo import METHODS, demo_runs, progress


@pytest.mark.slow
def test_the_three_runs_are_trained_once(tmp_path):
    runs = demo_runs(tmp_path, seed=3, **SMALL)
    assert tuple(runs) == METHODS
    assert runs["lift"].path == tmp_path / "demo-lift-3"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    demo_runs(tmp_path, seed=3, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")} == written


@pytest.mark.slow
def test_progress_is_read_from_the_folders(tmp_path):
    assert progress(tmp_path) == 0
    demo_runs(tmp_path, **{**SMALL, "epochs": 5})
    assert progress(tmp_path) == 1
    (tmp_path / "demo-sage-0" / "metrics.json").unlink()
    assert progress(tmp_path) == pytest.approx(12 / 13)  # epochs 5 + 5, measurements 3; one measurement is missing


@pytest.mark.parametrize("key", ["method", "folder", "lambda_9"])
def test_what_none_of_the_three_knows_is_refused(tmp_path, key):
    with pytest.raises(UserError, match=f"'{key}'"):
        demo_runs(tmp_path, **{key: 1})
    assert not list(tmp_path.iterdir())
