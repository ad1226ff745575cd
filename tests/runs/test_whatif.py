"""What-if answers from stored logits, against direct counting."""

import numpy as np
import pytest

from sagekit.data import longtail
from sagekit.runs import whatif
from sagekit.runs.predictions import Predictions, reduced

COUNTS = np.array([200, 50, 5])
GROUPS = longtail.groups(COUNTS)


def stored(fit: bool = True, n: int = 300) -> Predictions:
    rng = np.random.default_rng(0)
    z, z_v, z_t = rng.normal(size=(3, n, 3)).astype(np.float32)
    return Predictions(rng.integers(0, 3, n), z, z_v if fit else None, z_t if fit else None, 0.3, 0.2)


def test_trained_scalars_give_the_stored_prediction():
    p = stored()
    np.testing.assert_allclose(p.summed(p.s_v, p.s_t), p.logits, atol=1e-6)


def test_scalars_weigh_as_equation_23():
    p = stored()
    np.testing.assert_allclose(p.summed(-1.0, 2.0), p.z - p.z_v + 2 * p.z_t, atol=1e-5)
    np.testing.assert_array_equal(p.summed(0.0, 0.0), p.z)


def test_without_fit_scalars_do_nothing():
    p = stored(fit=False)
    np.testing.assert_array_equal(p.summed(5.0, -5.0), p.z)


def test_adjustment_in_float64():
    p = stored()
    literal = p.z.astype(np.float64) + 0.1 * p.z_v + 0.4 * p.z_t - 0.7 * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_array_equal(whatif.predicted(p, COUNTS, 0.7, 0.1, 0.4), literal.argmax(1))


def test_as_trained_nothing_moves():
    p = stored()
    np.testing.assert_array_equal(whatif.predicted(p, COUNTS, 0.0, p.s_v, p.s_t), p.predicted)


def test_a_large_tau_predicts_the_rarest_class_and_a_small_one_the_commonest():
    p = stored()
    for tau, only in ((1e3, "tail"), (-1e3, "head")):
        found = whatif.accuracies(whatif.predicted(p, COUNTS, tau, 0.0, 0.0), p.labels, GROUPS)
        assert found[only] == 100
        assert sum(found[g] for g in ("head", "medium", "tail")) == 100


def test_accuracies_by_group_are_counted():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    found = whatif.accuracies(predicted, labels, GROUPS)
    assert found == {"mean": 50.0, "all": 50.0, "head": 50.0, "medium": 100.0, "tail": 0.0}
    assert whatif.accuracies(predicted[1:], labels[1:], GROUPS)["mean"] == pytest.approx(100 / 3)
    assert np.isnan(whatif.accuracies(predicted, labels, longtail.groups([200, 300, 400]))["tail"])


def test_the_curve_marks_what_no_other_tau_beats():
    p = stored()
    frame = whatif.curve(p, COUNTS, GROUPS, p.s_v, p.s_t)
    trained = frame[frame["tau"] == 0].iloc[0]
    assert trained["all"] == pytest.approx(100 * p.correct.mean())
    for row in frame.to_dict("records"):
        beaten = ((frame["head"] >= row["head"]) & (frame["tail"] >= row["tail"])
                  & ((frame["head"] > row["head"]) | (frame["tail"] > row["tail"]))).any()
        assert row["best"] == (not beaten)


def test_the_best_tau_has_the_highest_mean_over_classes():
    """The rarest class has one image in a hundred: all images would keep tau at 0, the mean over classes does not."""
    labels = np.repeat([0, 1, 2], [200, 97, 3])
    z = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    z[np.arange(300), labels] += np.where(labels == 2, 1.0, 2.0)
    z[:, 2] -= 2.5  # as if the rare class were never believed
    p = Predictions(labels, z, None, None, 0.0, 0.0)
    frame = whatif.curve(p, COUNTS, GROUPS, 0.0, 0.0)
    tau = whatif.best_tau(p, COUNTS, 0.0, 0.0)
    assert frame.set_index("tau").loc[tau, "mean"] == pytest.approx(frame["mean"].max())
    assert tau > 0
    sure = Predictions(labels, 50 * np.eye(3, dtype=np.float32)[labels], None, None, 0.0, 0.0)
    assert whatif.best_tau(sure, COUNTS, 0.0, 0.0) == 0  # every tau is right: the nearest to what was trained


def test_with_few_stored_classes_the_winner_is_among_them():
    """Small moves are answered as with all classes; for a large one the rarest stored class wins."""
    p = stored()
    few = reduced(p, 2)
    np.testing.assert_array_equal(whatif.predicted(few, COUNTS, 0.0, p.s_v, p.s_t), p.predicted)
    rarest = np.take_along_axis(few.classes, COUNTS[few.classes].argmin(1)[:, None], 1)[:, 0]
    np.testing.assert_array_equal(whatif.predicted(few, COUNTS, 1e3, 0.0, 0.0), rarest)


def test_the_best_scalars_have_the_highest_mean_over_classes():
    p = stored()
    grid = (0.0, 0.5, 1.0)
    by_hand = {}
    for s_v in grid:
        for s_t in grid:
            right = (p.z + np.float32(s_v) * p.z_v + np.float32(s_t) * p.z_t).argmax(1) == p.labels
            by_hand[s_v, s_t] = np.mean([right[p.labels == c].mean() for c in range(3)])
    found = whatif.best_scalars(p, grid, grid)
    assert by_hand[found] == pytest.approx(max(by_hand.values()))
    assert whatif.best_scalars(stored(fit=False), grid, grid) == (0.0, 0.0)  # all are equal: nothing is added
