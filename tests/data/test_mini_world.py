"""The mini world is worth teaching on: neither hopeless nor solved, and fine-tuning helps the tail too."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

import sagekit as sk
from sagekit.data import world
from sagekit.data.longtail import GROUPS
from sagekit.settings import DataSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full(tmp_path_factory, backbone):
    """Zero-shot and one whole LIFT run of the mini preset."""
    folder, data = tmp_path_factory.mktemp("full"), sk.load_data(DataSettings())
    runs = {m: sk.train(sk.Config.preset("mini", m), folder / m, data=data, backbone=backbone, show=False)
            for m in ("zero_shot", "lift")}
    return {m: run.metrics["results"]["single"] for m, run in runs.items()}


def test_zero_shot_is_neither_hopeless_nor_solved(full):
    assert 0.35 <= full["zero_shot"]["all"]["accuracy"] <= 0.65


def test_lift_is_between_70_and_92_percent(full):
    assert 0.70 <= full["lift"]["all"]["accuracy"] <= 0.92


@pytest.mark.parametrize("group", GROUPS)
def test_lift_is_above_zero_shot_in_every_group(full, group):
    zero_shot, lift = (full[m]["groups"]["own"][group]["accuracy"] for m in ("zero_shot", "lift"))
    assert lift > zero_shot


@torch.no_grad()
def test_features_are_better_than_zero_shot(backbone, full):
    """A balanced linear probe on the frozen features is at least 10 points above zero-shot."""
    g = world.generator(99)
    labels = torch.arange(48).repeat(60)
    images, _ = world.render(world.sample(labels, world.DOWNSTREAM, g), world.DOWNSTREAM, g)
    test = sk.load_data(DataSettings()).test
    train_x, test_x = (F.normalize(torch.cat([backbone.features(part) for part in x.split(500)]), dim=1)
                       for x in (images, test.images))
    probe = LogisticRegression(C=100, max_iter=500).fit(train_x.numpy(), labels)
    assert probe.score(test_x.numpy(), test.labels) > full["zero_shot"]["all"]["accuracy"] + 0.10
