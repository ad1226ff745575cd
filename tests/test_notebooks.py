"""The notebooks as a course: their shape, their stored outputs, and the student version that nbgrader makes.

That they run is tested by nbval, which pytest calls on ``notebooks/``; cells tagged ``nbval-check-output`` must print the same.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def kind(cell, key):
    return cell.metadata.get("nbgrader", {}).get(key, False)


def test_they_are_numbered_without_a_gap():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{i:02d}_" for i in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) >= 4


def test_it_opens_and_closes_as_a_lesson(notebook):
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    for part in ("# ", "**You will learn**", "**You need**", "**Run time** on two CPU cores"):
        assert part in first
    assert "## Remember" in last
    assert "**Next:**" in last


def test_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else []:
            assert (FOLDER / target).exists(), target


def test_exercises_have_a_solution_and_asserts(notebook):
    solutions = [c for c in notebook.cells if kind(c, "solution")]
    checks = [c for c in notebook.cells if kind(c, "grade")]
    assert 2 <= len(solutions) <= 4
    assert len(checks) == len(solutions)
    assert all(c.source.count("### BEGIN SOLUTION") == c.source.count("### END SOLUTION") == 1 for c in solutions)
    assert all("assert" in c.source for c in checks)
    ids = [c.metadata["nbgrader"]["grade_id"] for c in (*solutions, *checks)]
    assert len(set(ids)) == len(ids)


def test_it_carries_the_outputs_of_one_run_from_the_top(notebook):
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert all("image/png" in o.data for o in figures)  # seen on GitHub


def test_cells_are_short(notebook):
    assert max(len(c.source.splitlines()) for c in notebook.cells if c.cell_type == "code") <= 20


def test_no_path_of_the_author_s_machine(notebook):
    assert not re.search(r"/(home|root|Users|tmp|work)/", nbformat.writes(notebook))


@pytest.mark.slow
def test_nbgrader_makes_the_student_version(tmp_path):
    source = tmp_path / "source" / "course"
    source.mkdir(parents=True)
    for path in NOTEBOOKS:
        shutil.copy(path, source)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic by its name
    made = subprocess.run([sys.executable, "-m", "nbgrader", "generate_assignment", "course", "--course-dir", str(tmp_path),
                           "--create"], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": path})
    assert made.returncode == 0, made.stderr[-2000:]
    for path in NOTEBOOKS:
        released = nbformat.read(tmp_path / "release" / "course" / path.name, as_version=4)
        text = "\n".join(c.source for c in released.cells)
        assert "BEGIN SOLUTION" not in text
        assert "NotImplementedError" in text
