"""The notebook about the owner's documents runs, and what it cites opens the line that says it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbclient import NotebookClient

from ainet.api import context
from ainet.client.client import NodeClient

FOLDER = Path(__file__).parents[3] / "notebooks"


@pytest.fixture
def outputs(node_dir, monkeypatch):
    """What the cells of the notebook show, by their ids: HTML, or else text."""
    monkeypatch.setenv("AINET_DATA_DIR", str(node_dir))
    notebook = nbformat.read(FOLDER / "context.ipynb", 4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return {
        cell.id: [one.get("text") or one["data"].get("text/html") or one["data"]["text/plain"] for one in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def opened(link: str) -> str:
    """The line that a link opens; JupyterLab counts from 0."""
    path, _, line = unquote(link).partition("#line=")
    return (FOLDER / path).resolve().read_text().splitlines()[int(line)]


def test_the_notebook_runs_and_its_links_open_what_they_name(outputs, node_dir):
    (found,) = outputs["find"]
    first = re.findall(r'href="([^"]+)"', found)[0]
    assert "retriever.py" in first
    assert "vectors count for a question" in opened(first)
    (calls,) = outputs["calls"]
    callers = [Path(link.partition("#")[0]).name for link in re.findall(r'href="([^"]+)"', calls)]
    assert sorted(callers[:3]) == ["retriever.py", "retriever.py", "search.py"]
    (traced,) = outputs["trace"]
    picture = base64.b64decode(re.findall('src="data:image/svg[+]xml;base64,([^"]+)"', traced)[0]).decode()
    assert ">relation_question<" in picture
    assert "relation_question" in re.findall('alt="([^"]+)"', traced)[0]
    answer, sources, footer = outputs["ask"]
    assert "[1]" in answer
    assert "smollm2" in footer
    link = re.findall(r'href="([^"]+)"', sources)[0]
    assert "without what it stands in" in opened(link)
    assert "ainet/storage/relations.py" in outputs["prompt"][0]
    assert "def symbol_of" in outputs["quote"][0]
    assert outputs["nothing"] == ["Nothing in your documents answers that.\n"]
    assert "storage/relations.py" in outputs["forget"][0]
    assert "def symbol_of" not in outputs["gone"][0]
    with NodeClient.running(node_dir) as node:
        assert [one.path for one in node.call(context.context).folders] == []
