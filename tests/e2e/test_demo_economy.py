"""`make demo-economy`: the notebook about the economy, with neighbours in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

DEMO = Path(__file__).parents[2] / "notebooks" / "demo.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the demo printed, and what the cells of the notebook that it kept show, by their ids."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, str(DEMO), "economy"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "temporary")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    temporary = str(folder / "temporary")
    everybody = psutil.process_iter(["environ"])
    left = [one for one in everybody if (one.info["environ"] or {}).get("TMPDIR", "").startswith(temporary)]
    assert left == []
    assert list((folder / "temporary").iterdir()) == []
    notebook = nbformat.read(folder / "demo-output" / "economy.ipynb", 4)
    shown = {
        cell.id: "".join(
            one.get("text") or one.get("evalue") or one["data"].get("text/plain", "") for one in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    return done.stdout, shown


def test_an_answer_is_bought_checked_and_paid(demo):
    out, shown = demo
    assert re.search(
        r"smollm2 · ana · 60 tokens · [\d.]+ of 30 minutes · checked: 0\.0\d\d, limit 0\.\d+ · ", shown["bought"]
    )
    assert "this is not" not in shown["bought"]
    assert "ana says: You had nothing of desk, and desk " in shown["balance"]
    assert "%%ainet ask --from ana" in out


def test_the_plug_is_pulled_and_both_balances_agree(demo):
    _, shown = demo
    assert "The link to ana was lost" in shown["lost"]
    assert len(re.findall(r"ana +bought", shown["agreed"])) == 2
    assert "Everything agrees: 2 rows, every signature and every sum." in shown["agreed"]
    assert "Compared with ana" in shown["agreed"]


def test_who_names_one_model_and_serves_another_is_found_out(demo):
    _, shown = demo
    for cell in ("cheated", "again"):
        assert "this is not what smollm2 would have said: carl is trusted less" in shown[cell]
    assert re.search(r"carl +smollm2 +[\d.]+ .* 0%", shown["trust"])
    assert "it has answered with another model than the one that it named" in shown["trust"]
    assert "smollm2 · ana · " in shown["best"]
