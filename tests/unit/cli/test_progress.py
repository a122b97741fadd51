"""What a terminal shows while something goes on."""

from __future__ import annotations

from ainet.api.generate import Progress
from ainet.cli.progress import ProgressLine

LOADING = Progress(text="loading")
WAITING = Progress(text="waiting for devices to come back", notice=True)


def test_without_a_terminal_a_line_comes_now_and_then(capsys):
    progress = ProgressLine()
    for _ in range(5):
        progress.show(LOADING)
    assert capsys.readouterr().err == "loading \u2026\n"


def test_on_a_terminal_one_line_changes_and_goes(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = ProgressLine()
    progress.show(LOADING)
    progress.show(Progress(text="loading", done=1000, total=2000))
    progress.clear()
    progress.clear()
    assert capsys.readouterr().err == "\r\x1b[Kloading \u2026\r\x1b[Kloading: 1 kB of 2 kB\r\x1b[K"


def test_amid_an_answer_only_what_matters_is_said_and_once(capsys, monkeypatch):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        progress = ProgressLine()
        for event in (LOADING, WAITING, WAITING, LOADING):
            progress.show(event, amid=True)
        progress.clear()
        assert capsys.readouterr().err == "\nwaiting for devices to come back \u2026\n"
