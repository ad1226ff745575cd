import subprocess
import sys

import pytest

from sagekit.cli import main

SMALL = [f"--set={s}" for s in ("largest_class=30", "imbalance_ratio=10", "test_per_class=4", "epochs=1")]


def call(*arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    from sagekit import cli

    monkeypatch.setattr(cli.console, "_width", 200)


def test_demo_prints_the_table_and_can_be_repeated(tmp_path, capsys):
    code, out, err = call("demo", "--headless", "--runs", tmp_path, *SMALL, capsys=capsys)
    assert code == 0, err
    for word in ("zero-shot", "lift", "sage", "head %", "medium %", "tail %", "Mini-world numbers", "192 test images"):
        assert word in out
    assert call("demo", "--headless", "--runs", tmp_path, *SMALL, capsys=capsys)[1] == out


def test_train_evaluate_compare_fold(tmp_path, capsys):
    for method in ("lift", "sage"):
        code, _, err = call("train", "--method", method, "--out", tmp_path / method, *SMALL, capsys=capsys)
        assert code == 0, err
    code, out, err = call("evaluate", tmp_path / "sage", "--ensembling", capsys=capsys)
    assert code == 0, err
    assert "single view" in out
    assert "five crops averaged" in out
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


def test_presets(capsys):
    code, out, _ = call("presets", capsys=capsys)
    assert code == 0
    assert all(name in out for name in ("mini", "cifar100-lt-50", "places-lt", "imagenet-lt", "inat2018", "folder"))
    code, out, _ = call("presets", "inat2018", capsys=capsys)
    assert "lambda_1 = 1e-07" in out


def test_pretrain(tmp_path, capsys):
    code, out, _ = call("pretrain", "--steps", 1, "--out", tmp_path / "m.safetensors", capsys=capsys)
    assert code == 0
    assert "of the mini world" in out


def test_runs_folder_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAGEKIT_RUNS", str(tmp_path / "elsewhere"))
    assert call("train", "--method", "zero-shot", "--set=test_per_class=1", capsys=capsys)[0] == 0
    assert (tmp_path / "elsewhere" / "mini-zero-shot-0" / "metrics.json").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--set", "learning_rate=1"], "no setting 'learning_rate'"),
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
    (["compare"], "there are no finished runs"),
    (["dance"], "No such command 'dance'"),
    (["study", "tabel5"], "Did you mean 'table5'"),
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
                                     "presets"])
def test_every_command_has_help(command, capsys):
    code, out, _ = call(command, "--help", capsys=capsys)
    assert code == 0
    assert "Usage" in out


def test_the_module_is_the_command_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sagekit", "evaluate", "none"], capture_output=True, text=True, cwd=tmp_path,
                          check=False)
    assert (done.returncode, done.stdout) == (2, "")
