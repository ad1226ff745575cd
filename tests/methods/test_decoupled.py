"""The traps of methods that train the classifier after the features: what their second stage moves, and what the test uses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import sagekit as sk
from sagekit import UserError
from sagekit.data.samplers import cben, class_aware, class_balanced, every_image
from sagekit.methods import Now, Seen, mislas
from sagekit.networks.heads import Features, right_by_class

CLASSES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], torch.tensor([90, 50, 30, 20])
TINY = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "epochs": 1, "batch_size": 32}


def build(method, backbone=None, **changes):
    config = sk.Config.preset("mini", method, **changes)
    return sk.build_model(config, CLASSES, backbone, class_counts=COUNTS.tolist())


def stages(method, preset="cifar100-lt-100", **changes):
    return sk.Config.preset(preset, method, **changes).stages


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Weights of a tiny run of each method, and of plain CE, which is the first stage of most."""
    folder, known = tmp_path_factory.mktemp("decoupled"), {}
    data = sk.load_data(sk.Config.preset("mini", "scratch", **TINY).data)

    def of(method, **changes):
        name = " ".join([method, *map(str, changes.values())])
        if name not in known:
            second = {} if method in ("scratch", "tau_norm", "ncm") else {"classifier_epochs": 1}
            config = sk.Config.preset("mini", method, **{**TINY, **second, **changes})
            known[name] = sk.train(config, folder / name, data=data, show=False)
        return known[name]

    return of, data


# --- stages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "trains", "samplers", "epochs", "lr", "norms"), [
    ("crt", "head.", (class_aware,), 10, 0.1, "train"),
    ("lws", "scale", (class_aware,), 5, 0.1, "train"),
    ("mislas", ("head.", "scale"), (class_aware,), 10, 0.1, "train"),
    ("disalign", "align.", (every_image,), 10, 0.1, "train"),
    ("gcl", "head.", (class_balanced,), 30, 0.002, "eval"),
    ("h2t", "head.", (class_balanced, every_image), 10, 0.02, "train"),
])
def test_the_second_stage(method, trains, samplers, epochs, lr, norms):
    _, second = stages(method)
    assert (second.trains, second.samplers, second.epochs, second.optimizer.lr, second.norms) == (
        trains, samplers, epochs, lr, norms)
    assert [second.rate(e, 0, epochs) for e in (0, 2)] == pytest.approx([1, (1 + math.cos(2 * math.pi / epochs)) / 2])


def test_first_stages_are_shared_by_what_they_compute():
    expected = {**dict.fromkeys(("crt", "lws", "tau_norm", "ncm", "disalign"), "ce"), "mislas": "mixup 1", "h2t": "mixup 1",
                "gcl": ""}
    assert {method: stages(method)[0].shared for method in expected} == expected
    assert stages("mislas", "imagenet-lt")[0].shared == "mixup 0.2"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "start"), [("lws", "scale"), ("disalign", "align.")])
def test_all_but_what_is_learned_stays_as_stage_1_left_it(ended, method, start):
    of, _ = ended
    before, after = of("scratch").weights(), of(method).weights()
    parameters = [name for name in before if "running" not in name and "tracked" not in name]
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    learned = {name for name in after if name.startswith(start)}
    assert learned == after.keys() - before.keys()
    moved = [not torch.equal(after[name], tensor) for name, tensor in build(method).trained().items()
             if name.startswith(start) and tensor.shape == after[name].shape]
    assert all(moved)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tau_norm", "ncm"])
def test_without_a_second_training_the_network_is_stage_1s(ended, method):
    of, _ = ended
    before, after = of("scratch").weights(), of(method).weights()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(of(method).history) == 1


