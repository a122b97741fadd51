"""A page of JupyterLab, used as a person uses it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from playwright.sync_api import expect


def run_cell(page: Any, text: str) -> Any:
    """Type `text` into the last cell, run it, and return that cell's outputs."""
    cell = page.locator(".jp-Notebook .jp-CodeCell").last
    editor = cell.locator(".cm-content")
    editor.fill(text)
    expect(editor).to_contain_text(text.splitlines()[-1])
    editor.press("Shift+Enter")
    return page.locator(".jp-Notebook .jp-CodeCell").nth(-2).locator(".jp-OutputArea")


def wait_for_kernel(page: Any) -> None:
    """Run a cell until it answers: what is run before the kernel has connected, JupyterLab forgets."""
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=60_000)
    for _ in range(20):
        with contextlib.suppress(AssertionError):
            expect(run_cell(page, "6 * 7")).to_contain_text("42", timeout=3000)
            return
    pytest.fail("the kernel does not answer")
