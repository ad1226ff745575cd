import shlex

import pytest

import sagekit
from sagekit import Config, UserError, cli
from sagekit.config import METHODS, PRESETS, parse_assignments
from sagekit.paper import TABLE_8


@pytest.mark.parametrize("name", list(TABLE_8))
def test_presets_carry_table_8(name):
    config, row = Config.preset(name), TABLE_8[name]
    for key in ("alpha", "mu", "gamma", "lambda_1", "lambda_2", "lambda_3", "epochs"):
        assert getattr(config, key) == getattr(row, key)
    assert (config.lr, config.batch_size, config.momentum, config.logit_scale) == (0.01, 128, 0.9, 25)
    assert (config.backbone, config.pretrained) == ("ViT-B-16-quickgelu", "openai")


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("method", list(METHODS))
def test_every_preset_survives_yaml(tmp_path, name, method):
    config = Config.preset(name, method)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Config.from_yaml(tmp_path / "c.yaml") == config


def test_methods_set_the_switches():
    lift, sage = Config.preset("cifar100-lt-100", "lift"), Config.preset("cifar100-lt-100")
    assert (lift.module, lift.templates, lift.compensation, lift.fit) == ("adaptformer", 1, False, False)
    assert (sage.module, sage.templates, sage.compensation, sage.fit) == ("sg", 60, True, True)
    assert Config.preset("mini", "zero-shot").epochs == 0


@pytest.mark.parametrize(("changes", "message"), [
    ({"bottelneck": 4}, "no setting 'bottelneck'. Did you mean 'bottleneck'?"),
    ({"lr": "fast"}, "setting 'lr'"),
    ({"epochs": 2.5}, "setting 'epochs'"),
    ({"alpha": 1.5}, "setting 'alpha'"),
    ({"gamma": -0.1}, "setting 'gamma'"),
    ({"lambda_2": -1}, "setting 'lambda_2'"),
    ({"templates": 7}, "setting 'templates'"),
    ({"device": "tpu"}, "setting 'device'"),
    ({"lr": float("nan")}, "setting 'lr'"),
    ({"single_template": "a photo"}, "setting 'single_template'"),
])
def test_wrong_settings_are_one_line(changes, message):
    with pytest.raises(UserError) as error:
        Config.preset("mini", **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_show_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cifar100-lt-100'"):
        Config.preset("cifar-lt-100")
    with pytest.raises(UserError, match="Did you mean 'lift'"):
        Config.preset("mini", "lfit")


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(Exception, match="frozen"):
        Config.preset("mini").lr = 1.0


def test_assignments_are_read_as_values():
    assert parse_assignments(["lr=1e-3", "fit=false", "crop_scale=[0.5, 1]", "bottleneck=", "backbone=mini"]) == {
        "lr": 0.001, "fit": False, "crop_scale": [0.5, 1], "bottleneck": None, "backbone": "mini"}
    with pytest.raises(UserError, match="key=value"):
        parse_assignments(["lr"])


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "lr: !!python/object/apply:os.system ['true']", "\xff"])
def test_damaged_yaml_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.yaml"):
        Config.from_yaml(tmp_path / "config.yaml")


def test_the_command_line_continues_the_same_run(tmp_path, monkeypatch):
    """What ``command`` prints, read back by the command line's own parser, is the same configuration."""
    config = Config.preset("mini", "lift", seed=3, gamma=0.2, clip_norm=1.0, crop_scale=(0.5, 1.0), train_list="a b", fit=False)
    words = shlex.split(config.command(tmp_path / "my run"))
    assert words[:2] == ["sagekit", "train"]
    seen = {}
    monkeypatch.setattr(sagekit, "train", lambda config, out, resume: seen.update(config=config, out=out, resume=resume))
    monkeypatch.setattr(cli, "_is_main_process", lambda: False)
    with pytest.raises(SystemExit, match="0"):
        cli.main(words[1:])
    assert seen == {"config": config, "out": tmp_path / "my run", "resume": True}
