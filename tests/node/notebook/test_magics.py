from __future__ import annotations

import json
import re
import signal
import threading

import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from support.disk import all_bytes
from traitlets.config import Config

from ainet.api import context
from ainet.api.generate import Message, Text
from ainet.client.client import NodeClient
from ainet.notebook.magics import split

GREEDY = "--temperature 0 --max-tokens 8"


@pytest.fixture
def shell(node_dir, monkeypatch):
    monkeypatch.setenv("AINET_DATA_DIR", str(node_dir))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}), colors="nocolor")
    shell.run_line_magic("load_ext", "ainet")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def run(shell, capsys):
    """Run a cell; return what it printed."""

    def run(cell: str) -> str:
        capsys.readouterr()
        result = shell.run_cell(cell)
        assert result.success, result.error_in_exec
        return capsys.readouterr().out

    return run


@pytest.fixture
def fail(shell, capsys):
    """Run a cell that fails; return what it printed."""

    def fail(cell: str) -> str:
        capsys.readouterr()
        assert not shell.run_cell(cell).success
        printed = capsys.readouterr()
        return printed.out + printed.err

    return fail


def test_a_question_is_answered_below_the_cell(run):
    printed = run(f"%%ainet ask {GREEDY}\nName a colour.")
    answer, footer = printed.strip().rsplit("\n", 1)
    assert answer.strip()
    assert re.fullmatch(r"smollm2 · layers tester 0–29 · \d+\.\d tokens/s · first token \d\.\d\d s.*", footer)


def test_line_and_cell_and_bare_cell_are_the_same_question(run, shell):
    run(f"%%ainet ask {GREEDY} --to cell\nName a colour.")
    run("%ainet new")
    run(f"%ainet ask {GREEDY} --to line Name a colour.")
    run("%ainet new")
    run(f"%%ainet ask {GREEDY} --to both Name a\ncolour.")
    assert shell.user_ns["cell"] == shell.user_ns["line"]
    assert isinstance(shell.user_ns["both"], str)


def test_the_conversation_is_remembered_until_a_new_one(run):
    def prompt_tokens(cell):
        return int(re.search(r'"prompt_tokens": (\d+)', run(cell)).group(1))

    alone = prompt_tokens(f"%%ainet ask {GREEDY} --json\nMy name is Ada.")
    second = prompt_tokens(f"%%ainet ask {GREEDY} --json\nMy name is Ada.")
    raw = prompt_tokens(f"%%ainet ask {GREEDY} --json --raw\nMy name is Ada.")
    third = prompt_tokens(f"%%ainet ask {GREEDY} --json\nMy name is Ada.")
    assert raw < alone < second < third
    assert run("%ainet new") == "A new conversation begins.\n"
    assert prompt_tokens(f"%%ainet ask {GREEDY} --json\nMy name is Ada.") == alone


def test_instructions_stay_for_the_conversation(run, shell):
    magics = shell.magics_manager.registry["AinetMagics"]
    run(f"%%ainet ask {GREEDY} --system 'Be brief.'\nHi")
    run(f"%%ainet ask {GREEDY}\nAgain")
    roles = [message.role for message in magics.conversation]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    run(f"%%ainet ask {GREEDY} --system=Rhyme.\nAgain")
    assert magics.conversation[0] == Message("system", "Rhyme.")
    assert [message.role for message in magics.conversation].count("system") == 1


@pytest.mark.parametrize("percents", ["%", "%%"])
def test_every_subcommand_has_help(run, shell, percents):
    names = re.search(r"\{(.*?)\}", str(shell.magics_manager.registry["AinetMagics"]._parser._actions[-1].choices))
    assert names
    for name in shell.magics_manager.registry["AinetMagics"]._parser._actions[-1].choices:
        printed = run(f"{percents}ainet {name}?")
        assert printed.startswith(f"usage: %ainet {name}"), name


def test_the_magics_help_lists_the_subcommands(shell):
    text = shell.find_line_magic("ainet").__doc__
    for name in ("ask", "new", "plan", "client", "status", "up", "invite"):
        assert re.search(rf"^    {name} +\w+", text, re.MULTILINE), name


def test_without_a_subcommand_the_status_is_shown(run):
    printed = run("%ainet")
    assert "tester" in printed
    assert "this device" in printed


