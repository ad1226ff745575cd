
import numpy as np
import pytest
import torch

from sagekit import UserError, load_data
from sagekit.settings import DataSettings


def small(**changes):
    return DataSettings(**{"largest_class": 30, "imbalance_ratio": 10.0, "test_per_class": 4, "val_per_class": 2, **changes})


# --- the world ---


@pytest.mark.slow
def test_world_is_long_tailed_and_tested_balanced():
    data = load_data(DataSettings())
    assert (data.class_counts.max(), data.class_counts.min()) == (500, 5)
    assert np.bincount(data.test.labels).tolist() == [50] * 48
    assert np.array_equal(np.bincount(data.train.labels), data.class_counts)
    assert data.train.masks.shape == (len(data.train), 48, 48)


def test_world_changes_with_the_data_s_seed_alone():
    first, again, other = (load_data(small(data_seed=seed)).train.images for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first[:50], other[:50])


@pytest.mark.slow
def test_world_groups_by_both_definitions():
    data = load_data(small(largest_class=500, imbalance_ratio=10, test_per_class=1))
    assert len(data.groups["own"]["tail"]) == 0
    assert len(data.groups["beta100"]["tail"]) > 0


def test_a_world_class_without_images():
    with pytest.raises(UserError, match="leaves classes without images"):
        load_data(small(largest_class=5, imbalance_ratio=100))


def test_a_ratio_that_leaves_classes_without_images(cifar):
    """20 images at the head and a ratio of 100 leave the tail without any."""
    with pytest.raises(UserError, match=r"^imbalance_ratio 100 leaves [^\n]* as the largest has 20; at most 20 goes\.$"):
        load_data(DataSettings(dataset="cifar100", data_root=cifar, imbalance_ratio=100.0))


def test_a_set_can_be_given_a_name():
    assert (load_data(small()).name, load_data(small(data_name="toy")).name) == ("mini world", "toy")


# --- CIFAR-100 ---


def test_cifar_is_read_and_made_long_tailed(cifar):
    data = load_data(DataSettings(dataset="cifar100", data_root=cifar, imbalance_ratio=10))
    assert data.class_counts[0] == 20
    assert data.class_counts[-1] == 2
    assert data.class_names[7] == "thing 7"
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert len(data.test) == 200
    assert data.groups.keys() == {"own", "beta100", "thirds"}


def test_cifar_that_is_missing_says_so(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(UserError, match=r"CIFAR-100 is not under .* could not be downloaded .*--data-root"):
        load_data(DataSettings(dataset="cifar100", data_root=tmp_path))


