import nbclient
import nbformat
import pytest

CELL = """
import sagekit as sk
from sagekit import plots
plots.use_notebook()
sk.Run("nowhere").config
"""


@pytest.mark.slow
def test_a_notebook_cell_fails_with_one_line_and_no_stack(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "error"]
    assert [output.traceback for output in shown] == [["UserError: nowhere is not a run: it has no config.yaml."]]