@pytest.mark.parametrize("command", ["status", "models", "plan", "members"])
def test_what_needs_no_kernel_is_the_same_as_on_the_command_line(run, command):
    from support.nodes import ainet

    shown = run(f"%ainet {command}")
    printed = ainet(command).stdout

    def words(text):
        return re.sub(r"\d+(\.\d+)?|─+| +", " ", text)

    assert words(shown) == words(printed)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%ainet frobnicate", "UsageError: argument COMMAND: invalid choice: 'frobnicate'"),
        ("%ainet ask", "UsageError: Ask what? Write the question below %%ainet ask, or behind %ainet ask."),
        ("%%ainet ask\n\n", "UsageError: Ask what?"),
        ("%%ainet ask --to 1x\nhi", "UsageError: --to 1x: that is not the name of a variable."),
        ("%%ainet ask --to for\nhi", "UsageError: --to for: that is not the name of a variable."),
        ("%%ainet status\nhi", "UsageError: `status` takes no cell: write %ainet status, with one percent sign."),
        ("%%ainet ask --model no-such-model\nhi", "NotFound: "),
        ("%%ainet ask --temperature -1\nhi", "UsageError: "),
        ("%ainet status --data-dir /nowhere", "NodeNotRunning: No node is running on /nowhere."),
    ],
)
def test_an_error_is_one_line_without_a_traceback(fail, cell, words):
    printed = fail(cell)
    assert words in printed
    assert "Traceback" not in printed
    assert "File " not in printed


@pytest.fixture(scope="module")
def kernel(node_dir):
    """A Python kernel of a notebook in which nobody can be asked; runs code, returns the messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AINET_DATA_DIR", str(node_dir))
        patch.delenv("AINET_PASSPHRASE", raising=False)
        manager, client = start_new_kernel()
    client.execute_interactive("%load_ext ainet", timeout=60)

    def run(code):
        messages = []
        client.execute_interactive(code, allow_stdin=False, output_hook=messages.append, timeout=60)
        return [(message["msg_type"], message["content"]) for message in messages]

    yield run
    client.stop_channels()
    manager.shutdown_kernel()


def test_a_notebook_shows_usage_as_a_picture_and_a_table(kernel):
    kernel(f"%ainet ask {GREEDY} Name a colour.")
    (shown,) = [content for kind, content in kernel("%ainet usage") if kind == "display_data"]
    assert '<img alt="Time for which devices worked, by day"' in shown["data"]["text/html"]
    assert "tester" in shown["data"]["text/html"]
    assert shown["data"]["text/plain"].splitlines()[2].startswith("tester")
    (printed,) = [content for kind, content in kernel("%ainet usage --json --days 1") if kind == "stream"]
    assert json.loads(printed["text"])["by"] == "peer"


def test_a_notebook_shows_the_placement_as_a_bar_below_the_table(kernel):
    table, bar = [content for kind, content in kernel("%ainet plan") if kind in {"stream", "display_data"}]
    assert "tester" in table["text"]
    assert 'title="layers 0–29"' in bar["data"]["text/html"]
    (printed,) = [content for kind, content in kernel("%ainet plan --json") if kind in {"stream", "display_data"}]
    assert json.loads(printed["text"])["stages"]


def test_a_notebook_that_cannot_ask_for_a_passphrase_names_its_variable(kernel, tmp_path):
    messages = kernel(f"%ainet export-key {tmp_path / 'key'}")
    (error,) = [content for kind, content in messages if kind == "error"]
    assert "\n".join(error["traceback"]) == (
        "UsageError: There is nobody to ask for the passphrase: put it into the environment variable AINET_PASSPHRASE."
    )
    assert not [content for kind, content in messages if kind == "stream"]


def test_debug_shows_the_traceback(fail):
    assert "Traceback (most recent call last)" in fail("%ainet status --debug --data-dir /nowhere")


def test_a_failed_question_is_not_part_of_the_conversation(run, fail, shell):
    run(f"%%ainet ask {GREEDY}\nHi")
    before = list(shell.magics_manager.registry["AinetMagics"].conversation)
    fail("%%ainet ask --model no-such-model\nAgain")
    assert shell.magics_manager.registry["AinetMagics"].conversation == before


def test_a_conversation_that_outgrows_the_window_says_how_to_begin_anew(run, fail):
    run(f"%%ainet ask {GREEDY}\nHi")
    printed = fail("%%ainet ask --max-tokens 1\n" + "many words " * 4000)
    assert printed.startswith("PromptTooLong: ")
    assert "`%ainet new` begins a new conversation." in printed
    run(f"%%ainet ask {GREEDY}\nHi")


def test_a_conversation_with_something_personal_is_not_sent_to_other_owners(run, fail):
    run("%ainet new")
    run(f"%%ainet ask --private {GREEDY}\nRemember the number 7.")
    for option in ("--from ana", "--from anyone"):
        assert "it stays on your devices. `%ainet new` begins another one." in fail(f"%%ainet ask {option}\nWhich one?")
    run("%ainet new")
    assert "No contact is called 'ana'" in fail("%%ainet ask --from ana\nWhich number?")


def test_an_interrupt_stops_the_answer_and_keeps_the_text(run, fail, shell, tmp_path, monkeypatch):
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text("root ::= [a-z ] root")
    generate, said = NodeClient.generate, threading.Event()

    def heard(*arguments, **options):
        text = ""
        for event in generate(*arguments, **options):
            yield event
            text += event.text if isinstance(event, Text) else ""
            if len(text) > 20:
                said.set()

    def interrupt():
        if said.wait(60):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(NodeClient, "generate", heard)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    printed = fail(f"%%ainet ask --max-tokens 3000 --grammar {grammar} --to kept\nTell me everything.")
    interrupting.join()
    assert len(shell.user_ns["kept"]) > 10
    assert shell.user_ns["kept"] in printed
    assert "· stopped" in printed
    assert printed.rstrip().endswith("Stopped.")
    assert "Traceback" not in printed
    assert shell.magics_manager.registry["AinetMagics"].conversation[-1].content == shell.user_ns["kept"]
    run(f"%%ainet ask {GREEDY}\nHi")


def test_loading_twice_keeps_the_conversation(run, shell):
    run(f"%%ainet ask {GREEDY}\nHi")
    magics = shell.magics_manager.registry["AinetMagics"]
    shell.run_line_magic("reload_ext", "ainet")
    assert shell.magics_manager.registry["AinetMagics"] is magics
    assert magics.conversation


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ask what's up", ["ask", "what's", "up"]),
        ('ask --system "Be brief." hi', ["ask", "--system", "Be brief.", "hi"]),
        ("ask --system='Be brief.' hi", ["ask", "--system=Be brief.", "hi"]),
        ("""ask 'it is "fine"' isn't it""", ["ask", 'it is "fine"', "isn't", "it"]),
        ("  ", []),
        ('ask "" x', ["ask", "", "x"]),
        ('ask "unclosed quote', ["ask", '"unclosed', "quote"]),
    ],
)
def test_a_line_is_split_as_people_write(line, words):
    assert split(line) == words


