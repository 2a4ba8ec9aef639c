"""The notebooks of the documentation run, and give the output that is stored in them."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.documents import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def shown(cell: Any) -> list[str]:
    """The texts that a cell shows; of figures only that there is one. Progress bars and warnings do not count."""
    texts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if output.get("name") != "stderr":
            texts.append("figure" if "image/png" in data else data.get("text/plain") or output["text"])
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_what_is_stored_in_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a test's setting for the vector store, which the kernel inherits
    stored, again = (nbformat.read(path, as_version=4) for _ in range(2))
    for cell in again.cells:
        cell.pop("outputs", None) if cell.cell_type == "markdown" else cell.update(outputs=[])
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(again, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert list(map(shown, again.cells)) == list(map(shown, stored.cells))
    assert not [cell for cell in stored.cells if cell.cell_type == "code" and cell.execution_count is None]
