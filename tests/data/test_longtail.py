import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagekit import UserError
from sagekit.data import longtail
from sagekit.data.longtail import groups, profile, served, thirds
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


counts = st.lists(st.integers(1, 2000), min_size=2, max_size=60).map(np.array)


@given(counts, st.integers(1, 3000), st.floats(1, 200))
def test_what_is_served_is_at_most_what_there_is_and_at_most_the_profile(own, largest, ratio):
    top = min(largest, own.max())
    found, wanted = served(own, largest, ratio), profile(len(own), top, ratio)
    assert (found <= own).all()
    assert found.max() <= top
    order = sorted(range(len(own)), key=lambda c: (-own[c], c))
    assert [found[c] for c in order] == [min(own[c], n) for c, n in zip(order, wanted, strict=True)]


def test_unequal_classes_are_served_by_size_and_not_by_the_smallest():
    assert served(np.array([3, 100, 40]), 500, 10).tolist() == [3, 100, 31]


@given(counts, st.integers(1, 500), st.integers(1, 500))
def test_groups_hold_every_class_once(own, head_above, tail_below):
    for found in (groups(own, head_above, tail_below), thirds(own)):
        assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(own)))
    sizes = [len(members) for members in thirds(own).values()]
    assert max(sizes) - min(sizes) <= 1
    head, tail = thirds(own)["head"], thirds(own)["tail"]
    assert not len(tail) or own[head].min() >= own[tail].max()
