"""The ainet kernel in an unmodified JupyterLab, driven in Chromium as a user would."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect, sync_playwright
from support.lab import CHROMIUM, OPTIONS, TOKEN, running_lab
from support.lab_pages import run_cell, wait_for_kernel

ANSWER_MS = 120_000


@pytest.fixture(scope="module")
def lab(jupyter_dirs, tmp_path_factory):
    """JupyterLab with the extension; gives its address."""
    with running_lab(tmp_path_factory.mktemp("lab")) as url:
        yield url


@pytest.fixture(scope="module")
def page(lab):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"{lab}/lab?token={TOKEN}")
        yield page
        browser.close()


def test_the_launcher_starts_the_kernel_and_an_answer_streams_in(page):
    page.locator('.jp-LauncherCard[data-category="Notebook"][title="ainet"]').click(timeout=60_000)
    expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(1, timeout=60_000)
    wait_for_kernel(page)

    out = run_cell(page, "%%ainet ask --temperature 0 --max-tokens 16\nWhy is the sky blue?")
    # Which words depends on the kind of processor.
    expect(out.locator(".jp-RenderedHTML").first).to_contain_text(re.compile(r"(\w+\W+){8}"), timeout=ANSWER_MS)
    expect(out).to_contain_text(
        re.compile(r"smollm2 · layers \S+ 0–29 · [\d.]+ tokens/s · first token"), timeout=ANSWER_MS
    )


def test_interrupting_the_kernel_keeps_the_text_and_stops_the_model(page, tmp_path):
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= [a-z] [a-z]? [a-z]? [a-z]? " " root')
    out = run_cell(page, f"%%ainet ask --temperature 1 --max-tokens 3000 --grammar {grammar}\nTell me a story.")
    answer = out.locator(".jp-RenderedHTML > p:not(:has(em))").first  # emphasised is what is said before the first word
    expect(answer).to_contain_text(re.compile(r"\w+ \w+"), timeout=ANSWER_MS)
    page.get_by_role("button", name="Interrupt the kernel").click()
    expect(out).to_contain_text("Stopped", timeout=10_000)
    expect(answer).to_contain_text(re.compile(r"\w+ \w+"))
    # The model is free again.
    out = run_cell(page, "%%ainet ask --temperature 0 --max-tokens 2\nHello")
    expect(out).to_contain_text("stopped at the token limit", timeout=30_000)


def test_an_error_is_one_line_without_a_traceback(page):
    out = run_cell(page, "%%ainet ask --model no-such-model\nHello")
    expect(out).to_contain_text("no-such-model", timeout=30_000)
    expect(out).not_to_contain_text("Traceback")
