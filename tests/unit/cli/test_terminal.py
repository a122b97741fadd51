"""What a terminal shows of texts that others wrote, and what it takes for text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.cli import terminal
from ainet.cli.terminal import escaped, fitting, read_input, say
from ainet.errors import AinetError, UsageError
from ainet.printable import visible


class Terminal(io.TextIOWrapper):
    """A terminal whose letters are those of an encoding."""

    def __init__(self, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self):
        return True

    @property
    def shown(self):
        return self.buffer.getvalue().decode(self.encoding)


HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",  # clears the screen, names the window
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIC8=\x07",  # writes to the clipboard
    "right\rwrong",
    "a\bb\x7f",
    "\x9b31mred\x9d0;x\x9c",
    "user\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "form\x0cfeed\x0b\x00\x05\x0e",
    "P\x90q\x9e",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_control_characters_and_does_not_obey_them(text):
    screen = Terminal()
    say(text, to=screen)
    shown = screen.shown
    assert shown.removesuffix("\n").isprintable()
    assert len(shown) > len(text)  # nothing is left out


@given(st.text())
def test_whatever_the_text_a_terminal_gets_no_command(text):
    assert not {letter for letter in visible(text) if ord(letter) < 32 or 127 <= ord(letter) < 160} - {"\n", "\t"}
    printable = "".join(letter for letter in text if letter.isprintable())
    assert visible(printable) == printable


def test_line_ends_tabs_emoji_and_scripts_stay():
    text = "a\n\tb \N{FAMILY}\N{ZERO WIDTH JOINER}\N{WOMAN} \u05e9\u05dc\u05d5\u05dd e\u0301\n"
    assert visible(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_piped_is_what_the_model_said(text):
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    say(text, end="", to=pipe)
    assert pipe.buffer.getvalue().decode() == text


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "na?ve ? ?"), ("latin-1", "na\xefve ? ?"), ("cp1252", "na\xefve \u20ac ?")]
)
def test_letters_that_a_terminal_lacks_are_replaced(encoding, shown):
    assert fitting("na\xefve \u20ac \N{GRINNING FACE}", Terminal(encoding)) == shown


def test_half_a_surrogate_pair_can_be_printed():
    assert fitting("a\ud83d", Terminal()) == "a?"


def test_an_error_with_commands_in_it_is_harmless_in_a_cell():
    assert AinetError("no peer \x1b[2J")._render_traceback_() == ["AinetError: no peer \u241b[2J"]


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"\n", "\n"),
        (r"\n\n", "\n\n"),
        (r"a\tb\r", "a\tb\r"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\u00e9\x41\U0001F600", "\xe9A\N{GRINNING FACE}"),
        (r"\ud83d\ude00", "\N{GRINNING FACE}"),
        (r"\d \w \ \u12 \x", r"\d \w \ \u12 \x"),
        ("C:\\dir\\", "C:\\dir\\"),
        ("real\nline", "real\nline"),
        ("", ""),
    ],
)
def test_escapes_in_options_mean_what_they_do_in_python(typed, text):
    assert escaped(typed) == text


def test_half_a_surrogate_pair_is_no_option():
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        escaped(r"\ud83d")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_can_be_written_as_an_option(text):
    assert escaped(text.replace("\\", "\\\\").replace("\n", "\\n")) == text


def given_input(monkeypatch, raw, encoding="utf-8"):
    monkeypatch.setattr(terminal.sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding=encoding))


def test_input_that_is_no_text_is_named(monkeypatch):
    given_input(monkeypatch, b"caf\xe9")
    with pytest.raises(UsageError, match="Standard input is not UTF-8 text: byte 0xe9 at position 3"):
        read_input()


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [(b"\xef\xbb\xbfcaf\xc3\xa9", "utf-8"), (b"caf\xe9", "latin-1"), (b"caf\xc3\xa9", "utf-8")],
)
def test_input_is_read_in_the_encoding_of_the_terminal(monkeypatch, raw, encoding):
    given_input(monkeypatch, raw, encoding)
    assert read_input() == "caf\xe9"
