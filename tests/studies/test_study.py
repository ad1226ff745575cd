import itertools
from typing import get_args

import pytest

from sagekit import UserError
from sagekit.config import Config, Loss, Module
from sagekit.studies.study import STUDIES, rows_of
from sagekit.studies.sweep import Point


def test_table_5_switches_one_part_on_at_a_time():
    rows = list(rows_of("table5", "cifar100-lt-100").values())
    keys = [k for k in Config.model_fields if k not in ("method", "preset_name")]
    changed = [{k for k in keys if getattr(a, k) != getattr(b, k)} for a, b in itertools.pairwise(rows)]
    assert changed == [{"module"}, {"templates"}, {"compensation"}, {"fit"}]
    assert rows[-1] == Config.preset("cifar100-lt-100", "sage")


def test_table_10_differs_in_the_adapter_alone():
    base, sg, without = rows_of("table10", "cifar100-lt-100").values()
    assert (base.module, sg.gate, without.gate) == ("adaptformer", "projection", "text")
    assert all(c.compensation and not c.fit and c.templates == 60 for c in (base, sg, without))


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
    assert [c.loss for c in rows.values()] == ["ce", "ce", "la", "la", "kps", "kps", "proco", "proco"]
    assert [c.compensation for c in rows.values()] == [False, True] * 4
    kps, proco = rows["KPS"], rows["ProCo"]
    assert (kps.batch_size, kps.decay, kps.head) == (64, 0.1, "cosine")
    assert (proco.batch_size, proco.lr, proco.epochs) == (256, pytest.approx(0.3), 200)


def test_table_9_has_every_module():
    modules = {c.module for c in rows_of("table9", "mini").values()}
    assert modules == set(get_args(Module))


def test_other_losses_are_all_the_rest():
    known = {c.loss for name in ("table7", "losses") for c in rows_of(name, "mini").values()}
    assert known == set(get_args(Loss))
