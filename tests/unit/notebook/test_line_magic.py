"""What is typed behind a line magic arrives as it was typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ainet.notebook.line_magic import keep_typed_text
from ainet.notebook.magics import AinetMagics


class Asked(AinetMagics):
    """The magics, as far as the question."""

    def _run(self, options, cell):
        self.options = options
        return options.text[0] if options.command == "ask" else options.command


@pytest.fixture(scope="module")
def shell():
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}), colors="nocolor")
    magics = Asked(shell)
    shell.register_magics(magics)
    shell.input_transformers_cleanup.append(keep_typed_text(shell, magics.commands))
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def asked(shell):
    """Run a cell; return the last question that it asked."""

    def run(cell):
        result = shell.run_cell(cell)
        assert result.success, result.error_before_exec or result.error_in_exec
        return shell.magics_manager.registry["Asked"].options

    return run


TEXTS = [
    "Why is the sky blue?",
    "What??",
    "Is 5 > 3? And why!",
    "what does !ls do?",
    "What does %time do?",
    "100% sure?",
    "Explain f'{x}' and {y!r} and $HOME and ${PATH}; thanks;",
    "Say \"hello\" and 'bye', isn't it?",
    '"Why is the sky blue?"',
    "two  spaces,\tand a tab",
    "what is `a?b:c` in C?",
    "print(x)  # a comment?",
    r"the regex \d+\? and C:\new\table",
    "what does ls -la do?",
    "what does --help do?",
    "is -5 < -3?",
    "a = %ainet ask x?",
    "中文怎么样? naïve café?",
    "🙂?",
    "ends in a brace {",
    "(unbalanced [",
    "'''",
    "x; y;",
    "/quit, @you and ,this",
    "a \\\\ b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_question_arrives_as_it_was_typed(asked, shell, text):
    assert asked(f"%ainet ask {text}").text == [text]
    assert asked(f"%ainet ask --max-tokens 3 {text}").text == [text]
    assert asked(f"x = 1\nif x:\n    %ainet ask {text}\n").text == [text]
    assert asked(f"answer = %ainet ask {text}").text == [text]
    assert shell.user_ns["answer"] == text
    assert asked(f"%%ainet ask {text}\nmore").text == [text]
    assert asked(f"ainet ask {text}").text == [text]
    assert asked(f"%%capture shown\n%ainet ask {text}").text == [text]
    assert asked(f"%time %ainet ask {text}").text == [text]
    assert asked(f"%timeit -n1 -r1 answer = %ainet ask {text}").text == [text]
    assert asked(f"x = '''\n'''\n%ainet ask {text}\n%ainet status").command == "status"


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" ?!%{}$'\"\\;#-="), min_size=1))
def test_any_text_arrives_as_it_was_typed(asked, text):
    text = " ".join(text.split(" ")).strip()
    if text and not text.startswith("-") and not text.endswith("\\") and text.strip("?"):
        if " --" not in text:
            assert asked(f"%ainet ask {text}").text == [text]
        assert asked(f"%ainet ask -- {text}").text == [text]


def test_options_stand_anywhere_and_their_quotes_are_not_text(asked):
    options = asked("%ainet ask Why is 'it'  so? --system \"Be brief?\" --to=x really -la")
    assert (options.text, options.system, options.to) == (["Why is 'it'  so? really -la"], "Be brief?", "x")
    assert asked("%ainet ask -- --to x").text == ["--to x"]
    assert asked('%ainet ask "--to" x').text == ['"--to" x']


def test_a_line_goes_on_behind_a_backslash(asked):
    assert asked("%ainet ask Why? \\\n  Because!\n").text == ["Why?    Because!"]


@pytest.mark.parametrize(
    "cell",
    [
        "text = '''\n%ainet ask {what}?\n'''",
        "text = f'''\n{1}\n'''\nrest = '''%ainet ask\n%ainet ask {what}?\n'''",
        "x = 'a = %ainet ask why'",
        "x = (7\n %ainet\n)",
        "x = 7 \\\n  %ainet",
        "%%writefile /dev/null\n%ainet ask why?",
        "print('ainet?')",
        "# %ainet ask why?",
    ],
)
def test_what_is_no_magic_stays_as_it_is(shell, cell):
    shell.user_ns["ainet"] = 5
    try:
        kept = keep_typed_text(shell, frozenset({"ask"}))(cell.splitlines(keepends=True))
    finally:
        del shell.user_ns["ainet"]
    assert "".join(kept) == cell


@pytest.mark.parametrize(
    "cell", ["%ainet ask?", "%ainet ask ?", "%%ainet ask?", "ainet ask?", "x = 1\n%ainet ask??", "%ainet ask --help"]
)
def test_a_question_mark_behind_a_subcommand_is_a_request_for_help(shell, capsys, cell):
    assert shell.run_cell(cell).success
    assert capsys.readouterr().out.startswith("usage: %ainet ask")


@pytest.mark.parametrize("cell", ["%ainet?", "%%ainet?", "?%ainet", "ainet?"])
def test_the_magic_has_help_too(shell, capsys, cell):
    assert shell.run_cell(cell).success
    assert "usage: %ainet" in capsys.readouterr().out


def test_options_that_do_not_exist_are_errors_before_the_question(shell, capsys):
    assert not shell.run_cell("%ainet ask --max-token 5 Why?").success
    assert "unrecognized arguments: --max-token" in capsys.readouterr().out


def test_a_variable_of_the_name_is_no_magic(shell):
    shell.user_ns["ainet"] = 5
    try:
        assert shell.run_cell("ainet").result == 5
        assert not shell.run_cell("ainet ask why").success
    finally:
        del shell.user_ns["ainet"]


def test_options_of_all_subcommands_may_stand_in_front(asked):
    options = asked("%ainet --data-dir /somewhere ask 'Why?'  and  how?")
    assert (options.text, str(options.data_dir)) == (["'Why?'  and  how?"], "/somewhere")
