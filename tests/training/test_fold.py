import shutil

import pytest
from conftest import small

import sagekit as sk
from sagekit import Run, UserError
from sagekit.cli import main
from sagekit.training.fold import fold_run


@pytest.mark.slow
def test_a_folded_run_predicts_the_same(runs, tmp_path):
    path = shutil.copytree(runs["sage"].path, tmp_path / "sage")
    result = fold_run(path)
    d, r, layers = 128, 8, 6
    assert result.before == layers * ((5 * r + d + 4) * d + 3 * r + 2)
    assert result.after == layers * (2 * 2 * r * d + 2 * r + d)
    assert result.difference < 1e-3
    before = Run(path).metrics["results"]["single"]["all"]["accuracy"]
    metrics = sk.evaluate(str(path), folded=True, show=False)
    assert metrics["results"]["single"]["all"]["accuracy"] == pytest.approx(before, abs=0.006)  # one image of 192
    assert metrics["trainable_parameters"]["net"] == result.after
    assert (metrics["folded"], runs["sage"].metrics["folded"]) == (True, False)


@pytest.mark.parametrize("method", ["lift", "classifier", "zero_shot"])
def test_only_sage_folds(runs, method):
    with pytest.raises(UserError, match=rf"a run of {method}, which has no SG-Adapters to fold; sage has\.$"):
        fold_run(runs[method].path)


def test_what_was_trained_folded_has_nothing_to_fold(tmp_path, backbone, data):
    run = sk.train(small("sage", gate="folded", fit=False), tmp_path / "run", data=data, backbone=backbone, show=False)
    with pytest.raises(UserError, match="trained in the folded form"):
        fold_run(run.path)
    assert not (run.path / "folded.safetensors").exists()


def test_the_command_says_so_with_onnx_too(runs, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fold", str(runs["lift"].path), "--onnx"])
    said = "is a run of lift, which has no SG-Adapters to fold; sage has."
    assert capsys.readouterr().err == f"sagekit: {runs['lift'].path} {said}\n"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        fold_run(tmp_path)
