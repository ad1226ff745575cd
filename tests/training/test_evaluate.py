import contextlib
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import small, write_images

import sagekit as sk
from sagekit import Run, UserError
from sagekit.data import photos
from sagekit.data.batches import seed_of
from sagekit.data.views import five_crops, random_crops, resized_side
from sagekit.devices import precision
from sagekit.networks import mini
from sagekit.runs.listing import problem
from sagekit.studies.summary import paired
from sagekit.training import evaluate
from sagekit.training.evaluate import likeliest, predict
from sagekit.training.fold import fold_run


@pytest.fixture
def copy(runs, tmp_path):
    return Run(shutil.copytree(runs["sage"].path, tmp_path / "copy"))


def test_evaluating_again_gives_the_same_numbers(copy):
    before = copy.metrics["results"]
    assert sk.evaluate(copy, show=False)["results"] == before


@pytest.mark.slow
def test_five_crops_are_the_mean_of_five_logits(copy, data, backbone):
    metrics = sk.evaluate(copy, ensembling=True, show=False)
    assert metrics["results"].keys() == {"single", "five_crops"}
    model = sk.load_model(copy, data.class_names, backbone).eval()
    with torch.no_grad():
        crops = five_crops(data.test.images[:5], 48, copy.config.views)
        mean = torch.stack([model.logits(crop).prediction for crop in crops]).mean(0)
    stored = torch.from_numpy(copy.predictions("five_crops").logits[:5])
    torch.testing.assert_close(stored.softmax(1), mean.softmax(1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("ensemble", ["ten_crops", "random_crops"])
def test_other_crops_are_the_mean_of_their_logits(copy, data, backbone, ensemble):
    found = sk.evaluate(copy, ensemble=ensemble, show=False)
    assert found["results"].keys() == {"single", ensemble}
    assert copy.config.views.ensemble == "five_crops"  # how it was trained stays as it was
    model = sk.load_model(copy, data.class_names, backbone).eval()
    images, settings = data.test.images[:5], copy.config.views
    if ensemble == "ten_crops":
        five = five_crops(images, 48, settings)
        crops = [*five, *(crop.flip(-1) for crop in five)]
    else:
        draws = [torch.Generator().manual_seed(seed_of(0, 0, place, 0, 2)) for place in range(5)]
        crops = random_crops(images, 48, settings, draws)
        assert len(crops) == 10
    with torch.no_grad():
        mean = torch.stack([model.logits(crop).prediction for crop in crops]).mean(0)
    stored = torch.from_numpy(copy.predictions(ensemble).logits[:5])
    torch.testing.assert_close(stored.softmax(1), mean.softmax(1), atol=2e-3, rtol=0)
    before = copy.predictions(ensemble).z
    sk.evaluate(copy, show=False)
    assert np.array_equal(copy.predictions(ensemble).z, before)  # repeatable, the random ones too


@pytest.mark.slow
def test_ensembles_are_kept_beside_one_another(copy):
    sk.evaluate(copy, ensembling=True, show=False)
    both = sk.evaluate(copy, ensemble="ten_crops", show=False)["results"]
    assert list(both) == ["single", "five_crops", "ten_crops"]
    assert sk.evaluate(copy, ensembling=False, show=False)["results"].keys() == {"single"}


def test_an_unknown_ensemble_is_one_line(copy):
    with pytest.raises(UserError, match=r"^there is no ensemble 'six'; there are five_crops, ten_crops, random_crops\.$"):
        sk.evaluate(copy, ensemble="six", show=False)


@pytest.mark.parametrize(("size", "patch", "side"), [(224, 16, 248), (224, 14, 245), (336, 14, 357), (384, 16, 408)])
def test_crops_are_out_of_one_and_a_half_patches_more(size, patch, side, data, backbone, monkeypatch):
    """As LIFT's configurations of ViT-B/16, L/14, L/14 of 336 pixels and ImageNet-21k's B/16 of 384 have it."""
    config = small("lift", test_resize=None, ensemble_margin=None)
    monkeypatch.setattr(backbone, "patch_size", patch)
    model = sk.build_model(config, data.class_names, backbone)
    model.image_size = size
    seen = []
    monkeypatch.setattr(evaluate, "evaluation_batches", lambda *found, **_: seen.append(found) or iter(()))
    with contextlib.suppress(IndexError, ValueError):  # nothing is measured
        predict(model, data.test, config, Accelerator(cpu=True), True, show=False)
    ((_, settings, shown, *_),) = seen
    assert (shown, resized_side(settings, shown, True), resized_side(settings, shown, False)) == (size, side, size * 8 // 7)


def test_stored_predictions_are_the_model_s(copy, data, backbone):
    """Half precision, shifted by each image's maximum, keeps every probability to a thousandth."""
    model = sk.load_model(copy, data.class_names, backbone).eval()
    with torch.no_grad():
        logits = model.logits(data.test.images[:50]).prediction
    stored = torch.from_numpy(copy.predictions().logits[:50])
    torch.testing.assert_close(stored.softmax(1), logits.softmax(1), atol=1e-3, rtol=0)


def test_predictions_keep_the_order_of_the_test_set(copy, data):
    assert np.array_equal(copy.predictions().labels, data.test.labels)


def test_missing_five_crops_say_how_to_get_them(runs):
    with pytest.raises(UserError, match="--ensemble five_crops"):
        runs["lift"].predictions("five_crops")


def test_a_run_of_other_classes_is_refused(copy, data):
    with pytest.raises(UserError, match="knows class 0 as 'plain circle'"):
        sk.load_model(copy, ["round thing", *data.class_names[1:]])
    with pytest.raises(UserError, match="trained for 48 classes; the data has 3"):
        sk.load_model(copy, data.class_names[:3])


def test_another_backbone_is_refused(copy, data):
    with pytest.raises(UserError, match="trained on the backbone 'mini', not on 'ViT-B-32'"):
        sk.load_model(copy, data.class_names, config=copy.config.changed(backbone="ViT-B-32", pretrained="random"))


@pytest.mark.parametrize("foreign", [{"test_resize": 64}, {"backbone": "ViT-B-32"}, {"data_seed": 1}, {"precision": "bf16"},
                                     {"templates": 1}, {"nonsense": 1}])
def test_what_would_be_measured_cannot_be_changed(copy, foreign):
    before = {path.name: path.read_bytes() for path in copy.path.iterdir()}
    with pytest.raises(UserError, match=f"'{next(iter(foreign))}' would change what is measured") as error:
        sk.evaluate(copy, show=False, **foreign)
    assert "\n" not in str(error.value)
    assert before == {path.name: path.read_bytes() for path in copy.path.iterdir()}


def test_this_machine_s_settings_may_differ(copy):
    before = copy.metrics["results"]
    assert sk.evaluate(copy, show=False, device="cpu", workers=0)["results"] == before


@pytest.mark.slow
def test_stored_five_crops_stay_unless_they_are_turned_off(copy):
    first = sk.evaluate(copy, ensembling=True, show=False)["results"]
    assert sk.evaluate(copy, show=False)["results"] == first
    assert copy.predictions("five_crops").z.shape == copy.predictions().z.shape
    assert sk.evaluate(copy, ensembling=False, show=False)["results"].keys() == {"single"}


@pytest.mark.slow
def test_the_record_says_with_what_it_was_measured(copy):
    assert copy.metrics["versions"] == {"sagekit": sk.__version__, "method": sk.methods.load("sage").version,
                                        "torch": torch.__version__}
    assert copy.metrics["precision"] == precision(copy.config.machine, torch.device("cpu"))
    assert copy.metrics["folded"] is False
    fold_run(copy.path)
    assert sk.evaluate(copy, folded=True, show=False)["folded"] is True
    assert sk.evaluate(copy, show=False)["folded"] is False


def test_a_run_of_the_old_format_is_one_line(copy):
    path = copy.path / "config.yaml"
    first, rest = path.read_text().split("\n", 1)
    assert first == "format: 3"
    path.write_text(rest + "compensation: true\nmodule: sg\n")
    with pytest.raises(UserError, match="has run format 1 and this sagekit reads 3; train the run again") as error:
        sk.evaluate(copy.path, show=False)
    assert "\n" not in str(error.value)


def test_the_backbone_s_weights_may_lie_elsewhere(copy, tmp_path):
    before = copy.metrics["results"]
    moved = shutil.copy(mini.WEIGHTS, tmp_path / "moved.safetensors")
    assert sk.evaluate(copy, show=False, weights=moved)["results"] == before


def test_folded_weights_that_are_missing(copy):
    with pytest.raises(UserError, match=r"no weight file at .*folded"):
        sk.evaluate(copy, folded=True, show=False)


def test_parameters_are_counted(runs, backbone):
    assert runs["sage"].metrics["trainable_parameters"] == {
        "net": sum(p.numel() for n, p in runs["sage"].weights().items() if n.startswith("net.adapters")),
        "head": 48 * 128, "s_v": 1, "s_t": 1}
    assert sum(runs["zero_shot"].metrics["trainable_parameters"].values()) == 0


def test_very_many_classes_are_stored_in_part(copy, monkeypatch):
    """As if 48 were too many to keep: the metrics stay, the file shrinks, and the listing finds it whole."""
    size, before = (copy.path / "predictions.npz").stat().st_size, copy.metrics["results"]["single"]
    module = sys.modules["sagekit.training.evaluate"]  # the package's attribute of this name is the function
    monkeypatch.setattr(module, "ALL", 20)
    monkeypatch.setattr(module, "KEPT", 6)
    after = sk.evaluate(copy, show=False)["results"]["single"]
    for key in ("calibration_error", "negative_log_likelihood"):
        assert after.pop(key) == pytest.approx(before.pop(key), abs=1e-3)
    assert after == before
    assert copy.predictions().classes.shape == (192, 6)
    assert (copy.path / "predictions.npz").stat().st_size < size / 3
    assert problem(Run(copy.path)) == ""
    assert paired([(Run(copy.path), Run(copy.path))]).loc["all", "difference"] == 0


def test_with_bf16_the_head_stays_in_float32(data, backbone, runs):
    """Logits that only bf16 could hold would tie: of two at 8, the nearest ones are 0.03 apart."""
    model = sk.load_model(runs["sage"], data.class_names, backbone)
    half, full = (predict(model, data.test, small(precision=p), Accelerator(cpu=True), show=False) for p in ("bf16", "fp32"))
    assert (half.z != torch.from_numpy(half.z).bfloat16().float().numpy()).mean() > 0.9
    assert abs(half.z - full.z).max() < 0.5
    assert (half.predicted == full.predicted).mean() > 0.95


def test_the_likeliest_classes_of_an_image(runs, data, backbone):
    model = sk.load_model(runs["sage"], data.class_names, backbone)
    images = data.test.images[:3] / 255
    table = likeliest(model, images, data.class_names, 2)
    assert table["image"].tolist() == [0, 0, 1, 1, 2, 2]
    chances = model.logits(images).prediction.softmax(-1)
    assert table["class"][::2].tolist() == [data.class_names[c] for c in chances.argmax(1)]
    assert table["probability"][::2].tolist() == pytest.approx(chances.max(1).values.tolist())
    assert (table["probability"][::2].to_numpy() >= table["probability"][1::2].to_numpy()).all()


@pytest.fixture
def listed(tmp_path):
    """A list of eight images in the mini world's classes, under tmp_path."""
    paths = write_images(tmp_path / "own", 8)
    (tmp_path / "own.txt").write_text("".join(f"own/{p.name} {i}\n" for i, p in enumerate(paths)))
    return tmp_path / "own.txt"


def test_validation_images_may_be_measured_again(copy):
    before, test = copy.record("val"), (copy.path / "metrics.json").read_bytes()
    assert sk.evaluate(copy, split="val", show=False) == before
    assert (copy.path / "metrics.json").read_bytes() == test


def test_the_training_images_become_a_record(copy, data):
    found = sk.evaluate(copy, split="train", show=False)
    assert found["images"] == len(data.train)
    assert copy.records == ["test", "train", "val"]
    assert (copy.predictions(split="train").labels == data.train.labels.numpy()).all()


def test_an_image_list_becomes_a_record(copy, listed, data, backbone, monkeypatch):
    """The data set is not read for it, and the predictions name its files."""
    module = sys.modules["sagekit.training.evaluate"]
    monkeypatch.setattr(module, "load_data", lambda *_: pytest.fail("the data were read"))
    found = sk.evaluate(copy, split=listed, data_root=listed.parent, show=False)
    assert (found["split"], found["images"], copy.records) == ("own", 8, ["test", "own", "val"])
    stored = copy.predictions(split="own")
    assert stored.files.tolist() == [f"own/{i}.jpg" for i in range(8)]
    assert stored.labels.tolist() == list(range(8))
    model = sk.load_model(copy, data.class_names, backbone).eval()
    seen = [photos.evaluation_views(listed.parent / name, 48, copy.config.views, False, "bilinear") for name in stored.files]
    with torch.no_grad():
        assert stored.predicted.tolist() == model.logits(torch.cat(seen)).prediction.argmax(1).tolist()
    assert found["results"]["single"]["per_class"][8:] == [None] * 40


def test_a_list_speaks_of_classes_as_the_run_s_own_lists_do(copy, listed, capsys):
    """Labels from 1, and a class that was left out: the run knows what its lists called each class."""
    copy.write_metrics({**copy.metrics, "list_labels": [n for n in range(1, 50) if n != 3]})
    lines = [line.rsplit(" ", 1)[0] for line in listed.read_text().splitlines()]
    rows = [f"{path} {label}\n" for path, label in zip(lines, (1, 2, 4, 5, 49), strict=False)]
    listed.write_text("path label\n" + "".join(rows))
    sk.evaluate(copy, split=listed, data_root=listed.parent)
    assert copy.predictions(split="own").labels.tolist() == [0, 1, 2, 3, 47]
    assert "'path label', is taken for a header" in capsys.readouterr().err
    listed.write_text(f"{lines[0]} 3\n")
    with pytest.raises(UserError, match=r"has the label 3; the run has 48 classes, 1\.\.49"):
        sk.evaluate(copy, split=listed, name="three", data_root=listed.parent, show=False)


def test_a_record_of_other_images_is_never_overwritten(copy, listed):
    sk.evaluate(copy, split=listed, data_root=listed.parent, show=False)
    sk.evaluate(copy, split=listed, data_root=listed.parent, show=False)  # the same images: measured again
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:-1]))
    before = {path.name: path.read_bytes() for path in copy.path.iterdir()}
    with pytest.raises(UserError, match=r"metrics-own.json is of other images and is not overwritten; .*--name NAME") as error:
        sk.evaluate(copy, split=listed, data_root=listed.parent, show=False)
    assert "\n" not in str(error.value)
    assert before == {path.name: path.read_bytes() for path in copy.path.iterdir()}
    assert sk.evaluate(copy, split=listed, name="seven", data_root=listed.parent, show=False)["images"] == 7


