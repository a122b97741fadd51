"""The owner's documents in JupyterLab: what is found opens at its line, and an answer says where it is from."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect, sync_playwright
from support.household import write_notes
from support.lab import CHROMIUM, OPTIONS, TOKEN, running_lab
from support.lab_pages import run_cell, wait_for_kernel

WAIT_MS = 120_000


@pytest.fixture(scope="module")
def page(jupyter_dirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_notes(folder / "notes")
    with running_lab(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"{url}/lab?token={TOKEN}")
        page.locator('.jp-LauncherCard[data-category="Notebook"][title="ainet"]').click(timeout=60_000)
        wait_for_kernel(page)
        yield page
        browser.close()


def back(page):
    page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="Untitled.ipynb").click()


def test_what_is_found_opens_at_its_line(page):
    expect(run_cell(page, "%ainet context add notes --wait")).to_contain_text("known", timeout=WAIT_MS)
    out = run_cell(page, "%ainet find discount of loyal customers")
    link = out.locator("a", has_text="prices.py:10").first
    expect(link).to_be_visible(timeout=WAIT_MS)
    link.click()
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Ln 10", timeout=30_000)
    back(page)


def test_an_answer_says_where_it_is_from(page):
    out = run_cell(
        page, "%%ainet ask --context auto --temperature 0 --max-tokens 24\nWhat is the backup server called?"
    )
    expect(out).to_contain_text("heron. [1]", timeout=WAIT_MS)
    out.locator("summary").click()
    link = out.locator("details a").first
    expect(link).to_have_text(re.compile(r"work/server\.md:2$"))
    link.click()
    opened = page.locator(".jp-MarkdownViewer")
    expect(opened.locator("h1", has_text="Backup server")).to_be_visible(timeout=30_000)
    back(page)


def test_a_trace_is_a_picture(page):
    out = run_cell(page, "%ainet trace shipping")
    picture = out.locator("img")
    expect(picture).to_have_attribute("alt", re.compile(r"prices\.py:4"), timeout=WAIT_MS)
    expect(picture).to_be_visible()
    assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
