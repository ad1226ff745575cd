import numpy as np
import pytest

from sagekit import UserError
from sagekit.data import longtail
from sagekit.paper import PROFILES


@pytest.mark.parametrize(("beta", "total"), [(100, 10847), (50, 12608), (10, 19573)])
def test_cifar100_totals(beta, total):
    counts = longtail.profile(100, 500, beta)
    assert counts.sum() == total
    assert (counts[0], counts[-1]) == (500, 500 // beta)


def test_cifar100_groups_at_beta_100():
    found = longtail.groups(longtail.profile(100, 500, 100))
    assert [len(found[g]) for g in longtail.GROUPS] == [35, 35, 30]


def test_no_tail_at_beta_10():
    """Why Table 7 prints tail 0.0 there, and Table 5, by beta = 100's counts, does not (finding 9)."""
    assert len(longtail.groups(longtail.profile(100, 500, 10))["tail"]) == 0


def test_group_borders():
    found = longtail.groups([101, 100, 20, 19])
    assert {g: m.tolist() for g, m in found.items()} == {"head": [0], "medium": [1, 2], "tail": [3]}


def test_imbalance_ratio_below_one():
    with pytest.raises(UserError, match=r"imbalance_ratio is 0\.5"):
        longtail.profile(10, 100, 0.5)


def test_subsample_takes_the_counts_without_repeating():
    labels = np.repeat([0, 1, 2], 50)
    chosen = longtail.subsample(labels, np.array([40, 10, 1]), seed=0)
    assert np.bincount(labels[chosen]).tolist() == [40, 10, 1]
    assert len(set(chosen)) == 51
    with pytest.raises(UserError, match="class 1 has 50 images; 60"):
        longtail.subsample(labels, np.array([1, 60, 1]), seed=0)


def test_subsample_is_everybody_s_draw():
    """The community's files seed numpy's global state once and shuffle class after class."""
    labels = np.random.default_rng(0).integers(0, 5, 400)
    counts = np.array([50, 30, 12, 7, 2])
    np.random.seed(0)  # noqa: NPY002
    theirs = []
    for c, count in zip(np.unique(labels), counts, strict=True):
        members = np.where(labels == c)[0]
        np.random.shuffle(members)  # noqa: NPY002
        theirs.extend(members[:count])
    assert longtail.subsample(labels, counts, seed=0).tolist() == theirs
    assert longtail.subsample(labels, counts, seed=1).tolist() != theirs


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_sketch_has_the_four_numbers(name):
    known = PROFILES[name]
    counts = longtail.sketch(known.classes, known.images, known.largest, known.smallest)
    assert (len(counts), counts[0], counts[-1]) == (known.classes, known.largest, known.smallest)
    assert counts.sum() == pytest.approx(known.images, rel=0.01)
    assert (np.diff(counts) <= 0).all()


def test_an_impossible_sketch_is_refused():
    with pytest.raises(UserError, match="cannot have 10 in all"):
        longtail.sketch(100, 10, 50, 5)
