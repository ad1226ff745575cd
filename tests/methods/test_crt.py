"""cRT's traps: what a new classifier and a frozen network mean."""

import pytest
import torch

import sagekit as sk
from sagekit.data.samplers import class_aware, every_image

SETTINGS = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 2, "batch_size": 32}


def config(method="crt", **changes):
    return sk.Config.preset("mini", method, **{**SETTINGS, **({"classifier_epochs": 1} if method == "crt" else {}), **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """CE from scratch, which leaves its stage in the cache, and what cRT makes of it."""
    folder, data = tmp_path_factory.mktemp("crt"), sk.load_data(config().data)
    configs = {"scratch": config("scratch"), "train": config(), "eval": config(norms="eval"),
               "alone": config(share_stages=False)}
    return {name: sk.train(c, folder / name, data=data, show=False) for name, c in configs.items()}


def test_its_first_stage_is_scratchs_training_bit_for_bit(runs):
    for name in ("train", "eval"):
        assert "stage 1: taken from the cache" in (runs[name].path / "log.txt").read_text(encoding="utf-8")
    assert "cache" not in (runs["alone"].path / "log.txt").read_text(encoding="utf-8")
    a, b = runs["train"].weights(), runs["alone"].weights()
    assert all(torch.equal(a[name], b[name]) for name in b)
    losses = runs["scratch"].history["loss"].tolist()
    for name in ("train", "alone"):
        assert runs[name].history["loss"].tolist()[:2] == losses


@pytest.mark.parametrize("norms", ["train", "eval"])
def test_stage_2_moves_the_head_and_at_most_batchnorms_statistics(runs, norms):
    before, after = runs["scratch"].weights(), runs[norms].weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    assert len(statistics) == 3 * 31
    assert moved == {"head.weight", "head.bias"} | (statistics if norms == "train" else set())


def test_the_head_of_stage_2_is_drawn_anew():
    model = sk.build_model(config(), ["plain circle", "striped star"], class_counts=[3, 2])
    trained = model.head.weight.detach().clone()
    model.start_stage(0)
    assert torch.equal(model.head.weight, trained)
    torch.manual_seed(1)
    model.start_stage(1)
    torch.manual_seed(1)
    fresh = torch.nn.Linear(64, 2)
    assert torch.equal(model.head.weight, fresh.weight)
    assert torch.equal(model.head.bias, fresh.bias)


def test_stage_2_is_class_aware_with_a_cosine_from_its_own_rate():
    first, second = sk.Config.preset("cifar100-lt-100", "crt").stages
    assert (first.samplers, second.samplers) == ((every_image,), (class_aware,))
    assert (first.epochs, second.epochs, first.trains, second.trains) == (200, 10, ("net.", "head."), "head.")
    assert second.optimizer.lr == 0.1
    assert [second.rate(e, 0.5, 10) for e in (0, 5)] == pytest.approx([1, 0.5])
