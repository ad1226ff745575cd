import json
import shutil

import numpy as np
import pytest

from sagekit import Run, UserError
from sagekit.runs.listing import problem
from sagekit.runs.run import find_runs


@pytest.fixture
def copy(runs, tmp_path):
    return Run(shutil.copytree(runs["sage"].path, tmp_path / "copy"))


def test_a_run_holds_what_the_design_says(runs):
    files = {"config.yaml", "metrics.json", "history.csv", "predictions.npz", "weights.safetensors", "log.txt",
             "metrics-val.json", "predictions-val.npz"}
    assert {p.name for p in runs["sage"].path.iterdir()} == files
    assert {p.name for p in runs["zero_shot"].path.iterdir()} == files - {"history.csv", "weights.safetensors"}


def test_only_what_was_trained_is_saved(runs):
    names = runs["sage"].weights().keys()
    assert {"head.rows", "s_v", "s_t"} < names
    assert not any("backbone" in name for name in names)
    assert runs["classifier"].weights().keys() == {"head.rows"}


def test_metrics_say_everything(runs):
    result = runs["sage"].metrics["results"]["single"]
    assert {"mean", "all", "balanced", "groups", "top5", "macro_f1", "worst_class", "harmonic_mean", "geometric_mean",
            "calibration_error", "negative_log_likelihood", "per_class"} == result.keys()
    assert result["groups"].keys() == {"own", "beta100", "thirds"}
    assert len(result["per_class"]) == 48
    assert runs["sage"].metrics["mini_world"] is True


def test_predictions_need_no_model(runs):
    p = runs["sage"].predictions()
    assert p.z.shape == p.z_v.shape == p.z_t.shape == (192, 48)
    assert runs["sage"].metrics["results"]["single"]["all"]["accuracy"] == pytest.approx(p.correct.mean())
    assert p.z.max(1).tolist() == p.z_v.max(1).tolist() == [0] * 192
    np.testing.assert_allclose(p.logits, p.z + p.s_v * p.z_v + p.s_t * p.z_t)
    assert runs["lift"].predictions().z_v is None


def test_history_has_a_row_an_epoch(runs):
    history = runs["sage"].history
    assert len(history) == 1
    assert {"epoch", "stage", "lr", "seconds", "images_per_second", "waiting",
            "loss", "z", "z_v", "z_t", "prediction", "train_accuracy", "s_v",
            "s_t"} == set(history.columns)
    assert runs["zero_shot"].history.empty


def test_find_runs(runs):
    assert [r.name for r in find_runs(runs["sage"].path.parent)] == ["classifier", "lift", "sage", "zero_shot"]


@pytest.mark.parametrize(("file", "content", "message"), [
    ("metrics.json", b'{"results": ', "damaged"),
    ("metrics.json", b"[]", "not the record of a run"),
    ("metrics.json", b"\xff\xfe", "damaged"),
    ("metrics.json", None, "not finished"),
    ("config.yaml", b"a: [", "not valid YAML"),
    ("config.yaml", None, "not a run"),
    ("predictions.npz", b"PK\x03\x04", "damaged"),
    ("predictions.npz", b"", "damaged"),
    ("predictions.npz", None, "no predictions.npz"),
    ("weights.safetensors", b"\x00" * 40, "damaged"),
    ("weights.safetensors", None, "no weight file"),
])
def test_broken_files_are_one_line(copy, file, content, message):
    path = copy.path / file
    path.unlink() if content is None else path.write_bytes(content)
    readers = {"metrics.json": lambda r: r.metrics, "config.yaml": lambda r: r.config,
               "predictions.npz": lambda r: r.predictions(), "weights.safetensors": lambda r: r.weights()}
    with pytest.raises(UserError, match=message) as error:
        readers[file](Run(copy.path))
    assert "\n" not in str(error.value)


def test_predictions_of_wrong_shape(copy):
    np.savez(copy.path / "predictions.npz", labels=np.zeros(5, int), scalars=np.zeros(2), z=np.zeros((4, 48), np.float16))
    with pytest.raises(UserError, match="different lengths"):
        copy.predictions()


def test_pickled_arrays_are_refused(copy):
    np.savez(copy.path / "predictions.npz", labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        copy.predictions()


def test_weights_know_what_they_belong_to(copy, data):
    copy.check_fits("mini", data.class_names)
    with pytest.raises(UserError, match="trained on the backbone 'mini', not on 'ViT-B-16'"):
        copy.check_fits("ViT-B-16", data.class_names)
    with pytest.raises(UserError, match="trained for 48 classes; the data has 47"):
        copy.check_fits("mini", data.class_names[:-1])
    with pytest.raises(UserError, match="knows class 0 as 'plain circle'; the data calls it 'round thing'"):
        copy.check_fits("mini", ["round thing", *data.class_names[1:]])


def test_metrics_are_plain_json(runs):
    json.loads((runs["sage"].path / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_what_is_left_goes_by_the_epochs_that_are_done(copy):
    assert copy.seconds_left == 0
    config = copy.config.changed(epochs=4)
    copy.write_config(config)
    again = Run(copy.path)
    assert again.seconds_left == pytest.approx(3 * again.history["seconds"].iloc[0])
    (copy.path / "history.csv").unlink()
    assert np.isnan(Run(copy.path).seconds_left)


def test_a_record_for_each_set_of_images(runs, data):
    run = runs["sage"]
    assert run.records == ["test", "val"]
    val, test = run.record("val"), run.record()
    assert (val["split"], val["images"], val["digest"]) == ("val", 96, data.val.digest())
    assert (test["split"], test["images"], test["digest"]) == ("test", 192, data.test.digest())
    assert val["results"].keys() == run.metrics["results"].keys()
    assert val["versions"] == run.metrics["versions"]
    stored = run.predictions(split="val")
    assert (stored.labels == data.val.labels.numpy()).all()
    assert stored.correct.mean() == pytest.approx(val["results"]["single"]["all"]["accuracy"])
    assert stored.files is None  # they are no files


def test_a_record_that_is_not_there_says_how_to_make_it(runs):
    for read in (runs["sage"].record, lambda split: runs["sage"].predictions(split=split)):
        with pytest.raises(UserError, match=r"run `sagekit evaluate .*sage --split train`\.$"):
            read("train")
    with pytest.raises(UserError, match=r"no 'five_crops' predictions of 'val'; run .* --split val --ensemble five_crops`"):
        runs["sage"].predictions("five_crops", "val")


def test_a_damaged_record_is_one_line(copy):
    for content, message in ((b"{", "damaged"), (b"[]", "not the record"), (b'{"results": {}}', "not a record")):
        (copy.path / "metrics-val.json").write_bytes(content)
        with pytest.raises(UserError, match=message):
            copy.record("val")


def test_files_are_kept_by_name(copy):
    p = copy.predictions()
    p.files = np.array([f"a/ü{i}.jpg" for i in range(192)])
    copy.write_predictions({"single": p, "five_crops": p})
    assert copy.predictions("five_crops").files.tolist() == p.files.tolist()
    assert problem(copy) == ""
    p.files = p.files[:5]
    copy.write_predictions({"single": p})
    with pytest.raises(UserError, match="names 5 files for 192 images"):
        copy.predictions()
    assert "'files' has the shape (5,)" in problem(copy)
