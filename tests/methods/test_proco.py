"""ProCo's traps: three views in one forward, statistics that move between two of them, the projection's BatchNorm."""

import copy

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit import losses
from sagekit.data.batches import Batch
from sagekit.data.views import shift, sim, strong
from sagekit.losses.contrast import Statistics
from sagekit.methods import Now

COUNTS = torch.tensor([5, 3, 2])
LABELS = torch.tensor([0, 1, 2, 0, 0, 1])
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "share_stages": False}
NOW = Now(0, 0, 0.0, torch.Generator())


def build(**changes):
    config = sk.Config.preset("mini", "proco", **changes)
    names = ["plain circle", "striped star", "dotted heart"]
    return sk.build_model(config, names, class_counts=COUNTS.tolist()).double().train()


@pytest.fixture
def model():
    return build()


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return Batch(tuple(torch.rand(6, 3, 24, 24, generator=g, dtype=torch.float64) for _ in range(3)), LABELS, torch.arange(6))


def test_three_views_the_first_for_the_classifier():
    (stage,) = sk.Config.preset("cifar100-lt-100", "proco").stages
    assert stage.views == (strong, sim, sim)
    assert sim.scale == (0.08, 1.0)
    assert "blur" not in sim.alter
    (other,) = sk.Config.preset("mini", "proco", view="shift").stages
    assert other.views == (shift, sim, sim)


def test_the_rate_falls_to_a_tenth_and_a_hundredth():
    (stage,) = sk.Config.preset("cifar100-lt-100", "proco").stages
    assert [stage.rate(e, 0.0, 200) for e in (0, 4, 159, 160, 180)] == pytest.approx([0.2, 1, 1, 0.1, 0.01])
    assert (stage.optimizer.lr, stage.batch_size, stage.drop_last, stage.optimizer.nesterov) == (0.3, 256, True, False)


def test_the_projection_is_64_512_norm_relu_128(model):
    assert [type(layer).__name__ for layer in model.projection] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [tuple(model.projection[i].weight.shape) for i in (0, 1, 3)] == [(512, 64), (512,), (128, 512)]


def test_one_forward_of_all_views(model, batch):
    model((batch,), NOW)
    assert model.net.norm.num_batches_tracked == model.projection[1].num_batches_tracked == 1
    whole = F.conv2d((torch.cat(batch.views) - 0.5) / 0.25, model.net.stem.weight, padding=1).mean((0, 2, 3))
    torch.testing.assert_close(model.net.norm.running_mean, 0.1 * whole)


def test_a_view_enters_the_statistics_before_its_logits_and_only_then_the_next(model, batch, monkeypatch):
    called = []

    def spied(name, real):
        def spy(self, vectors, *labels):
            called.append((name, self.own_counts.sum().item(), vectors.detach().clone()))
            return real(self, vectors, *labels)
        return spy

    for name in ("update", "logits"):
        monkeypatch.setattr(Statistics, name, spied(name, getattr(Statistics, name)))
    model((batch,), NOW)
    assert [(name, seen) for name, seen, _ in called] == [("update", 0), ("logits", 6), ("update", 6), ("logits", 12)]
    assert torch.equal(called[0][2], called[1][2])
    assert torch.equal(called[2][2], called[3][2])
    assert not torch.equal(called[0][2], called[2][2])
    for _, _, vectors in called:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_no_gradient_into_the_statistics(model, batch):
    """Value and gradient are those of three plain terms with the statistics held fixed."""
    twin = copy.deepcopy(model)
    model((batch,), NOW)["loss"].backward()
    feature = twin.net(torch.cat(batch.views))
    _, first, second = F.normalize(twin.projection(feature), dim=-1).chunk(3)
    total = losses.logit_adjusted(twin.head(feature[:6]), LABELS, COUNTS)
    for view in (first, second):
        twin.statistics.update(view.detach(), LABELS)
        held = copy.deepcopy(twin.statistics)
        total = total + losses.logit_adjusted(held.logits(view), LABELS, COUNTS) / 2
    total.backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-7, msg=name)
    assert not any(buffer.requires_grad for buffer in model.statistics.buffers())


def test_the_contrast_does_not_reach_the_classifier(model, batch):
    """Views 2 and 3 leave its weights alone, and view 1 the projection's."""
    grads = torch.autograd.grad(model((batch,), NOW)["contrast"], model.head.parameters(), allow_unused=True)
    assert grads == (None, None)
    grads = torch.autograd.grad(model((batch,), NOW)["z"], model.projection.parameters(), allow_unused=True)
    assert all(g is None for g in grads)


def test_the_compensation_factor_enters_both_terms(batch):
    """Eq 22 is Eq 1 with tau = 1 + gamma."""
    model = build(gamma=0.5)
    torch.testing.assert_close(model((batch,), NOW)["z"], losses.logit_adjusted(
        model.head(model.net(torch.cat(batch.views))[:6]), LABELS, COUNTS, tau=1.5))
    plain, factor = (build(gamma=gamma)((batch,), NOW) for gamma in (0.0, 0.5))
    assert factor["contrast"].item() != pytest.approx(plain["contrast"].item(), abs=1e-6)


def test_the_classifier_alone_predicts(model, batch):
    model.eval()
    logits = model.logits(batch.views[0])
    assert logits.z_v is None
    torch.testing.assert_close(logits.prediction, model.head(model.net(batch.views[0])))


@pytest.mark.slow
def test_statistics_count_both_views_and_travel_with_the_weights(tmp_path):
    config = sk.Config.preset("mini", "proco", **TINY, epochs=2, batch_size=64)
    data = sk.load_data(config.data)
    weights = sk.train(config, tmp_path / "run", data=data, show=False).weights()
    seen = 2 * 64 * (len(data.train) // 64)
    assert weights["statistics.own_counts"].sum() == seen
    assert weights["statistics.counts"].sum() == 2 * seen


def test_one_process():
    assert "statistics" in sk.methods.load("proco").one_process
