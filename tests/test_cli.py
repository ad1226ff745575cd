import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import pandas as pd
import pytest

import sagekit
from sagekit import Config, Run, cli, methods
from sagekit.cli import main
from sagekit.config import PARTS
from sagekit.studies import demo
from sagekit.studies.study import BASES, STUDIES

SMALL = [f"--set={s}" for s in ("largest_class=30", "imbalance_ratio=10", "test_per_class=4", "epochs=1")]


def call(*arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(cli.console, "_width", 200)


@pytest.mark.slow
def test_demo_prints_the_table_and_can_be_repeated(tmp_path, capsys):
    code, out, err = call("demo", "--headless", "--runs", tmp_path, *SMALL, capsys=capsys)
    assert code == 0, err
    for word in ("zero_shot", "lift", "sage", "head %", "medium %", "tail %", "Mini-world numbers", "192 test images"):
        assert word in out
    assert call("demo", "--headless", "--runs", tmp_path, *SMALL, capsys=capsys)[1] == out


@pytest.mark.slow
def test_evaluate_finds_data_that_has_moved_since_training(cifar, capsys):
    shutil.copytree(cifar / "cifar-100-python", cifar / "before" / "cifar-100-python")
    small = ("--preset", "cifar100-lt-100", "--method", "scratch", "--set=epochs=1", "--set=largest_class=20",
             "--set=imbalance_ratio=10")
    code, _, err = call("train", *small, "--data-root", cifar / "before", "--out", cifar / "run", capsys=capsys)
    assert code == 0, err
    shutil.rmtree(cifar / "before")
    assert call("evaluate", cifar / "run", capsys=capsys)[0] == 2
    code, out, err = call("evaluate", cifar / "run", "--data-root", cifar, "--device", "cpu", capsys=capsys)
    assert code == 0, err
    assert "200 test images" in out


@pytest.mark.slow
def test_train_evaluate_compare_fold(tmp_path, capsys):
    for method in ("lift", "sage"):
        code, _, err = call("train", "--method", method, "--out", tmp_path / method, *SMALL, capsys=capsys)
        assert code == 0, err
    code, out, err = call("evaluate", tmp_path / "sage", "--ensembling", capsys=capsys)
    assert code == 0, err
    assert "single view" in out
    assert "five crops averaged" in out
    code, out, err = call("evaluate", tmp_path / "sage", "--ensemble", "ten_crops", capsys=capsys)
    assert code == 0, err
    assert [words in out for words in ("single view", "five crops averaged", "ten crops averaged")] == [True] * 3
    code, out, err = call("compare", tmp_path / "sage", "--view", "ten_crops", capsys=capsys)
    assert (code, "ten crops averaged" in out) == (0, True)
    code, _, err = call("compare", tmp_path / "lift", "--view", "random_crops", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "was measured without random crops; run `sagekit evaluate" in err
    assert "--ensemble random_crops`" in err
    code, _, err = call("evaluate", tmp_path / "sage", "--ensemble", "six", capsys=capsys)
    assert (code, err) == (2, "sagekit: there is no ensemble 'six'; there are five_crops, ten_crops, random_crops.\n")
    code, _, err = call("evaluate", tmp_path / "sage", "--weights", "none.safetensors", capsys=capsys)
    assert (code, err) == (2, "sagekit: no weight file at none.safetensors.\n")
    code, out, err = call("evaluate", tmp_path / "sage", "--split", "val", capsys=capsys)
    assert code == 0, err
    assert "val: 960 images, single view" in out
    assert "mean %" in out
    code, out, err = call("export", tmp_path / "lift", capsys=capsys)
    assert code == 0, err
    assert "model.onnx: images float32" in out
    code, out, err = call("compare", tmp_path / "lift", tmp_path / "sage", "--groups", "beta100", capsys=capsys)
    assert code == 0, err
    assert "sage minus lift" in out
    assert "imbalance ratio 100" in out
    code, out, err = call("fold", tmp_path / "sage", capsys=capsys)
    assert code == 0, err
    assert "folded to" in out
    assert call("evaluate", tmp_path / "sage", "--folded", capsys=capsys)[0] == 0


def test_a_sweep_is_summarised_and_failures_are_listed(tmp_path, capsys):
    tiny = "method: lift\nset: {largest_class: 6, imbalance_ratio: 2, test_per_class: 2, epochs: 1}\n"
    (tmp_path / "rates.yaml").write_text(tiny + "grid: {lr: [0.01, 1.0e+12]}\n")
    code, out, err = call("sweep", tmp_path / "rates.yaml", "--runs", tmp_path, capsys=capsys)
    assert code == 1, err
    assert "lr=0.01" in out
    assert "failed: lr=1000000000000.0, seed 0: UserError: the loss is" in out
    assert "Mini-world numbers" in out
    assert {p.name for p in (tmp_path / "rates").iterdir()} == {"results.csv", "summary.csv"}
    assert out.splitlines()[-1].startswith("Best by validation images: lr=0.01 (val ")
    assert "val %" in out


def test_presets(capsys):
    code, out, _ = call("presets", capsys=capsys)
    assert code == 0
    assert all(name in out for name in ("mini", "cifar100-lt-50", "places-lt", "imagenet-lt", "inat2018", "folder"))
    code, out, _ = call("presets", "inat2018", capsys=capsys)
    assert "lambda_1 = 1e-07" in out


@pytest.mark.parametrize("method", ["lift", "crt"])
def test_a_preset_shows_every_setting_under_its_part(method, capsys):
    code, out, _ = call("presets", "mini", "--method", method, capsys=capsys)
    config = Config.preset("mini", method)
    held = {}
    for line in out.splitlines():
        if not line.startswith(" "):
            held[line] = part = []
        else:
            part.append(line.split(" = ")[0].strip())
    assert code == 0
    assert held == {**{part: list(model.model_fields) for part, model in PARTS.items()},
                    f"{method}'s own": list(type(config.settings).model_fields)}


def test_methods_are_listed(capsys):
    code, out, _ = call("methods", capsys=capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[1:2].strip(" ─")][1:] == list(methods.names())
    assert "2024" in next(line for line in out.splitlines() if line.startswith(" lift"))


@pytest.mark.parametrize("method", methods.names())
def test_a_method_s_card_is_its_file(method, capsys):
    """Its opening word for word, all its settings, and all that was printed."""
    code, out, _ = call("methods", method, capsys=capsys)
    module = methods.about(method)
    assert code == 0
    assert out.startswith(inspect.cleandoc(module.__doc__))
    for key, field in methods.load(method).Settings.model_fields.items():
        assert f"\n    {key} = " in out
        assert field.description in out
    for preset, row in module.PUBLISHED.items():
        line = next((line for line in out.splitlines() if line.startswith(f"- {preset}: ")), "")
        assert row.source in line
        assert all(f"{group} {number}" in line for group, number in row.numbers.items())


def test_a_card_says_where_published_settings_are_not_the_defaults(capsys):
    out = call("methods", "sage", capsys=capsys)[1]
    assert "- cifar100-lt-100: all 83.3 (Table 1, row Sage)\n" in out
    assert "- cifar100-lt-50: all 84.6 (Table 1, row Sage); gamma=0.06, lambda_1=0.0001, lambda_2=0.01, lambda_3=0.6\n" in out
    assert "On the mini world: bottleneck=8, epochs=5, batch_size=64." in out
    assert "gate = projection" in out
    assert "[projection, vector, text, folded]" in out


def test_help_lists_what_there_is(capsys):
    assert all(name in call("train", "--help", capsys=capsys)[1] for name in methods.names())
    listed = call("study", "--help", capsys=capsys)[1] + call("sweep", "--help", capsys=capsys)[1]
    assert all(name in listed for name in STUDIES)


def test_a_study_chooses_then_compares_to_its_bases(tmp_path, monkeypatch, capsys):
    """What was chosen is kept, the folder is named by the settings, and the table says what each row is compared with."""
    monkeypatch.setitem(STUDIES, "fit", lambda start: {
        "one": start("classifier"), "two": tuple(start("classifier").changed(lr=lr) for lr in (1e-5, 0.1)),
        "three": start("classifier").changed(lr=0.2)})
    monkeypatch.setitem(BASES, "fit", {"three": "two"})
    small = [f"--set={key}={value}" for key, value in {**conftest.SMALL, "largest_class": 10}.items()]
    code, out, err = call("study", "fit", "--seeds", "1", "--workers", "1", "--runs", str(tmp_path), *small, capsys=capsys)
    assert code == 0
    (folder,) = tmp_path.glob("fit-mini-largest_class=10-*-epochs=1-*")
    tried, found = pd.read_csv(folder / "choices.csv"), pd.read_csv(folder / "summary.csv")
    assert tried["row"].tolist() == ["two", "two"]
    assert tried["chosen"].sum() == 1
    assert found.fillna({"base": ""})["base"].tolist() == ["", "one", "two"]
    assert "1 of 3 rows have settings that validation images choose: 2 candidates, 2 seeds each" in err
    assert "Bases: two to one; three to two." in " ".join(out.split())


@pytest.mark.parametrize(("words", "seed"), [
    ((), 0), (("--set=seed=5",), 5), (("--seed", 6), 6), (("--seed", 7, "--set=seed=7"), 7)])
def test_the_seed_may_be_a_setting(words, seed, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sagekit, "train", lambda config, out, resume: seen.append((config.seed, out)))
    monkeypatch.setattr(cli, "_is_main_process", lambda: False)
    assert call("train", "--runs", "here", *words, capsys=capsys)[0] == 0
    monkeypatch.setattr(demo, "demo_runs", lambda runs, seed=0, **changes: seen.append((seed, runs)) or {})
    monkeypatch.setattr(cli, "print_runs", lambda *shown: None)
    assert call("demo", "--headless", "--runs", "here", *words, capsys=capsys)[0] == 0
    assert seen == [(seed, Path(f"here/mini-sage-{seed}")), (seed, Path("here"))]


def test_fold_of_another_method_says_so_before_anything_else(tmp_path, capsys):
    Run(tmp_path).write_config(Config.preset("mini", "lift"))
    for words in ((), ("--onnx",)):
        code, _, err = call("fold", tmp_path, *words, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert "is a run of lift, which has no SG-Adapters to fold" in err


@pytest.mark.parametrize("key", ["lr=1", "ensembling=true", "folded=true", "show=false", "run=x", "seed=3"])
def test_measuring_again_takes_no_setting_that_changes_it(key, tmp_path, capsys):
    Run(tmp_path).write_config(Config.preset("mini"))
    code, _, err = call("evaluate", tmp_path, "--set", key, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert f"'{key.partition('=')[0]}' would change what is measured" in err


@pytest.mark.slow
def test_pretrain(tmp_path, capsys):
    code, out, _ = call("pretrain", "--steps", 1, "--out", tmp_path / "m.safetensors", capsys=capsys)
    assert code == 0
    assert "of the mini world" in out


@pytest.mark.slow
def test_runs_folder_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAGEKIT_RUNS", str(tmp_path / "elsewhere"))
    assert call("train", "--method", "zero_shot", "--set=test_per_class=1", capsys=capsys)[0] == 0
    assert (tmp_path / "elsewhere" / "mini-zero_shot-0" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--set", "learning_rate=1"], "no setting 'learning_rate'"),
    (["train", "--set", "method=lift"], "'method' is no setting: it is chosen with --method"),
    (["train", "--set", "preset_name=foo"], "'preset_name' is no setting: it is chosen with --preset"),
    (["train", "--set", "name=foo"], "no setting 'name'"),
    (["train", "--set", "seed=x"], "setting 'seed'"),
    (["train", "--seed", "3", "--set", "seed=5"], "--seed 3 and --set seed=5 disagree"),
    (["train", "--device", "cpu", "--set", "device=cuda"], "--device cpu and --set device=cuda disagree"),
    (["train", "--method", "lift", "--set", "alpha=0.2"], "'alpha' is a setting of sage, not of lift"),
    (["demo", "--seed", "3", "--set", "seed=5"], "--seed 3 and --set seed=5 disagree"),
    (["demo", "--set", "method=lift"], "'method' is no setting"),
    (["demo", "--set", "folder=x"], "no setting 'folder'"),
    (["methods", "lfit"], "Did you mean 'lift'"),
    (["presets", "mini", "--method", "zero-shot"], "Did you mean 'zero_shot'"),
    (["train", "--set", "lr=fast"], "setting 'lr'"),
    (["train", "--set", "lr"], "key=value"),
    (["train", "--set", "lambda_1=-1"], "setting 'lambda_1'"),
    (["train", "--preset", "minni"], "Did you mean 'mini'"),
    (["train", "--method", "sega"], "Did you mean 'sage'"),
    (["train", "--set", "batch_size=1000000"], "batch_size is 1000000"),
    (["train", "--device", "mps"], "no mps device"),
    (["train", "--preset", "places-lt"], "no image list at data/Places_LT_train.txt"),
    (["train", "--preset", "folder", "--data-root", "nowhere"], "no folder at nowhere"),
    (["train", "--weights", "none.safetensors"], "no weight file at none.safetensors"),
    (["train", "--nonsense"], "No such option"),
    (["evaluate", "nowhere"], "nowhere is not a run"),
    (["fold", "nowhere"], "nowhere is not a run"),
    (["export", "nowhere"], "nowhere has no metrics.json"),
    (["predict", "nowhere", "photos"], "nowhere is not a run"),
    (["compare"], "there are no finished runs"),
    (["dance"], "No such command 'dance'"),
    (["study", "tabel5"], "Did you mean 'table5'"),
    (["study", "text", "--set", "bottelneck=4"], "Did you mean 'bottleneck'"),
    (["study", "text", "--set", "val_per_class=0"], "this study chooses on validation images and the data has none"),
    (["train", "--set", "val_per_class=0", "--set", "watch=val"], "watch=val needs validation images"),
    (["sweep", "none.yaml"], "cannot read the sweep none.yaml"),
])
def test_mistakes_are_one_line_and_exit_2_and_write_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    if arguments[-1] == "mps" and sys.platform == "darwin":
        pytest.skip("this machine may have an mps device")
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.startswith("sagekit: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "compare", "sweep", "study", "fold", "pretrain",
                                     "predict", "export", "methods", "presets"])
def test_every_command_has_help(command, capsys):
    code, out, _ = call(command, "--help", capsys=capsys)
    assert code == 0
    assert "Usage" in out


@pytest.mark.slow
def test_the_module_is_the_command_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sagekit", "evaluate", "none"], capture_output=True, text=True, cwd=tmp_path,
                          check=False)
    assert (done.returncode, done.stdout) == (2, "")
