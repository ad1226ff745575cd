"""What a classifier's rows may start from, against loops and scikit-learn's own answers."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sagekit.networks.starts import class_means, linear_probe, random_rows, some_of_each


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_class_means_are_means_of_features_as_they_are():
    """The mean of long features is not that of normalised ones."""
    features, labels = drawn(9, 5) * torch.arange(1, 10)[:, None], torch.tensor([3, 0, 3, 3, 1, 0, 0, 0, 3])
    classes, rows = class_means(features, labels)
    assert classes.tolist() == [0, 1, 3]  # class 2 has no image
    for row, j in zip(rows, (0, 1, 3), strict=True):
        mean = sum(f for f, y in zip(features, labels.tolist(), strict=True) if y == j) / labels.tolist().count(j)
        torch.testing.assert_close(row, mean / mean.norm())


@pytest.mark.parametrize("most", [1, 3, 100])
def test_some_of_each_class_without_replacement(most):
    labels = torch.tensor([4] * 7 + [0] * 2 + [1] * 3 + [4] * 2)
    chosen = some_of_each(labels, most, torch.Generator().manual_seed(0))
    assert len(chosen) == len(chosen.unique())
    counts = torch.bincount(labels[chosen], minlength=5)
    assert counts.tolist() == [min(most, n) for n in (2, 3, 0, 0, 9)]


def test_any_image_of_a_class_may_be_chosen():
    labels = torch.tensor([1, 0, 1, 1, 0])
    seen = {place for seed in range(60) for place in some_of_each(labels, 1, torch.Generator().manual_seed(seed)).tolist()}
    assert seen == set(range(5))


def test_the_probe_weighs_classes_alike():
    """scikit-learn's own with weights written out, n / (C n_j), and no intercept in the rows."""
    labels = torch.tensor([0] * 60 + [2] * 30 + [5] * 5)
    features = drawn(95, 6) + 0.7 * drawn(6, 6, seed=1)[labels]
    weights = {j: 95 / (3 * (labels == j).sum().item()) for j in (0, 2, 5)}
    exact = LogisticRegression(class_weight=weights, max_iter=100).fit(features.numpy(), labels.numpy())
    classes, rows = linear_probe(features, labels)
    assert classes.tolist() == [0, 2, 5]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.nn.functional.normalize(torch.from_numpy(exact.coef_)).float())
    plain = LogisticRegression(max_iter=100).fit(features.numpy(), labels.numpy()).coef_
    assert not torch.allclose(rows, torch.nn.functional.normalize(torch.from_numpy(plain)).float(), atol=0.02)


def test_two_classes_get_a_row_each():
    labels = torch.tensor([0, 1] * 20)
    features = drawn(40, 4) + 3 * labels[:, None] * drawn(4, seed=1)
    classes, rows = linear_probe(features, labels)
    assert classes.tolist() == [0, 1]
    middle = features - features.mean(0)
    assert ((middle @ rows.T).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.filterwarnings("error")
def test_a_probe_that_has_not_converged_says_nothing():
    labels = torch.arange(30) % 3
    _, rows = linear_probe(1e3 * drawn(30, 20), labels)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_random_rows():
    torch.manual_seed(0)
    rows = random_rows(200, 96)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(200))
    largest = rows.abs().max(1).values * math.sqrt(96)
    assert largest.mean().item() == pytest.approx(math.sqrt(3), rel=0.03)  # of a normal draw it would be 2.5
    linear = random_rows(200, 96, linear=True)
    assert linear.std().item() == pytest.approx(math.sqrt(2 / 96), rel=0.02)
