import os
import re
from pathlib import Path

import numpy as np
import pytest

from sagekit import paper
from sagekit.methods.sage import PUBLISHED


@pytest.mark.parametrize(("number", "rows", "cells"), [
    (1, 15 * 3, 15 * 3 - 4), (2, 13, 13 * 4 - 3), (3, 17, 17 * 4 - 7 * 3 + 3), (4, 21, 21 * 4 - 3 * 3 - 2), (5, 15, 60),
    (6, 15, 60), (7, 18, 72), (10, 9, 36), (11, 9, 36),
])
def test_every_cell_is_there(number, rows, cells):
    frame = paper.table(number)
    assert len(frame) == rows
    assert int(frame[["all", "head", "medium", "tail"]].notna().sum().sum()) == cells


@pytest.mark.parametrize(("number", "system", "dataset", "values"), [
    (1, "Sage", "CIFAR-100-LT 50", [84.6]),
    (1, "CDB-W-CE", "CIFAR-100-LT 50", [np.nan]),
    (2, "Sage", "Places-LT", [52.7, 51.8, 52.8, 53.8]),
    (3, "LIFT", "ImageNet-LT", [78.3, 81.3, 77.4, 73.4]),
    (4, "LPT", "iNaturalist 2018", [76.1, np.nan, np.nan, 79.3]),
    (5, "+SG+Init", "CIFAR-100-LT 10", [86.1, 87.5, 85.2, 85.6]),
    (6, "+SG", "Places-LT", [52.4, 52.0, 53.0, 51.7]),
    (7, "ProCo + CF", "CIFAR-100-LT 10", [65.5, 67.5, 61.1, 0.0]),
    (10, "+ SG-Adapter (w/o W_proj)", "CIFAR-100-LT 50", [83.8, 86.2, 83.0, 81.6]),
    (11, "Baseline", "iNaturalist 2018", [80.6, 74.3, 80.5, 82.3]),
])
def test_spot_values(number, system, dataset, values):
    frame = paper.table(number)
    row = frame[(frame["system"] == system) & (frame["dataset"] == dataset)].iloc[0]
    np.testing.assert_equal(row[["all", "head", "medium", "tail"]].to_numpy(float)[: len(values)], values)


def test_tables_agree_with_each_other():
    """Table 5's first and last rows are LIFT and Sage of Table 1; Table 6's those of Tables 2-4."""
    for ablation, mains in ((5, (1,)), (6, (2, 3, 4))):
        steps = paper.table(ablation).set_index(["system", "dataset"])["all"]
        for number in mains:
            main = paper.table(number).set_index(["system", "dataset"])["all"]
            for dataset in main["Sage"].index:
                assert steps["LIFT", dataset] == main["LIFT", dataset]
                assert steps["+SG+Init+CF+FIT", dataset] == main["Sage", dataset]


def test_units_are_said_where_they_were_checked():
    frame = paper.table(3).set_index("system")
    assert (frame.loc["Sage", "unit"], frame.loc["LIFT", "unit"], frame.loc["cRT", "unit"]) == ("2^20", "10^6", "")


TEXT = Path(os.environ.get("SAGE_PAPER", Path(__file__).parents[2] / "shared" / "paper" / "sage-full-text.txt"))


@pytest.fixture(scope="module")
def text():
    """The lines of the paper's text as it was extracted; it cannot be part of this repository."""
    if not TEXT.is_file():
        pytest.skip(f"the paper's text is not at {TEXT}; name it with SAGE_PAPER=FILE")
    return TEXT.read_text(encoding="utf-8").replace(r"similar-to\sim", "~").splitlines()


def printed(values):
    return " ".join("-" if np.isnan(v) else f"{v:.1f}" for v in values)


def lines_of(number):
    """Our table's rows as the paper prints them: (system, rest of the line)."""
    frame = paper.table(number)
    groups = ["all"] if number == 1 else ["all", "head", "medium", "tail"]
    for system, rows in frame.groupby("system", sort=False):
        for _, part in rows.groupby(rows.groupby("dataset").cumcount()):  # a system may have two rows
            first = part.iloc[0]
            cells = printed(part[groups].to_numpy(float).ravel())
            yield system, f"{first['backbone']} {first['parameters']} {first['epochs']} {cells}" if number <= 4 else cells


@pytest.mark.parametrize("number", paper.TABLES)
def test_every_row_is_a_line_of_the_paper(text, number):
    start = next(i for i, line in enumerate(text) if line.startswith(f"Table {number}:"))
    end = next(i for i in range(start + 1, len(text)) if not text[i].strip() or text[i].startswith("Table "))
    table = [line for line in text[start:end] if re.search(r"\d+\.\d( |$)", line)]
    ours = list(lines_of(number))
    assert len(ours) == len(table)
    for system, rest in ours:
        found = [line for line in table if line.endswith(rest)]
        assert found, (system, rest)
        if number in (1, 2, 3, 4, 7):
            assert any(line.split(" [")[0].startswith(system) for line in found), system


def test_table_12_is_the_paper_s(text):
    start = next(i for i, line in enumerate(text) if line.startswith("Table 12:"))
    for row, values in zip(text[start + 2 : start + 5], paper.TABLE_12.values(), strict=True):
        assert row.endswith(" ".join(f"{v:.2f}" for v in values.values()))


def test_table_8_is_the_paper_s(text):
    start = next(i for i, line in enumerate(text) if line.startswith("Table 8:"))
    for line, row in zip(text[start + 2 : start + 8], PUBLISHED.values(), strict=True):
        numbers = [float(n) for n in line.split()[-6:]]
        assert numbers == [row.settings[k] for k in ("alpha", "mu", "gamma", "lambda_1", "lambda_2", "lambda_3")]


def test_every_finding_has_its_notebook_and_every_preset_its_data_set():
    notebooks = Path(__file__).parents[1] / "notebooks"
    assert len(paper.FINDINGS) == 18
    assert all((notebooks / f"{finding.notebook}.ipynb").is_file() for finding in paper.FINDINGS)
    assert set(paper.DATASET_OF) == set(PUBLISHED)
    assert set(paper.DATASET_OF.values()) == {*paper.table(5)["dataset"], *paper.table(6)["dataset"]}


def test_groups_hold_every_class():
    for name, sizes in paper.GROUP_CLASSES.items():
        assert sum(sizes) == paper.CLASSES[name.rpartition(" ")[0] if name.startswith("CIFAR") else name]


def test_every_doubt_is_of_a_printed_row():
    for doubt in paper.DOUBTS:
        assert doubt.system in set(paper.table(doubt.table)["system"])
