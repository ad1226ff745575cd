"""One test for every method: whatever file is put into ``sagekit/methods/`` is held to all of this.

A new method adds its literal twin to ``twins``, and a file of its own traps beside these. Methods that may stand on a CLIP are
held to it there too (``crt on lift``).
"""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import shaken
from twins import TWINS

import sagekit as sk
from sagekit import UserError, methods, paper
from sagekit.config import PRESETS
from sagekit.data.batches import Batch, train_batches
from sagekit.methods import Now
from sagekit.methods._about import needs

trainer = sys.modules["sagekit.training.train"]  # the module: sagekit.train itself is the function

NAMES = methods.names()
DATA = {"largest_class": 12, "imbalance_ratio": 4.0, "test_per_class": 2, "share_stages": False}
EXTRA = {"ballad": {"adapter_epochs": 2}, "cmo": {"plain_epochs": 0, "mix_probability": 1.0},
         "fur": {"extractor_epochs": 2, "norms": "train"}, "lpt": {"pool_epochs": 2},
         "otmix": {"plain_epochs": 0, "mix_probability": 1.0, "transport_power": 0.0}}
"""FUR's norms: with the statistics that BatchNorm starts from, an untrained network's features are huge."""
TELLING = {"sage": {"lambda_1": 0.1, "lambda_2": 0.3, "lambda_3": 0.7, "gamma": 0.4}, "gnm_pt": {"late_from": 0.5}}
"""Where the mini world's settings would hide one weight behind another, or a tiny run has no late epoch."""
CLASSES, COUNTS = ["plain circle", "striped star", "dotted heart", "dotted star"], torch.tensor([9, 5, 3, 2])
LABELS = torch.tensor([0, 1, 0, 2, 1, 0])  # class 3 is not in the batch, class 2 has one image


def tiny(method, **changes):
    """The mini preset on 290 images, two epochs a stage; ``method`` may end in " on lift"."""
    name, _, base = method.partition(" on ")
    own = methods.load(name).Settings.model_fields
    start = {"epochs": 2, "batch_size": 32, "classifier_epochs": 2, **({"base": base} if base else {})}
    return sk.Config.preset("mini", name, **{**DATA, **{k: v for k, v in start.items() if k in own}, **EXTRA.get(name, {}),
                                             **changes})


def on_lift(method):
    field = methods.load(method).Settings.model_fields.get("base")
    return field is not None and "lift" in get_args(field.annotation)


WAYS = [*NAMES, *(f"{method} on lift" for method in NAMES if on_lift(method))]
STAGES = [(way, number) for way in WAYS for number, stage in enumerate(tiny(way).stages) if stage.epochs]
TRAINED = [method for method in NAMES if tiny(method).stages]
KILLS = [(way, epoch) for way in (*TRAINED, "crt on lift") for epoch in range(1, tiny(way).epochs)]


@pytest.fixture(scope="session")
def world():
    return sk.load_data(tiny("lift").data)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, world, backbone):
    """A finished tiny run of a method, trained once."""
    folder, made = tmp_path_factory.mktemp("methods"), {}

    def of(method):
        if method not in made:
            made[method] = sk.train(tiny(method), folder / method, data=world, backbone=backbone, show=False)
        return made[method]

    return of


def doubled(method, backbone, stage=0):
    """The method in float64 on four classes, at the start of a stage, away from its special initial values."""
    config = tiny(method, **TELLING.get(method, {}))
    model = sk.build_model(config, CLASSES, copy.deepcopy(backbone), class_counts=COUNTS.tolist())
    for number in range(stage + 1):
        model.start_stage(number)
    return shaken(model).train()


def batches_for(model, stage, images=6):
    """A batch from each sampler of ``stage``: random pixels, the labels rolled by one each time."""
    g = torch.Generator().manual_seed(0)
    return tuple(Batch(tuple(torch.rand(images, 3, model.image_size, model.image_size, generator=g, dtype=torch.float64)
                             for _ in stage.views), LABELS.roll(k), torch.arange(images)) for k in range(len(stage.samplers)))


def now(stage=0, epoch=1, seed=0):
    return Now(stage, epoch, 0.5, torch.Generator().manual_seed(seed))


VALUE_ONLY = {"proco"}  # its twin goes through scipy's Bessel function; tests/methods/test_proco.py has the gradient