def test_other_test_images_need_a_name(copy):
    metrics = copy.metrics
    copy.write_metrics({**metrics, "test_digest": "another"})
    with pytest.raises(UserError, match=r"metrics\.json is of other images"):
        sk.evaluate(copy, show=False)
    assert sk.evaluate(copy, name="now", show=False)["results"] == metrics["results"]
    assert copy.record("now")["digest"] == metrics["test_digest"]


@pytest.mark.parametrize(("split", "name", "message"), [
    ("vall", None, "there is no split 'vall', and no image list of that name; splits are train, val, test"),
    ("high.txt", None, "high.txt has the label 48; the run has 48 classes, 0..47."),
    ("val.txt", None, "'val' is the record of the run's own val images; choose another with --name"),
    ("val", "test", "'test' is the record of the run's own test images"),
    ("val", "../x", "'../x' is no name for a record"),
])
def test_mistakes_write_nothing(copy, split, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, 1)
    (tmp_path / "high.txt").write_text("0.jpg 48\n")
    (tmp_path / "val.txt").write_text("0.jpg 0\n")
    before = {path.name for path in copy.path.iterdir()}
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sk.evaluate(copy, split=split, name=name, data_root=tmp_path, show=False)
    assert "\n" not in str(error.value)
    assert before == {path.name for path in copy.path.iterdir()}


def test_data_without_validation_images_say_so(tmp_path, data, backbone, monkeypatch):
    without = replace(data, val=None)
    monkeypatch.setattr(sys.modules["sagekit.training.evaluate"], "load_data", lambda *_: without)
    run = sk.train(small("zero_shot"), tmp_path / "run", data=without, backbone=backbone, show=False)
    assert run.records == ["test"]
    with pytest.raises(UserError, match="has no validation images"):
        sk.evaluate(run, split="val", show=False)