# --- tau-norm and NCM -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tau_is_the_best_on_validation_images_and_is_kept(ended):
    of, data = ended
    run = of("tau_norm")
    chosen = run.weights()["chosen"].item()
    model = sk.load_model(run, data.class_names)
    rows, best = model.head.weight, []
    with torch.no_grad():
        f = torch.cat([model.features(images).own for images in data.val.images.split(200)
                       for images in [_seen(model, images, run)]])
        for tau in [k / 10 for k in range(21)]:
            z = torch.stack([f @ row / row.norm() ** tau for row in rows], 1)
            best.append(right_by_class(z, data.val.labels).nanmean().item())
    assert chosen == pytest.approx(best.index(max(best)) / 10)
    assert f"after a look at val images, norm_tau {chosen:g}" in (run.path / "log.txt").read_text(encoding="utf-8")


def _seen(model, images, run):
    from sagekit.data.views import centre_view

    return centre_view(images, model.image_size, run.config.views)


def test_tau_norm_drops_the_bias_and_normalises_only_after_training():
    model = build("tau_norm", norm_tau=1.0)
    f = torch.randn(3, 64)
    torch.testing.assert_close(model.classify(Features(f)).z, model.head(f))
    model.start_stage(1)
    with torch.no_grad():
        model.head.bias += 100
    unit = F.normalize(model.head.weight, dim=1)
    torch.testing.assert_close(model.classify(Features(f)).z, f @ unit.T)


def test_at_tau_0_it_is_the_classifier_without_its_bias():
    model = build("tau_norm", norm_tau=0.0)
    model.start_stage(1)
    f = torch.randn(3, 64)
    torch.testing.assert_close(model.classify(Features(f)).z, f @ model.head.weight.T)


def test_a_given_tau_needs_no_validation_images():
    assert stages("tau_norm", norm_tau=1.0)[1].looks == ()
    assert stages("tau_norm")[1].looks == ("val",)