def test_documents_are_found_traced_and_asked_as_they_are_typed(run, fail, shell, tmp_path):
    (tmp_path / "shop.py").write_text(
        "def vat(price):\n    return 1.19 * price\n\n\ndef total(prices):\n    return vat(sum(prices))\n"
    )
    (tmp_path / "notes.md").write_text("# Cellar\nThe pump isn't new; it was replaced in May.\n")
    assert "Nothing was asked yet" in fail("%ainet last")
    run(f"%ainet context add {tmp_path} --wait")
    try:
        assert "calls vat" in run("%ainet find who calls vat?")
        assert "notes.md" in run("%ainet find --most 1 isn't the pump new?")
        assert run("%ainet trace vat").splitlines()[:1] == ["vat  shop.py:1"]
        printed = run("%ainet ask --context auto --temperature 0 --max-tokens 16 When was the pump replaced?")
        assert f"[1] {tmp_path}/notes.md:2" in printed
        assert "The pump isn't new; it was replaced in May.\n\nWhen was the pump replaced?" in run(
            "%ainet last --prompt"
        )
        assert "Find what?" in fail("%ainet find")
        fail("total(None)")
        run(f"%ainet fix {GREEDY}")
        asked = run("%ainet last --prompt")
        assert "fails at `total(None)` with:\nNameError" in asked
    finally:
        run(f"%ainet context remove {tmp_path}")


def test_cells_and_conversations_are_remembered_where_that_is_wished(run, shell, tmp_path, monkeypatch, node_dir):
    notebook = tmp_path / "sails.ipynb"
    monkeypatch.setenv("JPY_SESSION_NAME", str(notebook))

    def cell(text: str) -> None:
        shell.run_cell(text, store_history=True)

    def found(text: str) -> list[tuple[str, str]]:
        with NodeClient.running(node_dir) as node:
            return [(one.path, one.kind) for one in node.call(context.find, text).results]

    def written() -> bytes:
        return all_bytes(node_dir / "context")

    cell("unasked = 'xylem'")
    assert "is not remembered; nothing of it is kept" in run("%ainet remember")
    assert "What is done here is remembered" in run("%ainet remember on")
    cell("boats = {'spinnaker': 40}\nboats")
    cell("token = 'hf_" + "x" * 34 + "'  # spinnaker key")
    cell("spinnaker / 0")
    run(f"%%ainet ask {GREEDY}\nWhat is a quagmire?")
    assert (str(notebook), "cell") in found("spinnaker")
    assert (str(notebook), "output") in found("spinnaker 40")
    assert (str(notebook), "conversation") in found("quagmire")
    assert found("xylem") == []
    assert b"hf_xxx" not in written()
    assert "4 cells and conversations" in run("%ainet remember")
    assert re.search(r"sails.ipynb +private +4 cells +– +remembered", run("%ainet context"))
    assert "What is done here is not remembered; 4 cells" in run("%ainet remember off")
    cell("'zeppelin'")
    assert found("zeppelin") == []
    assert found("spinnaker") != []
    assert "nothing of it is kept" in run("%ainet remember forget")
    assert found("spinnaker") == found("quagmire") == []
    assert b"spinnaker" not in written()
    assert b"sails" not in written()
    # It is known again in the next kernel whether that is wished.
    run("%ainet remember on")
    InteractiveShell.clear_instance()
    again = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}), colors="nocolor")
    again.run_line_magic("load_ext", "ainet")
    again.run_cell("galleon = 3", store_history=True)
    assert found("galleon") == [(str(notebook), "cell")]
    again.run_cell("%ainet remember forget")
    assert found("galleon") == []
