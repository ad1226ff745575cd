import re
import shutil

import pytest
import torch
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


def fitted(run, path, s_v, s_t=0.0):
    """A copy of a Sage run with other scalars, in its weights and in what it predicted."""
    copy = Run(shutil.copytree(run.path, path))
    tensors = {**copy.weights(), "s_v": torch.tensor(s_v), "s_t": torch.tensor(s_t)}
    copy.write_weights(tensors, "mini", copy.metrics["prompt_names"])
    stored = copy.predictions("single", "val")
    stored.s_v, stored.s_t = s_v, s_t
    copy.write_predictions({"single": stored}, "val")
    return copy


@pytest.mark.slow
def test_without_frozen_z_v_goes_where_validation_allows_it(runs, tmp_path, capsys, backbone):
    """A z^v that counts for almost nothing may go: what is left predicts z + s_2 z^t in one pass."""
    run = fitted(runs["sage"], tmp_path / "small", 1e-6, 0.3)
    with pytest.raises(SystemExit, match="0"):
        main(["fold", str(run.path), "--without-frozen"])
    said = capsys.readouterr().out
    (kept, dropped), = re.findall(r"mean over classes: ([\d.]+) % with z\^v, ([\d.]+) %", said)
    assert kept == dropped
    model = sk.load_model(run, run.metrics["prompt_names"], backbone, folded=True).eval()
    whole = sk.load_model(run, run.metrics["prompt_names"], backbone).eval()
    pixels = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.features(pixels)
        assert features.frozen is None
        assert model.frozen_backbone() is None
        found, expected = model.logits(pixels), whole.logits(pixels)
        torch.testing.assert_close(found.prediction, expected.z + 0.3 * expected.z_t, atol=1e-3, rtol=1e-4)
    before = run.predictions()
    metrics = sk.evaluate(run, folded=True, show=False)
    after = run.predictions()
    assert metrics["folded"]
    assert after.z_v is None
    assert (after.predicted == (before.z + 0.3 * before.z_t).argmax(1)).mean() > 0.99  # and not those of z alone
    assert metrics["results"]["single"]["all"]["accuracy"] == pytest.approx(after.correct.mean())


def test_without_frozen_is_refused_where_it_costs(runs, tmp_path):
    """A z^v that carries the prediction alone."""
    run = fitted(runs["sage"], tmp_path / "large", 1.0)
    stored = run.predictions("single", "val")
    stored.z, stored.z_t = 0 * stored.z, 0 * stored.z_t
    run.write_predictions({"single": stored}, "val")
    with pytest.raises(UserError, match=r"without z\^v the validation .* falls from [\d.]+ to [\d.]+ %; nothing was written"):
        fold_run(run.path, without_frozen=True)
    assert not (run.path / "folded.safetensors").exists()


def test_without_frozen_needs_validation_images_and_a_z_v(runs, tmp_path, backbone, data):
    run = Run(shutil.copytree(runs["sage"].path, tmp_path / "no_val"))
    run.file("metrics", "val").unlink()
    with pytest.raises(UserError, match=r"has no validation images to ask .* --set val_share=0\.1"):
        fold_run(run.path, without_frozen=True)
    plain = sk.train(small("sage", fit=False), tmp_path / "plain", data=data, backbone=backbone, show=False)
    with pytest.raises(UserError, match=r"has no z\^v to drop: it was trained with fit=false"):
        fold_run(plain.path, without_frozen=True)
