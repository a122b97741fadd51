"""One notebook in two unmodified JupyterLabs with jupyter-collaboration, driven in Chromium."""

from __future__ import annotations

import contextlib
import json

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright
from support.lab import CHROMIUM, OPTIONS, TOKEN, running_lab

from ainet.client.client import NodeClient

pytestmark = pytest.mark.timeout(400)
#: Cells of a notebook in the folder `sub`, and what they say.
SHARING = {
    "%load_ext ainet\n%ainet share": "sub/own.ipynb is shared with swarm",
    "%ainet share beside.ipynb --name other": "sub/beside.ipynb is shared with swarm",
    "%ainet share /etc/hostname": "is not in this Jupyter server's folder",
    "%ainet share nowhere.ipynb": "There is no notebook 'nowhere.ipynb'",
}


@pytest.fixture(scope="module")
def labs(jupyter_dirs, tmp_path_factory):
    """Two labs of one swarm, with a notebook that the first shares and the second has opened; gives their addresses."""
    folders = [tmp_path_factory.mktemp(name) for name in ("ada", "bob")]
    for folder in folders:
        (folder / "node").mkdir(mode=0o700)
        settings = {"AinetConfig": {"name": folder.name.rstrip("0123456789"), "threads": 1, "memory": "1GB"}}
        (folder / "node" / "ainet_config.json").write_text(json.dumps(settings))
    cells = [nbformat.v4.new_code_cell("1 + 1", id="first"), nbformat.v4.new_markdown_cell("Hello", id="second")]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    written = {"plan.ipynb": cells, "sub/beside.ipynb": cells[1:]}
    written["sub/own.ipynb"] = [nbformat.v4.new_code_cell(source) for source in SHARING]
    (folders[0] / "sub").mkdir()
    for path, content in written.items():
        nbformat.write(nbformat.v4.new_notebook(cells=content, metadata={"kernelspec": spec}), folders[0] / path)
    with running_lab(folders[0]) as ada, running_lab(folders[1]) as bob:
        with NodeClient.running(folders[0] / "node") as here, NodeClient.running(folders[1] / "node") as there:
            there.join(here.invite().ticket)
            here.share("plan.ipynb")
            for _ in range(200):
                if there.notebooks():
                    break
            assert there.open_notebook("plan").path == "plan.ipynb"
        yield ada, bob


@pytest.fixture(scope="module")
def pages(labs):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        opened = []
        for url in labs:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{url}/lab/tree/plan.ipynb?token={TOKEN}")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell .cm-content", timeout=90_000)
            opened.append(page)
        yield opened
        browser.close()


def editor(page, index=0):
    return page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(index)


def run(page, index=0):
    """Run a cell; a lab that has just opened a notebook may not hear of it the first time."""
    prompt = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").nth(index)
    before = prompt.inner_text()
    for _ in range(10):
        editor(page, index).click()
        page.keyboard.press("Control+Enter")
        with contextlib.suppress(AssertionError):
            expect(prompt).not_to_have_text(before, timeout=5_000)
            return
    pytest.fail("the cell does not run")


def test_what_is_typed_in_one_lab_appears_in_the_other(pages):
    ada, bob = pages
    editor(ada).click()
    ada.keyboard.press("End")
    ada.keyboard.type(" + 40", delay=30)
    expect(editor(bob)).to_contain_text("1 + 1 + 40", timeout=20_000)
    editor(bob).click()
    bob.keyboard.press("End")
    bob.keyboard.type("  # by bob", delay=30)
    expect(editor(ada)).to_contain_text("1 + 1 + 40  # by bob", timeout=20_000)


def test_outputs_travel_with_who_ran_the_cell(pages, labs, tmp_path_factory):
    ada, bob = pages
    ada.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=90_000)
    run(ada)
    output = bob.locator(".jp-Notebook .jp-CodeCell .jp-OutputArea-output").first
    expect(output).to_contain_text("42", timeout=30_000)
    # Both notebooks still have the two cells they began with.
    for page in pages:
        expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(2)


def test_a_notebook_is_shared_from_one_of_its_cells(pages, labs):
    page = pages[0].context.new_page()
    page.goto(f"{labs[0]}/lab/tree/sub/own.ipynb?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=90_000)
    said = page.locator(".jp-Notebook .jp-CodeCell .jp-OutputArea")
    for i, expected in enumerate(SHARING.values()):  # a cell that fails stops those that wait after it
        run(page, i)
        expect(said.nth(i)).to_contain_text(expected, timeout=60_000)