# --- what it says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_its_file_says_what_it_is(method):
    text = methods.about(method).__doc__
    first = text.split("\n\n")[0]
    assert first.lower().replace("-", "_").startswith(("classifier only", "resnet_32", "zero_shot", method))
    assert re.search(r"\(.*\d{4}\)|\(.*Table \d+.*\)|a control", first)
    assert "It believes" in text or "believes that" in text
    assert "Where" in text or method == "classifier"
    assert methods.load(method).paper


@pytest.mark.parametrize("method", NAMES)
def test_every_setting_of_its_own_has_a_word_about_it(method):
    for key, field in methods.load(method).Settings.model_fields.items():
        assert field.description, key


@pytest.mark.parametrize("method", NAMES)
def test_what_it_calls_published_is_printed_so(method):
    for preset, row in methods.about(method).PUBLISHED.items():
        assert sk.Config.preset(preset, method).settings  # its settings are valid there
        assert preset in PRESETS
        place = re.fullmatch(r"Table (\d+), row (.+)", row.source)
        if place is None:
            assert row.source or not row.numbers
            continue
        table = paper.table(int(place[1]))
        printed = table[(table["system"] == place[2]) & (table["dataset"] == paper.DATASET_OF[preset])]
        assert len(printed) == 1
        assert printed.iloc[0][list(row.numbers)].to_dict() == dict(row.numbers)


@pytest.mark.parametrize("method", NAMES)
def test_a_foreign_setting_is_refused_in_one_line(method):
    own = sk.Config.preset("mini", method).flat
    key = next(k for other in NAMES for k in methods.load(other).Settings.model_fields if k not in own)
    line = rf"^'{key}' is a setting of .*, not of {method}; .*`sagekit methods {method}`"
    with pytest.raises(UserError, match=line) as error:
        sk.Config.preset("mini", method, **{key: 1})
    assert "\n" not in str(error.value)


def test_what_reads_no_names_needs_no_text_tower():
    said = {method: needs(method) for method in NAMES}
    assert {method for method, text in said.items() if text == "a CLIP or another plain ViT"} == {
        "decoder", "gnm_pt", "linear_probe", "lpt"}
    assert (said["lift"], said["scratch"]) == ("a CLIP", "nothing (from scratch)")


# --- what it computes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WAYS)
def test_it_predicts(method, backbone):
    model = sk.build_model(tiny(method), CLASSES, backbone, class_counts=COUNTS.tolist()).eval()
    pixels = torch.randint(256, (3, 3, model.image_size, model.image_size), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.features(pixels / 255)
        logits = model.classify(features)
        assert features.own.shape[0] == 3
        assert features.own.ndim == 2
        for z in logits:
            assert z is None or z.shape == (3, 4)
        assert logits.prediction.dtype == torch.float32
        torch.testing.assert_close(logits.prediction.softmax(1).sum(1), torch.ones(3))
        torch.testing.assert_close(model.logits(pixels).prediction, logits.prediction, atol=1e-4, rtol=1e-4)  # bytes too
        with torch.autocast("cpu", torch.bfloat16):
            assert model.logits(pixels / 255).prediction.dtype == torch.float32
        if model.frozen_backbone() is not None:
            known = model.frozen_backbone().features(pixels / 255)
            torch.testing.assert_close(model.logits(pixels / 255, known).prediction, logits.prediction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_its_loss_is_that_of_its_literal_twin(method, stage, epoch, backbone):
    """In float64: the value, and the gradient of every tensor that the stage trains."""
    model = doubled(method, backbone, stage)
    recipe = tiny(method).stages[stage]
    parameters = trainer._trained_in(model, recipe, method, stage)
    batches, twin = batches_for(model, recipe), copy.deepcopy(model)
    literal = TWINS[method.partition(" on ")[0]](twin, batches, now(stage, epoch), COUNTS.double())
    ours = model(batches, now(stage, epoch))["loss"]
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, literal, atol=1e-9, rtol=1e-9)
    if method in VALUE_ONLY:
        return
    ours.backward()
    literal.backward()
    others = dict(twin.named_parameters())
    for name, p in parameters.items():
        expected = torch.zeros_like(p) if others[name].grad is None else others[name].grad
        found = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "number"), STAGES)
