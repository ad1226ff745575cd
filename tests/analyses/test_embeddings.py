"""Features of splits, the train-test gap on clusters with a known one, and pictures that keep clusters apart."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import small

import sagekit as sk
from sagekit import UserError
from sagekit.analyses import embeddings
from sagekit.data.splits import Split
from sagekit.data.views import centre_view


@pytest.mark.parametrize("method", ["sage", "lift", "classifier"])
def test_features_are_the_model_s(runs, data, backbone, method):
    model = sk.load_model(runs[method], data.class_names, backbone)
    split = Split(data.test.labels[:6], data.test.images[:6])
    views = small().views
    view = centre_view(split.images, 48, views)
    with torch.no_grad():
        torch.testing.assert_close(embeddings.features(model, split, views), F.normalize(model.features(view).own, dim=-1))
        torch.testing.assert_close(embeddings.features(model, split, views, frozen=True),
                                   F.normalize(backbone.features(view), dim=-1))


def on_circle(*degrees):
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_a_known_gap_is_found():
    """Class 0 is where it is tested; class 1 is trained 60 degrees away."""
    train, test = on_circle(-10, 10, 150), on_circle(-5, 5, 90, 90)
    frame = embeddings.gap(train, torch.tensor([0, 0, 1]), test, torch.tensor([0, 0, 1, 1]))
    assert frame["label"].tolist() == [0, 1]
    assert frame["images"].tolist() == [2, 1]
    assert frame["gap"].tolist() == pytest.approx([0, 0.5], abs=1e-6)
    assert frame["spread"].tolist() == pytest.approx([1 - math.cos(math.radians(5)), 0], abs=1e-6)


def test_a_class_without_training_images_has_no_gap():
    assert len(embeddings.gap(on_circle(0), torch.tensor([0]), on_circle(0, 90), torch.tensor([0, 1]))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_two_clusters_stay_apart(method):
    g = torch.Generator().manual_seed(0)
    centres = F.one_hot(torch.tensor([0] * 20 + [1] * 20), 8).float()
    points = F.normalize(centres + 0.05 * torch.randn(40, 8, generator=g), dim=-1)
    places = torch.from_numpy(embeddings.picture(points, method))
    again = torch.from_numpy(embeddings.picture(points, method))
    assert places.shape == (40, 2)
    assert torch.equal(places, again)
    own = torch.cdist(places, places)
    assert own[:20, :20].mean() < own[:20, 20:].mean()


def test_three_points_make_no_picture():
    with pytest.raises(UserError, match="too few"):
        embeddings.picture(torch.eye(3))


def test_umap_leaves_torch_s_threads_alone():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        embeddings.picture(F.normalize(torch.randn(20, 4), dim=-1), "umap")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_gaps_of_two_models_are_joined_by_class():
    before, after = (pd.DataFrame({"label": [0, 2], "images": [3, 1], "gap": gaps}) for gaps in ([0.5, 0.4], [0.2, 0.6]))
    joined = embeddings.gap_change(before, after[::-1])
    assert list(joined.columns) == ["label", "before", "after", "change"]
    assert joined["label"].tolist() == [0, 2]
    assert joined["change"].round(6).tolist() == [-0.3, 0.2]
