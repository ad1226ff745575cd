import itertools
from typing import get_args

import pytest

from sagekit import Config, UserError
from sagekit.losses import Name
from sagekit.networks.tuned import Module
from sagekit.studies.study import STUDIES, rows_of
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
    assert len({Point("", c).name for c in rows.values()}) >= len(rows) - 3  # a figure's axis may hold the preset's own value


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
    rows = rows_of("table9", "mini")
    assert {c.settings.module for c in rows.values() if c.method == "lift"} == set(get_args(Module))
    assert [name for name, c in rows.items() if c.method == "sage"] == ["SG-Adapter"]
    lift, sg = rows["AdaptFormer"].flat, rows["SG-Adapter"].flat
    assert {k for k in lift.keys() & sg.keys() if lift[k] != sg[k]} == {"method"}


def test_other_losses_are_all_the_rest():
    known = {c.flat.get("loss") for name in ("table7", "losses") for c in rows_of(name, "mini").values()}
    assert known - {None} == set(get_args(Name))
