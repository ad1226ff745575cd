import itertools
from typing import get_args

import pytest

from sagekit import Config, UserError
from sagekit.losses import Name
from sagekit.methods import load, names
from sagekit.networks.tuned import Module
from sagekit.studies.study import BASES, FIELD_RATES, MODULE_RATES, RATES, STUDIES, bases_of, candidates, rows_of
from sagekit.studies.sweep import Point


def test_table_5_switches_one_part_on_at_a_time():
    """In the settings that both methods have; "+SG" is the method itself, with the rest of it switched off."""
    rows = list(rows_of("table5", "cifar100-lt-100").values())
    flat = [c.flat for c in rows]
    changed = [{k for k in a.keys() & b.keys() if a[k] != b[k]} for a, b in itertools.pairwise(flat)]
    assert changed == [{"method"}, {"templates"}, {"gamma"}, {"fit"}]
    assert [c.method for c in rows] == ["lift"] + 4 * ["sage"]
    assert (flat[0]["module"], flat[0]["loss"], flat[0]["tau"], flat[1]["fit"]) == ("adaptformer", "la", 1, False)
    assert rows[-1] == Config.preset("cifar100-lt-100", "sage")


def test_table_10_differs_in_the_adapter_alone():
    base, sg, without = rows_of("table10", "cifar100-lt-100").values()
    assert [c.method for c in (base, sg, without)] == ["lift", "sage", "sage"]
    assert (base.settings.module, sg.settings.gate, without.settings.gate) == ("adaptformer", "projection", "text")
    assert all(c.settings.gamma == 0.05 and c.settings.templates == 60 for c in (base, sg, without))
    assert not sg.settings.fit
    assert {k for k, v in sg.flat.items() if v != without.flat[k]} == {"gate"}


@pytest.mark.parametrize("study", list(STUDIES))
def test_every_row_is_a_valid_configuration(study):
    rows = rows_of(study, "mini")
    assert len(rows) >= 3
    configs = [config for row in rows.values() for config in candidates(row)]
    copies = {"fig7": 1 + 4 + 6, "fig8": 3, "mismatch": 4 * 7}  # the preset on an axis, axes in the grid; tau = 1, and above 1
    assert len({Point("", c).name for c in configs}) >= len(configs) - copies.get(study, 0)
    bases = bases_of(study, rows)
    assert set(bases) < set(rows)
    assert set(bases.values()) <= set(rows)
    assert set(BASES.get(study, {})) <= set(rows)


def test_table_1_has_every_loss_and_every_method_from_scratch():
    rows = rows_of("table1", "mini")
    firsts = {name: candidates(row)[0] for name, row in rows.items()}
    assert {c.method for c in firsts.values()} == {n for n in names() if load(n).needs == "scratch"}
    assert {c.settings.loss for c in firsts.values() if c.method == "scratch"} == set(get_args(Name))
    assert set(bases_of("table1", rows).values()) == {"CE"}


def test_the_field_chooses_the_rate_of_what_it_trains_last():
    """Stage 1 is then trained once for all; tau-norm and NCM have nothing to choose there."""
    rows = rows_of("table1", "mini")
    for name, key in (("CE", "lr"), ("mixup", "lr"), ("cRT", "classifier_lr"), ("H2T", "classifier_lr")):
        values = [c.flat[key] for c in rows[name]]
        assert values == [values[2] * m for m in FIELD_RATES]
    assert len({c.settings.lr for c in rows["cRT"]}) == 1
    assert [len(candidates(rows[name])) for name in ("tau-norm", "NCM")] == [1, 1]


def test_on_a_clip_are_the_methods_that_may_stand_on_one():
    rows = rows_of("on_clip", "mini")
    able = {n for n in names() if "base" in load(n).Settings.model_fields
            and "lift" in get_args(load(n).Settings.model_fields["base"].annotation)}
    assert {candidates(row)[0].method for row in rows.values()} == able | {"lift"}
    assert all(c.needs == "clip" for row in rows.values() for c in candidates(row))


def test_the_text_study_changes_the_module_alone():
    """Each row has LIFT's loss and prompts; its candidates differ in the rate."""
    rows = rows_of("text", "mini")
    base = rows["SG-Adapter"][1].flat
    changed = {name: {k for k, v in row[1].flat.items() if base.get(k, v) != v} for name, row in rows.items()}
    lift = {"method"}
    assert changed == {
        "LIFT": lift, "AdaptFormer 2r": lift, "leaky 2r": lift, "folded, trained": {"gate"}, "gate vector": {"gate"},
        "SG-Adapter": set(), "w/o W_proj": {"gate"}, "random vector": {"guidance"}, "shuffled text": {"guidance"},
        "constant": {"guidance"}, "frozen text": {"guidance"}}
    wide, leaky = rows["AdaptFormer 2r"][1].settings, rows["leaky 2r"][1].settings
    assert (wide.widen, wide.slope, leaky.widen, leaky.slope) == (2, 0, 2, 0.9)
    assert [c.settings.lr for c in rows["LIFT"]] == [0.01 * m for m in RATES]
    assert set(bases_of("text", rows).values()) == {"SG-Adapter"}


