"""ResNet-32: its size, its block by plain code, its heads, and a run from scratch."""

import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import small, write_images

from sagekit import Config, UserError, build_model, evaluate, load_data, train
from sagekit.data.batches import Batch
from sagekit.methods import Now
from sagekit.networks.heads import Features
from sagekit.networks.resnet import Block, ResNet32
from sagekit.training import fold


def scratch(**changes):
    return small("scratch", **changes)


def model_of(classes, **changes):
    return build_model(scratch(**changes), [f"thing {i}" for i in range(classes)])


def test_it_has_the_published_size():
    """0.46M in Table 1: without the classifier."""
    model = model_of(100)
    assert model.parameter_counts() == {"net": 463_504, "head": 64 * 100 + 100}
    convolutions = [m for m in ResNet32().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 32


def test_a_stage_s_first_block_by_plain_code():
    block = Block(2, 4, 2).double().eval()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    y = block.norm2(F.conv2d(F.relu(block.norm1(F.conv2d(x, block.conv1.weight, stride=2, padding=1))), block.conv2.weight,
                             padding=1))
    y[:, 1:3] += x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), F.relu(y))


def test_a_cosine_head_is_bounded_by_its_scale():
    model = model_of(5, head="cosine").eval()
    feature = 100 * torch.randn(7, 64)
    z = model.classify(Features(feature)).z
    torch.testing.assert_close(z, 25 * F.cosine_similarity(feature[:, None], model.head.rows[None], dim=-1))


def test_bytes_and_fractions_are_the_same_image():
    model = model_of(5).eval()
    pixels = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    torch.testing.assert_close(model.logits(pixels).z, model.logits(pixels / 255).z)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "cdb"])
def test_a_run_resumes_bit_for_bit_and_measures_again(tmp_path, loss, monkeypatch):
    trainer = sys.modules["sagekit.training.train"]
    config = scratch(loss=loss, epochs=2, largest_class=10, test_per_class=2)
    data = load_data(config.data)
    whole = train(config, tmp_path / "whole", data=data, show=False)
    real = trainer._epoch

    def cut(loop, wrapped, optimizer, stage, number, epoch, *rest):
        if epoch == 1:
            raise KeyboardInterrupt
        return real(loop, wrapped, optimizer, stage, number, epoch, *rest)

    monkeypatch.setattr(trainer, "_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", data=data, show=False)
    monkeypatch.setattr(trainer, "_epoch", real)
    resumed = train(config, tmp_path / "cut", resume=True, data=data, show=False)
    assert all(torch.equal(resumed.weights()[k], v) for k, v in whole.weights().items())
    again = evaluate(resumed, show=False)
    assert again["results"]["single"]["all"] == whole.metrics["results"]["single"]["all"]


@pytest.mark.slow
def test_it_runs_on_cifar_100_lt(tmp_path, cifar):
    """At 32 px, on a folder in CIFAR-100's format; five crops too."""
    config = Config.preset("cifar100-lt-10", "scratch", data_root=cifar, epochs=1, ensembling=True, share_stages=False)
    run = train(config, tmp_path / "run", show=False)
    assert run.predictions().z.shape == (200, 100)
    assert set(run.metrics["results"]) == {"single", "five_crops"}


@pytest.mark.slow
def test_it_learns_a_batch_by_heart():
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(16, 3, 24, 24, generator=g), torch.arange(16) % 4
    torch.manual_seed(0)
    model = model_of(4).train()
    batch, now = Batch((images,), labels, torch.arange(16)), Now(0, 0, 0.0, g)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(40):
        loss = model((batch,), now)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(("changes", "message"), [
    ({"loss": "kps"}, "needs head=cosine"),
    ({"loss": "la", "tau": 1.5, "gamma": 0.05}, "has tau = 1"),
    ({"fit": True}, "'fit' is a setting of sage, not of scratch"),
    ({"module": "lora"}, "'module' is a setting of classifier, lift, lift_plus, not of scratch"),
    ({"backbone": "mini"}, "trains a network from scratch .*and mini is pretrained"),
])
def test_what_does_not_go_together(changes, message):
    with pytest.raises(UserError, match=message):
        scratch(**changes)


def test_clip_s_own_limits():
    with pytest.raises(UserError, match="method lift needs a CLIP and resnet32 is trained from scratch"):
        small("lift", backbone="resnet32")
    with pytest.raises(UserError, match=r"'loss' is a setting of .*lift.*, not of sage"):
        small("sage", loss="dbm")
    with pytest.raises(UserError, match=r"'tau' is a setting of .*lift.*, not of sage"):
        small("sage", tau=1.5)
    with pytest.raises(UserError, match="has tau = 1"):
        small("lift", tau=1.5, gamma=0.05)


def test_it_cannot_be_folded(tmp_path):
    run = train(scratch(epochs=0), tmp_path / "run", show=False)
    with pytest.raises(UserError, match="is a run of scratch, which has no SG-Adapters to fold"):
        fold.fold_run(run.path)


@pytest.mark.slow
def test_files_of_any_size_are_shifted_too(tmp_path):
    for name, size in (("cat", 70), ("dog", 90)):
        write_images(tmp_path / name, 6, size=size)
    config = Config.preset("folder", "scratch", data_root=tmp_path, epochs=1, batch_size=4, workers=0)
    assert train(config, tmp_path / "run", show=False).finished
