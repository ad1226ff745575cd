import shutil

import pytest

import sagekit as sk
from sagekit import Run, UserError
from sagekit.fold import fold_run


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
    assert metrics["trainable_parameters"]["module"] == result.after


def test_only_sage_folds(runs):
    with pytest.raises(UserError, match="only a model with SG-Adapters"):
        fold_run(runs["lift"].path)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        fold_run(tmp_path)
