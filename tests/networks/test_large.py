"""The ResNets of the large sets: as printed, as timm has them, and from a file."""

import pytest
import torch
from timm.models import resnet as timm

import sagekit as sk
from sagekit import UserError
from sagekit.networks import resnet

CLASSES = ["cat", "dog", "owl"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "millions", "width"), [
    ("resnet50", 23.51, 2048),  # Tables 3 and 4
    ("resnet152", 58.14, 2048),  # Table 2
    ("resnext50", 22.98, 2048),  # Table 3 prints 25.03 of ResNeXt-50: with a classifier of 1000 classes
    ("resnet10", 4.90, 512),  # Table 3 prints 7.15, which neither this trunk nor one with a classifier has
])
def test_it_has_the_parameters_that_are_printed(name, millions, width):
    net = resnet.build(name)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert net.width == width
    if name == "resnext50":
        assert millions + 1000 * 2049 / 1e6 == pytest.approx(25.03, abs=0.006)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """timm's ResNet-10 with a classifier, as a state dict."""
    torch.manual_seed(0)
    net = timm.ResNet(timm.BasicBlock, (1, 1, 1, 1), num_classes=7)
    path = tmp_path_factory.mktemp("weights") / "resnet10.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    return net, path


def test_the_trunk_of_a_file_is_timms_network(file):
    theirs, path = file
    ours, images = resnet.build("resnet10", path).eval(), torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = theirs.eval().forward_features((images / 255 - mean) / std)
        torch.testing.assert_close(ours.maps(images), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours(images / 255), expected.mean((2, 3)), atol=1e-4, rtol=1e-4)


def test_a_file_that_does_not_fit_is_one_line(file):
    with pytest.raises(UserError, match=r"resnet10.pth does not fit resnet50: ") as error:
        resnet.build("resnet50", file[1])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="resnet32 starts from nothing; leave out weights, or choose"):
        resnet.build("resnet32", file[1])


def scratch(method="scratch", **changes):
    changes = {"backbone": "resnet10", "image_size": 32, "largest_class": 4, "imbalance_ratio": 2.0, "test_per_class": 1,
               "epochs": 1, "batch_size": 32, **changes}
    return sk.Config.preset("mini", method, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scratch", "crt"])
def test_the_last_block_alone_is_trained(method, file, tmp_path):
    config = scratch(method, blocks="last", weights=str(file[1]), **({"classifier_epochs": 1} if method == "crt" else {}))
    run = sk.train(config, tmp_path / "run", show=False)
    before, after = resnet.build("resnet10", file[1]).state_dict(), run.weights()
    changed = {name.split(".")[0] for name, value in before.items()
               if "running" not in name and "tracked" not in name and not torch.equal(value, after[f"net.{name}"])}
    assert changed == {"last"}


@pytest.mark.slow
def test_a_cached_stage_of_the_last_block_has_the_statistics_of_all(file, tmp_path):
    """BatchNorm of the frozen blocks moves in training mode, so the cache keeps it too."""
    how = {"blocks": "last", "weights": str(file[1]), "classifier_epochs": 1}
    runs = [sk.train(scratch("crt", **how, share_stages=share), tmp_path / str(k), show=False)
            for k, share in enumerate((True, True, False))]
    assert "taken from the cache" in (runs[1].path / "log.txt").read_text(encoding="utf-8")
    other = sk.train(scratch("crt", **{**how, "blocks": "all"}), tmp_path / "all", show=False)
    assert "taken from the cache" not in (other.path / "log.txt").read_text(encoding="utf-8")  # all blocks: another stage
    weights = [run.weights() for run in runs]
    assert all(torch.equal(weights[1][name], value) and torch.equal(weights[2][name], value)
               for name, value in weights[0].items())


def test_the_last_block_of_a_network_that_has_seen_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"blocks=last trains .*--set weights=FILE") as error:
        sk.train(scratch(blocks="last"), tmp_path / "run", show=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_large_sets_have_their_networks():
    for preset, backbone, blocks in (("imagenet-lt", "resnet50", "all"), ("inat2018", "resnet50", "all"),
                                     ("places-lt", "resnet152", "last")):
        config = sk.Config.preset(preset, "scratch")
        assert (config.network.backbone, config.settings.blocks, config.network.image_size) == (backbone, blocks, 224)
        assert config.stages[0].views[0].name == "jitter"
    assert sk.Config.preset("imagenet-lt", "ncm").network.backbone == "resnext50"


def test_bbn_is_of_resnet_32_alone():
    with pytest.raises(UserError, match="bbn has two last blocks of resnet32, not of resnet50; leave out backbone"):
        sk.build_model(sk.Config.preset("imagenet-lt", "bbn"), CLASSES)