def test_the_mismatch_study_has_every_loss_in_every_world():
    rows = rows_of("mismatch", "mini")
    worlds = {(c.data.imbalance_ratio, c.data.mismatch) for row in rows.values() for c in candidates(row)}
    assert worlds == set(itertools.product((100.0, 10.0), (True, False)))
    assert len(rows) == 16
    for name, base in bases_of("mismatch", rows).items():
        a, b = candidates(rows[name])[0], candidates(rows[base])[0]
        assert a.data == b.data
        assert b.settings.tau == 1
        assert b.settings.gamma == 0


def test_fit_rows_differ_in_fit_alone():
    rows = rows_of("fit", "mini")
    base = rows["learned scalars"].flat
    changed = {name: {k for k, v in row.flat.items() if base[k] != v} for name, row in rows.items()}
    assert changed == {"without FIT": {"fit"}, "learned scalars": set(), "fixed scalars": {"fit_learned"},
                       "lambda_3 = 0": {"lambda_3"}, "lambda_3 = 0, fixed": {"lambda_3", "fit_learned"}}


def test_figure_7_holds_the_joint_grid_and_its_axes():
    rows = rows_of("fig7", "mini")
    assert Point("", rows["lambda_2=0.015, lambda_3=0.4"]).name == Point("", rows["preset"]).name
    assert Point("", rows["lambda_2=0.03"]).name == Point("", rows["lambda_2=0.03, lambda_3=0.4"]).name
    assert sum(", " in name for name in rows) == 24
    tested = set(bases_of("fig7", rows))
    assert tested == {name for name in rows if ", " not in name} - {"preset", "lambda_2=0.015", "lambda_3=0.4"}


def test_settings_of_a_study_reach_the_rows_that_have_them():
    rows = rows_of("text", "mini", {"bottleneck": 4, "data_seed": 1, "alpha": 0.3})
    for row in rows.values():
        assert {(c.settings.bottleneck, c.data.data_seed) for c in candidates(row)} == {(4, 1)}
    assert rows["SG-Adapter"][0].settings.alpha == 0.3
    assert rows["leaky 2r"][0].settings.slope == pytest.approx(0.7)
    assert {c.settings.lr for c in rows_of("table10", "mini", {"lr": 0.02}).values()} == {0.02}


@pytest.mark.parametrize(("study", "key", "value"), [
    ("table7", "gamma", 0.1), ("table7", "lr", 0.02), ("mismatch", "imbalance_ratio", 20.0),
    ("text", "templates", 60), ("text", "lr", 0.02), ("fig8", "alpha", 0.5)])
def test_a_setting_that_a_study_sets_itself_is_refused(study, key, value):
    """It would reach some rows and not others, in silence."""
    with pytest.raises(UserError, match=rf"study {study} sets {key} itself \(row '"):
        rows_of(study, "mini", {key: value})


def test_a_setting_that_no_row_has():
    with pytest.raises(UserError, match="Did you mean 'bottleneck'"):
        rows_of("text", "mini", {"bottelneck": 4})
    with pytest.raises(UserError, match=r"'view' is a setting of .*scratch, .*, not of lift"):
        rows_of("text", "mini", {"view": "crop"})


def test_unknown_study():
    with pytest.raises(UserError, match="Did you mean 'table5'"):
        rows_of("tabel5", "mini")


def test_table_7_is_each_loss_with_and_without_the_factor():
    rows = rows_of("table7", "cifar100-lt-100")
    assert [c.flat.get("loss", c.method) for c in rows.values()] == ["ce", "ce", "la", "la", "kps", "kps", "proco", "proco"]
    assert [c.settings.gamma for c in rows.values()] == [0, 0.05] * 4
    kps, proco = rows["KPS"].settings, rows["ProCo"].settings
    assert (kps.batch_size, kps.decay, kps.head) == (64, 0.1, "cosine")
    assert (proco.batch_size, proco.lr, proco.epochs) == (256, pytest.approx(0.3), 200)


def test_table_9_has_every_module():
    rows = {name: candidates(row) for name, row in rows_of("table9", "mini").items()}
    assert {c[0].settings.module for c in rows.values() if c[0].method == "lift"} == set(get_args(Module))
    assert [name for name, c in rows.items() if c[0].method == "sage"] == ["SG-Adapter"]
    for lift, sg in zip(rows["AdaptFormer"], rows["SG-Adapter"], strict=True):
        assert {k for k in lift.flat.keys() & sg.flat.keys() if lift.flat[k] != sg.flat[k]} == {"method"}
    for row in rows.values():
        assert [c.settings.lr / row[3].settings.lr for c in row] == pytest.approx(MODULE_RATES)


def test_foundation_has_every_method_that_starts_from_a_clip():
    rows = {name: candidates(row) for name, row in rows_of("foundation", "mini").items()}
    assert {c[0].method for c in rows.values()} == {n for n in names() if load(n).needs == "clip"}
    assert rows["LIFT, balanced BCE"][0].settings.loss == "balanced-bce"
    assert set(bases_of("foundation", rows_of("foundation", "mini")).values()) == {"LIFT"}
    assert [len(rows[name]) for name in ("zero-shot", "linear probe", "LIFT", "BALLAD")] == [1, 1, 6, 6]


def test_other_losses_are_all_the_rest():
    known = {c.flat.get("loss") for name in ("table7", "losses") for c in rows_of(name, "mini").values()}
    assert known - {None} == set(get_args(Name))
