"""A first stage that several runs have in common is trained once, and the result is that of training it again."""

import sys

import pytest
import torch
from accelerate import Accelerator
from conftest import small

import sagekit as sk
from sagekit.training import stage_ends

TINY = {"largest_class": 8, "imbalance_ratio": 4.0, "test_per_class": 1, "batch_size": 32, "share_stages": True}


def tiny(method="crt", **changes):
    return small(method, **{**TINY, **changes})


@pytest.fixture(scope="module")
def data():
    return sk.load_data(tiny().data)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def trained(path, data, config, **more):
    """Its run, and whether the first stage came from the cache."""
    run = sk.train(config, path, data=data, show=False, **more)
    return run, "stage 1: taken from the cache" in (run.path / "log.txt").read_text()


def same(a, b):
    a, b = a.weights(), b.weights()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def first(tmp_path, data):
    """A run that left its first stage."""
    run, taken = trained(tmp_path / "first", data, tiny(classifier_epochs=1))
    assert not taken
    return run


@pytest.mark.slow
def test_a_second_run_takes_it_and_ends_in_the_same_bits(tmp_path, data, first):
    config = tiny(classifier_epochs=2)
    second, taken = trained(tmp_path / "second", data, config)
    alone, taken_alone = trained(tmp_path / "alone", data, config.changed(share_stages=False))
    assert (taken, taken_alone) == (True, False)
    assert same(second, alone)
    assert second.metrics["results"] == alone.metrics["results"]
    columns = ["epoch", "stage", "lr", "loss", "train_accuracy"]
    assert second.history[columns].equals(alone.history[columns])
    assert second.history.iloc[0].equals(first.history.iloc[0])


@pytest.mark.slow
def test_another_method_with_the_same_first_stage_takes_it(tmp_path, data):
    _, taken = trained(tmp_path / "scratch", data, tiny("scratch"))
    second, taken_second = trained(tmp_path / "crt", data, tiny(classifier_epochs=1))
    alone, _ = trained(tmp_path / "alone", data, tiny(classifier_epochs=1, share_stages=False))
    assert (taken, taken_second) == (False, True)
    assert same(second, alone)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_a_run_killed_in_the_next_stage_s_first_epoch_continues_to_the_same_bits(tmp_path, data, first, monkeypatch, shared):
    """What the next stage starts anew stays new: the kept state is older than that."""
    trainer, config = sys.modules["sagekit.training.train"], tiny(classifier_epochs=2, share_stages=shared)
    real = trainer._epoch

    def killed(loop, wrapped, optimizer, stage, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        return real(loop, wrapped, optimizer, stage, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", data, config)
    resumed, taken = trained(tmp_path / "cut", data, config, resume=True)
    alone, _ = trained(tmp_path / "alone", data, config.changed(share_stages=False))
    assert taken == shared
    assert same(resumed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["safetensors", "json"])
def test_a_damaged_file_is_ignored_and_made_again(tmp_path, data, first, folder, damaged):
    (path,) = folder.glob(f"stage-*.{damaged}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again, taken = trained(tmp_path / "again", data, tiny(classifier_epochs=1))
    assert not taken
    assert same(again, first)
    assert len(path.read_bytes()) > len(whole) // 2


def place(data, **changes):
    config = tiny(**changes)
    model = sk.build_model(config)
    return stage_ends.place(config, config.stages[0], 0, model, data, Accelerator(cpu=True))


@pytest.mark.parametrize("changes", [
    {"seed": 1}, {"epochs": 2}, {"lr": 0.01}, {"batch_size": 16}, {"momentum": 0.8}, {"weight_decay": 0.0},
    {"nesterov": True}, {"warmup_epochs": 2}, {"decay": 0.1}, {"view": "sim"}, {"flip": False}, {"image_size": 16},
    {"precision": "bf16"}, {"drop_last": True}, {"clip_norm": 1.0}, {"accumulate": 2},
], ids=str)
def test_what_it_depends_on(data, changes):
    assert place(data, **{"precision": "fp32", **changes}) != place(data, precision="fp32")


@pytest.mark.parametrize("changes", [{"classifier_epochs": 5}, {"classifier_lr": 1.0}, {"norms": "eval"}, {"workers": 0}],
                         ids=str)
def test_what_it_does_not_depend_on(data, changes):
    assert place(data, **changes) == place(data)


def test_other_images_or_labels_are_another_stage(data):
    images, labels = data.train.images.clone(), data.train.labels.clone()
    images[3, 0, 5, 5] ^= 1
    labels[0] = (labels[0] + 1) % 48
    others = [sk.DataSet(**{**vars(data), "train": type(data.train)(*parts)})
              for parts in ((data.train.labels, images), (labels, data.train.images))]
    assert len({place(one) for one in (data, *others)}) == 3
    assert place(data, data_seed=1) != place(data)


@pytest.mark.slow
def test_it_is_kept_nowhere_where_it_is_not_shared(tmp_path, data, folder):
    trained(tmp_path / "run", data, tiny(share_stages=False, classifier_epochs=1))
    trained(tmp_path / "cosine", data, tiny("scratch", head="cosine"))
    assert not list(folder.glob("stage-*"))


@pytest.mark.slow
def test_a_run_that_watches_trains_the_stage_itself(tmp_path, data):
    """Else its watched epochs would be missing, in silence."""
    trained(tmp_path / "first", data, tiny("scratch", epochs=5))
    second, taken = trained(tmp_path / "second", data, tiny("scratch", epochs=5, watch="test"))
    assert not taken
    assert second.history["test_accuracy"].notna().sum() == 1
