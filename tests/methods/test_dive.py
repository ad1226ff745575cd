"""DiVE's traps: the order of temperature, power and renormalising, a teacher that stays as it was, and whose it may be."""

import pytest
import torch

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import Batch
from sagekit.methods import Now

CLASSES, COUNTS = ["plain circle", "striped star", "dotted heart"], [9, 5, 3]
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 2, "batch_size": 32}


def config(method="dive", **changes):
    return sk.Config.preset("mini", method, **{**TINY, **changes})


def step(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    batch = Batch((torch.rand(4, 3, 24, 24, generator=g),), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    return model((batch,), Now(1, 0, 0.0, g))


def build(**changes):
    torch.manual_seed(0)
    model = sk.build_model(config(**changes), CLASSES, class_counts=COUNTS)
    model.start_stage(1)
    return model.train()


def test_a_flat_enough_teacher_is_uniform():
    """p near 0 makes q uniform whatever the teacher says; p after the sum to 1 or before it is the same, but T is not p."""
    model = build(flatten=1e-6)
    model.start_epoch(Now(1, 0, 0.0, torch.Generator()))
    batch = torch.rand(2, 3, 24, 24)
    z = model.logits(batch).z
    loss = model((Batch((batch,), torch.tensor([0, 1]), torch.arange(2)),), Now(1, 0, 0.0, torch.Generator()))["distilled"]
    p = (z / 2).log_softmax(1)
    expected = 4 * (torch.log(torch.tensor(1 / 3)) - p.mean(1)).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_teacher_is_stage_1s_end_and_does_not_move(tmp_path):
    """A training with logit adjustment; of one epoch, in which both schedules agree."""
    run = sk.train(config(epochs=1), tmp_path / "dive", show=False)
    la = sk.train(config("scratch", loss="la", epochs=1), tmp_path / "la", show=False)
    weights, teacher = run.weights(), la.weights()
    found = {name.removeprefix("teacher."): value for name, value in weights.items() if name.startswith("teacher.")}
    assert found.keys() == teacher.keys()
    assert run.history["stage"].tolist() == [1, 2]
    assert all(torch.equal(found[name], teacher[name]) for name in found)
    assert any(not torch.equal(weights[name], teacher[name]) for name in teacher)


def test_the_teacher_is_in_test_mode_in_training():
    model = build()
    model.start_epoch(Now(1, 0, 0.0, torch.Generator()))
    assert not any(module.training for module in model.teacher.modules())
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    step(model)["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.state_dict().items())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert model.net.stem.weight.grad.abs().sum() > 0


def test_the_rate_falls_at_60_and_80_percent():
    _, student = sk.Config.preset("cifar100-lt-100", "dive").stages
    rates = {e: student.rate(e, 0, 200) for e in (4, 119, 120, 159, 160)}
    assert rates == pytest.approx({4: 1, 119: 1, 120: 0.01, 159: 0.01, 160: 1e-4})


@pytest.mark.slow
def test_another_run_teaches(tmp_path):
    teacher = sk.train(config("crt", classifier_epochs=1), tmp_path / "teacher", show=False)
    run = sk.train(config(teacher=str(teacher.path)), tmp_path / "run", show=False)
    assert run.history["stage"].tolist() == [1, 1]
    assert not [name for name in run.weights() if name.startswith("teacher.")]
    teacher.path.rename(tmp_path / "elsewhere")  # a finished student does not need it
    again = sk.evaluate(run.path, show=False)
    assert again["results"] == run.metrics["results"]


@pytest.mark.slow
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(tmp_path, backbone):
    teacher = sk.train(config("scratch", epochs=1), tmp_path / "teacher", show=False)
    clip = sk.train(sk.Config.preset("mini", "zero_shot", largest_class=12, imbalance_ratio=4.0, test_per_class=2),
                    tmp_path / "clip", backbone=backbone, show=False)
    for number, (changes, message) in enumerate([
            ({"teacher": str(teacher.path), "largest_class": 13}, "was trained on other data: its largest_class is 12, not 13"),
            ({"teacher": str(teacher.path), "image_size": 32}, "sees 24 pixels and the student 32"),
            ({"teacher": str(clip.path)}, "sees 48 pixels and the student 24"),
            ({"teacher": str(tmp_path / "nowhere")}, "is no finished run; train it, or leave out teacher")]):
        with pytest.raises(UserError, match=message) as error:
            sk.train(config(**changes), tmp_path / str(number), show=False)
        assert "\n" not in str(error.value)
        assert not (tmp_path / str(number)).exists()
