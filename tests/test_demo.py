from conftest import SMALL

from sagekit.demo import METHODS, demo_runs


def test_the_three_runs_are_trained_once(tmp_path):
    runs = demo_runs(tmp_path, seed=3, **SMALL)
    assert tuple(runs) == METHODS
    assert runs["lift"].path == tmp_path / "demo-lift-3"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    demo_runs(tmp_path, seed=3, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")} == written