def test_a_few_steps_lower_the_loss(method, number, world, backbone):
    config = tiny(method)
    stage, model = config.stages[number], sk.build_model(config, world.class_names, backbone,
                                                         class_counts=world.class_counts.tolist())
    for before in range(number + 1):
        model.start_stage(before)
    optimizer = stage.optimizer(trainer._trained_in(model, stage, method, number))
    trainer._train_mode(model, stage)
    batches = next(train_batches(world.train, stage, config.views, model.image_size, 0, 0, torch.device("cpu")))
    losses = []
    for _ in range(8):
        loss = model(batches, now(number))["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("method", NAMES)
def test_its_parameters_are_counted(method, backbone):
    model = sk.build_model(tiny(method), CLASSES, backbone, class_counts=COUNTS.tolist())
    counted = model.parameter_counts()
    frozen = set(map(id, backbone.parameters()))
    learned = sum(p.numel() for p in model.parameters() if id(p) not in frozen)
    assert sum(counted.values()) == (learned if method in TRAINED else 0)
    if methods.load(method).needs == "scratch":  # "0.46M" in Table 1; BBN's second branch is one block more
        assert sum(counted[part] for part in ("net", "trunk", "branch_a") if part in counted) == 463_504
        assert counted["head"] == {"bbn": 4 * 128 + 4, "gcl": 4 * 64}.get(method, 4 * 64 + 4)


def test_classifier_only_trains_the_head_alone(backbone):
    assert sk.build_model(tiny("classifier"), CLASSES, backbone).parameter_counts() == {"head": 4 * backbone.width}


# --- how it trains --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMES)
def test_a_tiny_run_finishes(method, trained, world):
    run = trained(method)
    assert run.finished
    assert run.metrics["test_images"] == len(world.test)
    assert len(run.history) == tiny(method).epochs if method in TRAINED else not (run.path / "weights.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epoch"), KILLS)
def test_killed_in_any_stage_it_continues_bit_for_bit(method, epoch, tmp_path, trained, world, backbone, monkeypatch):
    """``epoch`` counts through all stages; the first of a stage is killed too, when only the stage before it is on disk."""
    config, real = tiny(method), trainer._epoch

    def killed(*args):
        if args[5] == epoch:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        sk.train(config, tmp_path / "cut", data=world, backbone=backbone, show=False)
    monkeypatch.setattr(trainer, "_epoch", real)
    torch.manual_seed(epoch)  # nothing may hang on where the process's own generator stands
    again = sk.train(config, tmp_path / "cut", resume=True, data=world, backbone=backbone, show=False)
    a, b = again.weights(), trained(method).weights()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert again.history["loss"].tolist() == trained(method).history["loss"].tolist()
    assert again.metrics["results"] == trained(method).metrics["results"]


@pytest.mark.parametrize("method", NAMES)
def test_two_processes_or_a_refusal(method, world):
    if not methods.load(method).one_process:
        trainer._check(tiny(method), world, 2)
        return
    with pytest.raises(UserError, match=f"method {method} runs in one process .*; start it without accelerate") as error:
        trainer._check(tiny(method), world, 2)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, trained):
    """LIFT, for all: with BatchNorm each process normalises by its own half of the batch, as everywhere, and none of the
    networks from scratch can come out the same."""
    config = tiny("lift", device="cpu")
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("import sys, pathlib, sagekit as sk\n"
                      "sk.train(sk.Config.from_yaml(pathlib.Path(sys.argv[1])), sys.argv[2], show=False)\n", encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*command, script, tmp_path / "config.yaml", tmp_path / "two"], capture_output=True, text=True,
                          timeout=240, check=False, env={**os.environ, "PYTHONPATH": str(Path(sk.__file__).parents[1])})
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = trained("lift"), sk.Run(tmp_path / "two")
    assert "2 process(es)" in (two.path / "log.txt").read_text(encoding="utf-8")
    assert two.history["loss"].tolist() == pytest.approx(one.history["loss"].tolist(), rel=1e-3)
    for name, value in one.weights().items():
        torch.testing.assert_close(two.weights()[name], value, atol=1e-3, rtol=1e-2, msg=name)


def test_zero_shot_trains_nothing(trained, world, backbone):
    assert tiny("zero_shot").stages == []
    assert tiny("zero_shot").epochs == 0
    with pytest.raises(UserError, match=r"'epochs' is a setting of .*, not of zero_shot"):
        tiny("zero_shot", epochs=3)
    run = trained("zero_shot")
    assert not list(run.path.glob("*.safetensors"))
    fresh = sk.build_model(tiny("zero_shot"), world.class_names, backbone)
    rows = sk.load_model(run, world.class_names, backbone).head.rows
    assert torch.equal(rows, fresh.head.rows)
    assert fresh.parameter_counts() == {}