@pytest.mark.slow
def test_without_validation_images_it_says_how_to_get_some(tmp_path):
    config = sk.Config.preset("mini", "tau_norm", **TINY, val_per_class=0)
    with pytest.raises(UserError, match=r"tau_norm chooses or measures on validation images here, .*val_share=0.1"):
        sk.train(config, tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


def test_ncm_is_the_squared_distance_to_class_means_of_centred_unit_features():
    model = build("ncm").double()
    f, labels = torch.randn(40, 64, dtype=torch.float64), torch.arange(40) % 3  # class 3 has no image
    model.look({"train": Seen(f, labels)}, Now(1, 0, 0.0, torch.Generator()))
    model.start_stage(1)
    x, centre = torch.randn(2, 64, dtype=torch.float64), sum(f) / 40
    z = model.classify(Features(x)).z
    for i, one in enumerate(x):
        own = (one - centre) / (one - centre).norm()
        for c in range(3):
            units = [(v - centre) / (v - centre).norm() for v in f[labels == c]]
            assert z[i, c].item() == pytest.approx(-((own - sum(units) / len(units)) ** 2).sum().item(), abs=1e-9)


# --- LWS, DisAlign, MiSLAS, GCL, H2T --------------------------------------------------------------------------------------


def test_lws_scales_the_bias_too():
    model = build("lws")
    with torch.no_grad():
        model.scale.copy_(torch.tensor([1.0, 2.0, 0.5, 0.0]))
    f = torch.randn(2, 64)
    torch.testing.assert_close(model.classify(Features(f)).z, model.scale * (f @ model.head.weight.T + model.head.bias))


def test_disalign_does_not_start_as_the_identity():
    """(1 + s a) z with a = 1: between z and 2 z; the paper's form would be z."""
    model = build("disalign")
    f = torch.rand(5, 64)
    before = model.classify(Features(f)).z
    model.start_stage(1)
    factor = 1 + torch.sigmoid(0.1 * f.sum(1))
    torch.testing.assert_close(model.classify(Features(f)).z, factor[:, None] * before)


def test_mislas_trains_the_rows_at_a_share_of_the_rate_with_the_full_decay():
    _, second = stages("mislas")
    model = build("mislas")
    groups = second.optimizer({name: p for name, p in model.named_parameters() if name.startswith(second.trains)}).param_groups
    assert {(g["rate"], g["weight_decay"], len(g["params"])) for g in groups} == {(0.2, 2e-4, 2), (1.0, 2e-4, 1)}


def test_mislas_smooths_the_largest_class_by_e_1_and_the_smallest_by_e_k():
    e = mislas.smoothing(torch.tensor([500, 100, 5]), 0.4, 0.1)
    assert e.tolist() == pytest.approx([0.4, 0.1 + 0.3 * math.sin(math.pi * 95 / (2 * 495)), 0.1])
    assert mislas.smoothing(torch.tensor([7, 7]), 0.4, 0.1).tolist() == pytest.approx([0.1, 0.1])
    assert (stages("mislas", "cifar100-lt-50")[1].optimizer.multiple("head.weight", None)) == 0.1


def test_gcl_in_the_second_stage_can_draw_by_the_papers_sampler():
    _, second = stages("gcl", classifier_sampler="cben")
    assert second.samplers == (cben,)


def test_gcl_is_tested_on_plain_cosines():
    model = build("gcl")
    f = torch.randn(3, 64)
    cosines = F.normalize(f, dim=1) @ F.normalize(model.head.rows, dim=1).T
    torch.testing.assert_close(model.classify(Features(f)).prediction, 30 * cosines)


@pytest.mark.parametrize("exchanged", [0.0, 0.25])
def test_h2t_exchanges_the_same_channels_in_the_whole_batch(exchanged):
    """A network whose maps are constant: the feature says which image a channel came from."""
    from sagekit.data.batches import Batch

    model = build("h2t", exchanged=exchanged)
    model.net.maps = lambda images: images.mean((1, 2, 3))[:, None, None, None].expand(-1, 64, 2, 2).clone()
    seen = []
    model.head_of = lambda features: seen.append(features.own) or sk.networks.heads.Logits.plain(model.head(features.own))
    labels = torch.tensor([0, 1, 2])
    own, other = (Batch((torch.full((3, 3, 8, 8), value),), labels, labels) for value in (0.0, 1.0))
    model((own, other), Now(1, 0, 0.0, torch.Generator().manual_seed(0)))
    assert seen[0].sum(1).tolist() == [16.0 if exchanged else 0.0] * 3
    assert (seen[0] == seen[0][:1]).all()


# --- on a CLIP ------------------------------------------------------------------------------------------------------------


def test_on_a_clip_the_linear_classifier_starts_as_lifts(backbone):
    crt, lift = build("crt", backbone, base="lift"), build("lift", backbone)
    lift.net.load_state_dict(copy.deepcopy(crt.net.state_dict()))
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(crt.logits(images).z, lift.logits(images).z, atol=1e-4, rtol=1e-4)


def test_on_a_clip_a_new_head_is_the_texts_again(backbone):
    crt = build("crt", backbone, base="lift")
    start = crt.head.weight.detach().clone()
    with torch.no_grad():
        crt.head.weight.zero_()
    crt.start_stage(1)
    assert torch.equal(crt.head.weight, start)


def test_on_a_clip_it_trains_as_lift_does():
    config = sk.Config.preset("cifar100-lt-100", "crt", base="lift")
    first, lift = config.stages[0], sk.Config.preset("cifar100-lt-100", "lift").stages[0]
    assert config.network.backbone == "ViT-B-16-quickgelu"
    for key in ("epochs", "batch_size", "views"):
        assert getattr(first, key) == getattr(lift, key)
    assert (first.optimizer.lr, first.optimizer.weight_decay) == (lift.optimizer.lr, lift.optimizer.weight_decay)
    assert [first.rate(e, 0, 10) for e in range(10)] == pytest.approx([lift.rate(e, 0, 10) for e in range(10)])
    crt, lift = sk.Config.preset("mini", "crt", base="lift"), sk.Config.preset("mini", "lift")
    assert crt.settings.bottleneck == lift.settings.bottleneck


def test_base_is_named_where_the_configuration_is_made():
    line = r"^base=lift needs a CLIP and resnet32 is trained from scratch; name base where"
    with pytest.raises(UserError, match=line) as error:
        sk.Config.preset("mini", "crt").changed(base="lift")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="base"):
        sk.Config.preset("mini", "h2t", base="lift")
