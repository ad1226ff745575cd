"""A run that leaves Python answers as it does inside."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import small
from torch import nn

import sagekit as sk
from sagekit import Run, UserError
from sagekit.cli import main
from sagekit.data.batches import single_views
from sagekit.methods.lift import Lift
from sagekit.training.export import export_onnx
from sagekit.training.fold import fold_run


def _same_answers(file, run, data, folded=False):
    """The file's logits are the run's; two sizes of batch."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = sk.load_model(run, data.class_names, folded=folded).eval()
    pixels, _ = single_views(data.test.take(torch.arange(30)), run.config.views, model.image_size, "bilinear")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answers = np.concatenate([session.run(None, {"images": part.numpy()})[0] for part in pixels.split(29)])
    with torch.no_grad():
        expected = model.logits(pixels).prediction.numpy()
    np.testing.assert_array_equal(answers.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(answers, expected, atol=1e-3)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == data.class_names
    assert int(said["image_size"]) == model.image_size
    assert "0..1" in said["images"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zero_shot", "lift", "sage"])
def test_onnx_runtime_answers_as_the_run(method, runs, tmp_path, data):
    path = shutil.copytree(runs[method].path, tmp_path / method)
    file = export_onnx(path)
    assert file == path / "model.onnx"
    _same_answers(file, Run(path), data)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "changes"), [
    ("lift", {"module": "lora"}), ("lift", {"module": "vpt-deep"}), ("lift", {"module": "vpt-shallow"}),
    ("lift", {"module": "adapter"}), ("lift", {"module": "bitfit"}), ("lift", {"module": "full"}), ("scratch", {}), ("crt", {}),
    ("bbn", {}), ("proco", {}), ("cmo", {})])
def test_every_network_can_leave(method, changes, tmp_path, data, backbone):
    more = {"classifier_epochs": 1} if method == "crt" else {}
    run = sk.train(small(method, **changes, **more), tmp_path / "run", data=data, show=False,
                   backbone=backbone if method == "lift" else None)
    _same_answers(export_onnx(run.path), run, data)


@pytest.mark.slow
def test_a_folded_run_leaves_as_folded(runs, tmp_path, data):
    path = shutil.copytree(runs["sage"].path, tmp_path / "sage")
    with pytest.raises(UserError, match="no weight file"):
        export_onnx(path, folded=True)
    fold_run(path)
    file = export_onnx(path, folded=True)
    assert file == path / "folded.onnx"
    _same_answers(file, Run(path), data, folded=True)


@pytest.mark.slow
def test_a_network_that_cannot_leave_is_one_line(runs, tmp_path, monkeypatch, capsys):
    class Odd(nn.Module):
        def forward(self, feature):
            return feature if feature.sum().item() > 0 else -feature  # a branch on a value: no graph holds it

    path = shutil.copytree(runs["lift"].path, tmp_path / "lift")
    monkeypatch.setattr(Lift, "classify", lambda model, features: sk.Logits.plain(Odd()(features.own)))
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(path)])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("sagekit: the network of lift cannot be exported to ONNX (")
    assert not (path / "model.onnx").exists()
