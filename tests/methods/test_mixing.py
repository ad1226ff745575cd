"""Mixing's traps: one share a batch, a partner for every image, and Remix's labels pair by pair."""

import pytest
import torch

from sagekit.methods import _mixing, remix


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_blends_are_of_the_batchs_own_images():
    images, labels = torch.eye(5)[:, None, :, None].expand(5, 3, 5, 1), torch.arange(5)
    mixed, others, share = _mixing.blend(images, labels, 1.0, seeded())
    for i in range(5):
        expected = share * images[i] + (1 - share) * images[others[i]]
        torch.testing.assert_close(mixed[i], expected)
    assert sorted(others.tolist()) == list(range(5))
    again = _mixing.blend(images, labels, 1.0, seeded())
    assert torch.equal(again[0], mixed)
    assert again[2] == share


@pytest.mark.parametrize(("a", "spread"), [(1.0, (1 / 12) ** 0.5), (4.0, (1 / 36) ** 0.5), (0.2, (1 / (4 * 1.4)) ** 0.5)])
def test_shares_are_beta(a, spread):
    """Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))."""
    drawn = torch.tensor([_mixing.beta(a, seeded(k)) for k in range(2000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)
    assert drawn.std().item() == pytest.approx(spread, rel=0.06)


@pytest.mark.parametrize(("own", "other", "share", "expected"), [
    (90, 30, 0.4, 0.0),  # three times as frequent, and the smaller share
    (90, 30, 0.6, 0.6),  # the larger share keeps its own
    (89, 30, 0.4, 0.4),  # not three times
    (30, 90, 0.6, 1.0),  # the rarer one, with the larger share: 1 - 0.6 < 0.5
    (30, 90, 0.4, 0.4),
    (30, 30, 0.1, 0.1),
])
def test_remix_decides_for_each_pair(own, other, share, expected):
    found = remix.shares(torch.tensor([own, 1]), torch.tensor([other, 1]), share, 3.0, 0.5)
    assert found.tolist() == pytest.approx([expected, share])
