"""What a terminal shows while something goes on."""

from __future__ import annotations

import io
import sys

import pytest

from ainet.api.generate import Progress
from ainet.cli.progress import ProgressLine, progress_text

LOADING = Progress(text="loading")
WAITING = Progress(text="waiting for devices to come back", notice=True)


def test_without_a_terminal_a_line_comes_now_and_then(capsys):
    progress = ProgressLine()
    for _ in range(5):
        progress.show(Progress(text="reading", done=1, total=2, unit="tokens"))  # as for every question
        progress.show(LOADING)
    assert capsys.readouterr().err == "loading \u2026\n"


def test_on_a_terminal_one_line_changes_and_goes(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = ProgressLine()
    progress.show(LOADING)
    progress.show(Progress(text="loading", done=1000, total=2000))
    progress.clear()
    progress.clear()
    assert capsys.readouterr().err == f"\r\x1b[Kloading \u2026\r\x1b[Kloading {'█' * 10}{'░' * 10} 1 kB of 2 kB\r\x1b[K"


def test_amid_an_answer_only_what_matters_is_said_and_once(capsys, monkeypatch):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        progress = ProgressLine()
        for event in (LOADING, WAITING, WAITING, LOADING):
            progress.show(event, amid=True)
        progress.clear()
        assert capsys.readouterr().err == "\nwaiting for devices to come back \u2026\n"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Progress(text="reading m"), "reading m …"),
        (Progress(text="reading m", done=2000), "reading m: 2 kB"),
        (Progress(text="reading m", done=0, total=4000), f"reading m {'░' * 20} 0 B of 4 kB"),
        (Progress(text="loading m", done=3, total=30, unit="layers"), f"loading m {'█' * 2}{'░' * 18} 3 of 30 layers"),
        (Progress(text="reading", done=64, total=64, unit="tokens"), f"reading {'█' * 20} 64 of 64 tokens"),
        (Progress(text="more", done=9, total=3, unit="tokens"), f"more {'█' * 20} 9 of 3 tokens"),
    ],
)
def test_a_bar_shows_how_much_is_done(event, words):
    assert progress_text(event) == words


def test_a_terminal_without_the_bars_letters_has_others(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    terminal = Terminal(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = ProgressLine()
    progress.begin()
    progress.show(Progress(text="loading", done=1, total=2, unit="layers"))
    shown = terminal.buffer.getvalue().decode("ascii")
    assert shown == f"\r\x1b[Kasking the node ...\r\x1b[Kloading {'#' * 10}{'.' * 10} 1 of 2 layers"


def test_what_is_piped_begins_without_a_word(capsys):
    ProgressLine().begin()
    assert capsys.readouterr().err == ""
