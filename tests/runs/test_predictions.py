"""Few stored classes give the same predictions and confidences as all."""

import numpy as np
import pytest
from scipy.special import softmax

from sagekit import Run, UserError
from sagekit.data import longtail
from sagekit.runs.metrics import measure
from sagekit.runs.predictions import Predictions, joined, reduced


def full(n: int = 60, classes: int = 40, fit: bool = True) -> Predictions:
    rng = np.random.default_rng(0)
    z, z_v, z_t = 3 * rng.normal(size=(3, n, classes)).astype(np.float32)
    return Predictions(rng.integers(0, classes, n), z, z_v if fit else None, z_t if fit else None, 0.3, 0.2)


def test_confidence_is_the_largest_probability():
    p = full()
    np.testing.assert_allclose(p.confidence, softmax(p.logits.astype(np.float64), axis=1).max(1), rtol=1e-6)


def test_the_true_class_has_its_likelihood_and_its_place():
    p = full()
    z = p.logits.astype(np.float64)
    probabilities = softmax(z, axis=1)[np.arange(60), p.labels]
    places = [(row > row[label]).sum() for row, label in zip(z, p.labels, strict=True)]
    for stored in (p, reduced(p, 7)):
        np.testing.assert_allclose(np.exp(stored.log_likelihood), probabilities, rtol=1e-5)
        np.testing.assert_array_equal(np.minimum(stored.places, 6), np.minimum(places, 6))


@pytest.mark.parametrize("fit", [True, False])
@pytest.mark.parametrize("most", [2, 7])
def test_few_classes_predict_and_measure_as_all(most, fit):
    p = full(fit=fit)
    few = reduced(p, most)
    assert few.z.shape == few.classes.shape == (60, most)
    np.testing.assert_array_equal(few.predicted, p.predicted)
    np.testing.assert_allclose(few.confidence, p.confidence, rtol=1e-6)
    assert (few.classes == p.labels[:, None]).sum(1).tolist() == [1] * 60  # the true class is always there
    np.testing.assert_array_equal(few.logits, np.take_along_axis(p.logits, few.classes, 1))
    groups = {"own": longtail.groups(np.arange(40) * 5 + 1)}
    a, b = measure(p, 40, groups), measure(few, 40, groups)
    for key in ("calibration_error", "negative_log_likelihood"):
        assert a.pop(key) == pytest.approx(b.pop(key))
    if most == 2:
        assert (a.pop("top5") > 0, b.pop("top5")) == (True, None)  # the fifth place is not stored
    assert a == b


def test_parts_are_joined_in_the_images_order():
    p = full()
    places = np.random.default_rng(1).permutation(60)
    parts = [(part, reduced(Predictions(p.labels[part], p.z[part], p.z_v[part], p.z_t[part], p.s_v, p.s_t), 5))
             for part in np.split(places, [20, 45])]
    whole = joined(parts)
    np.testing.assert_array_equal(whole.labels, p.labels)
    np.testing.assert_array_equal(whole.predicted, p.predicted)
    assert joined([(np.arange(60), full(fit=False))]).z_v is None


def test_few_classes_survive_the_file(tmp_path):
    p = full()
    few = reduced(p, 6)
    run = Run(tmp_path / "run")
    run.write_predictions({"single": few, "five_crops": few})
    for view in ("single", "five_crops"):
        read = run.predictions(view)
        np.testing.assert_array_equal(read.predicted, p.predicted)
        np.testing.assert_allclose(read.confidence, p.confidence, atol=5e-3)  # half precision
    with np.load(run.path / "predictions.npz") as arrays:
        content = dict(arrays)
    np.savez(run.path / "predictions.npz", **{**content, "classes": content["classes"][:, :3]})
    with pytest.raises(UserError, match="do not fit its logits"):
        run.predictions()
