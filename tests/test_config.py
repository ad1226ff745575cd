import shlex

import pytest

import sagekit
from sagekit import Config, UserError, cli, methods
from sagekit.config import FORMAT, LIKE, PARTS, PRESETS, parse_assignments
from sagekit.methods.sage import PUBLISHED


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_presets_carry_table_8(name):
    config, row = Config.preset(name), PUBLISHED[name].settings
    own = config.settings
    for key in ("alpha", "mu", "gamma", "lambda_1", "lambda_2", "lambda_3", "epochs"):
        assert getattr(own, key) == row[key]
    assert (own.lr, own.batch_size, own.momentum, own.logit_scale) == (0.01, 128, 0.9, 25)
    assert (config.network.backbone, config.network.pretrained) == ("ViT-B-16-quickgelu", "openai")


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("method", methods.names())
def test_every_preset_survives_yaml(tmp_path, name, method):
    config = Config.preset(name, method, seed=3)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Config.from_yaml(tmp_path / "c.yaml") == config
    assert config.changed(seed=0).changes() == {}


def test_another_format_is_refused(tmp_path):
    """Run folders from before the format had a number say nothing of it."""
    text = Config.preset("mini").to_yaml()
    for found, other in ((1, ""), (2, "format: 2\n")):
        (tmp_path / "config.yaml").write_text(text.replace(f"format: {FORMAT}\n", other))
        with pytest.raises(UserError, match=f"has run format {found} and this sagekit reads 3"):
            Config.from_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("method", methods.names())
def test_nothing_is_the_empty_text_or_none(method):
    flat = Config.preset("mini", method, **parse_assignments(["pretrained=", "data_name=", "weights=", "test_resize="])).flat
    assert [flat[key] for key in ("pretrained", "data_name", "weights", "test_resize")] == ["", "", None, None]
    with pytest.raises(UserError, match="setting 'crop_scale'"):
        Config.preset("mini", method, **parse_assignments(["crop_scale="]))


@pytest.mark.parametrize("method", methods.names())
def test_a_key_is_in_one_part_alone(method):
    keys = ["preset_name", "preset", "method", "seed", "format"]
    for part in (*PARTS.values(), methods.load(method).Settings):
        keys += part.model_fields
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("method", methods.names())
def test_published_settings_are_settings_of_the_preset(method):
    published = methods.about(method).PUBLISHED
    assert published.keys() <= PRESETS.keys() - LIKE.keys()
    for name, row in published.items():
        flat = Config.preset(name, method).flat
        assert {key: flat[key] for key in row.settings} == dict(row.settings)
        assert row.source or not row.numbers


@pytest.mark.parametrize("method", methods.names())
def test_the_mini_world_s_settings_are_the_method_s_own(method):
    mini = methods.about(method).MINI
    assert mini.keys() <= methods.load(method).Settings.model_fields.keys()
    flat = Config.preset("mini", method).flat
    assert {key: flat[key] for key in mini} == mini


def test_methods_set_the_switches():
    lift, sage = (Config.preset("cifar100-lt-100", method).settings for method in ("lift", "sage"))
    assert (lift.module, lift.templates, lift.gamma, lift.loss, lift.tau) == ("adaptformer", 1, 0, "la", 1)
    assert (sage.templates, sage.gamma, sage.fit) == (60, 0.05, True)
    assert Config.preset("mini", "zero_shot").stages == []
    assert Config.preset("mini", "zero_shot").epochs == 0


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
    ({"seed": -1}, "setting 'seed'"),
    ({"seed": 1.5}, "setting 'seed'"),
    ({"method": "lift"}, "'method' is no setting: it is chosen with --method"),
    ({"preset_name": "places-lt"}, "'preset_name' is no setting: it is chosen with --preset"),
    ({"name": "places-lt"}, "no setting 'name'"),
    ({"settings": {}}, "no setting 'settings'"),
    ({"tau": 0.5}, "tip_adapter, not of sage; `sagekit methods sage` lists"),
    ({"backbone": "resnet32"}, "method sage needs a CLIP and resnet32 is trained from scratch; choose another backbone"),
])
def test_wrong_settings_are_one_line(changes, message):
    with pytest.raises(UserError) as error:
        Config.preset("mini", **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_show_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cifar10-lt-100'"):
        Config.preset("cifar-lt-100")
    with pytest.raises(UserError, match="Did you mean 'lift'"):
        Config.preset("mini", "lfit")


@pytest.mark.parametrize(("changes", "message"), [
    ({"backbone": "mini"}, "method scratch trains a network from scratch (resnet32, resnet10, resnet50, resnet152, resnext50) "
     "and mini is pretrained; leave out backbone, or use one of"),
    ({"module": "lora"}, "'module' is a setting of classifier, lift, lift_plus, not of scratch"),
    ({"loss": "kps"}, "loss kps needs head=cosine"),
    ({"loss": "la", "gamma": 0.1, "tau": 0.5}, "Eq 22 has tau = 1"),
    ({"warmup_epoch": 1}, "Did you mean 'warmup_epochs'"),
])
def test_settings_of_a_network_from_scratch(changes, message):
    with pytest.raises(UserError) as error:
        Config.preset("mini", "scratch", **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_method_and_preset():
    for key in ("method", "preset_name"):
        with pytest.raises(UserError, match=f"'{key}' is no setting"):
            Config.preset("mini").changed(**{key: "lift"})


def test_a_config_cannot_be_changed_in_place():
    config = Config.preset("mini")
    with pytest.raises(Exception, match="frozen"):
        config.settings.lr = 1.0
    with pytest.raises(Exception, match="frozen"):
        config.seed = 1


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
    config = Config.preset("mini", "lift", seed=3, gamma=0.2, clip_norm=1.0, crop_scale=(0.5, 1.0), train_list="a b",
                           drop_last=True)
    words = shlex.split(config.command(tmp_path / "my run"))
    assert words[:2] == ["sagekit", "train"]
    seen = {}
    monkeypatch.setattr(sagekit, "train", lambda config, out, resume: seen.update(config=config, out=out, resume=resume))
    monkeypatch.setattr(cli, "_is_main_process", lambda: False)
    with pytest.raises(SystemExit, match="0"):
        cli.main(words[1:])
    assert seen == {"config": config, "out": tmp_path / "my run", "resume": True}


def test_a_hand_written_configuration_names_what_is_wrong(tmp_path):
    text = Config.preset("mini").to_yaml()
    for old, new, message in (("preset_name: mini", "preset_name: foo", "no preset 'foo'"),
                              ("preset_name: mini", "preset_name: [mini]", "no preset"),
                              ("method: sage", "method: [sage]", "no method"), ("\nseed: 0", "\nseed: x", "setting 'seed'"),
                              ("\nlr: 0.01", "\n1: 2", "no setting '1'")):
        (tmp_path / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=message):
            Config.from_yaml(tmp_path / "config.yaml")
