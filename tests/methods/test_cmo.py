"""CMO's traps: what is pasted, how much of it counts, when, and from which sampler."""

import pytest
import torch

import sagekit as sk
from sagekit.data.batches import Batch, step_generator
from sagekit.data.samplers import class_balanced, every_image
from sagekit.methods import Now, _mixing, cmo

BACK, FRONT = torch.zeros(3, 3, 32, 32), torch.ones(3, 3, 32, 32)
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "share_stages": False}


@pytest.mark.parametrize("draws", [(0.0, 0.5, 0.5), (0.7, 0.0, 0.99), (0.3, 0.1, 0.4), (0.95, 0.5, 0.0), (0.9999, 0.5, 0.5)])
def test_the_kept_share_is_what_is_not_pasted(draws):
    mixed, kept = _mixing.paste(BACK, FRONT, *draws)
    assert mixed.mean().item() == pytest.approx(1 - kept, abs=1e-6)
    assert BACK.max() == 0  # not in place


@pytest.mark.parametrize(("draws", "rows", "columns"), [
    ((0.75, 0.5, 0.5), (8, 24), (8, 24)),  # sqrt(1 - l) = 1/2: 16 pixels around pixel 16
    ((0.75, 0.0, 0.999), (0, 8), (23, 32)),  # the border clips: the centre may lie anywhere
    ((0.7, 0.5, 0.5), (8, 24), (8, 24)),  # 17.5 pixels become 17, and 8 to each side
    ((0.0, 0.0, 0.0), (0, 16), (0, 16)),  # even a whole image as box covers a quarter from the corner
])
def test_the_box_is_rounded_down_and_clipped(draws, rows, columns):
    mixed, kept = _mixing.paste(BACK, FRONT, *draws)
    expected = torch.zeros(32, 32)
    expected[slice(*rows), slice(*columns)] = 1
    assert torch.equal(mixed, expected.expand(3, 3, 32, 32))  # one box for all images of the batch
    assert kept == 1 - expected.mean().item()


def test_patches_come_from_the_same_place():
    front = torch.arange(1024.0).view(1, 1, 32, 32).expand(3, 3, 32, 32)
    mixed, _ = _mixing.paste(BACK - 1, front, 0.75, 0.5, 0.5)
    assert torch.equal(mixed[..., 8:24, 8:24], front[..., 8:24, 8:24])
    assert (mixed == -1).sum() == 3 * 3 * (1024 - 256)


@pytest.fixture
def pasted(monkeypatch):
    """The draws of every call of ``paste``."""
    calls, real = [], cmo.paste

    def spy(back, front, *draws):
        calls.append(draws)
        return real(back, front, *draws)

    monkeypatch.setattr(cmo, "paste", spy)
    return calls


def step(model, epoch, seed=0):
    batches = [Batch((torch.rand(4, 3, 24, 24),), torch.tensor([0, 1, 2, 0]), torch.arange(4)) for _ in range(2)]
    return model(tuple(batches), Now(0, epoch, 0.0, step_generator(0, epoch, seed)))


def build(**changes):
    return sk.build_model(sk.Config.preset("mini", "cmo", **changes), ["plain circle", "striped star", "dotted heart"],
                          class_counts=[5, 3, 2])


def test_no_mixing_at_the_start_and_at_the_end(pasted):
    """3 < e < T - 3, with e from 0."""
    model, mixing = build(mix_probability=1.0, epochs=15), []
    for epoch in range(15):
        pasted.clear()
        step(model, epoch)
        mixing += [epoch] if pasted else []
    assert mixing == list(range(4, 12))


@pytest.mark.slow
def test_half_of_the_batches_are_mixed(pasted):
    model = build(epochs=15).eval()
    with torch.no_grad():
        for seed in range(200):
            step(model, 7, seed)
    assert 75 < len(pasted) < 125
    shares, ys, xs = torch.tensor(pasted).T
    for uniform in (shares, ys, xs):  # Beta(1, 1), and a centre that is uniform over the image
        assert uniform.mean().item() == pytest.approx(0.5, abs=0.1)
        assert uniform.max() - uniform.min() > 0.9


@pytest.mark.slow
def test_accumulated_parts_of_a_batch_share_their_box(pasted, tmp_path):
    config = sk.Config.preset("mini", "cmo", **TINY, epochs=2, batch_size=64, accumulate=2, plain_epochs=0, mix_probability=1.0)
    sk.train(config, tmp_path / "run", show=False)
    steps = 5  # 290 images in batches of 64, the second epoch
    assert len(pasted) == 2 * steps
    assert pasted[::2] == pasted[1::2]
    assert len(set(pasted)) == steps


def test_patches_are_class_balanced():
    (stage,) = sk.Config.preset("cifar100-lt-100", "cmo").stages
    assert stage.samplers == (every_image, class_balanced)
    assert stage.shared == ""
