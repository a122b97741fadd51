from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from nodes import ainet, answer_of

from ainet.cli import main

GREEDY = ("--temperature", "0", "--max-tokens", "8")


@pytest.fixture
def here(node_dir, monkeypatch):
    """Commands of this test concern the test's node."""
    monkeypatch.setenv("AINET_DATA_DIR", str(node_dir))


def test_ask_prints_the_text_and_nothing_else(here):
    done = ainet("ask", "Name", "a", "colour.", *GREEDY)
    assert done.returncode == 0
    as_json = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--json"))
    assert done.stdout == as_json["text"] + "\n"
    assert re.fullmatch(
        r"smollm2.* · layers tester 0–29 · \d+\.\d tokens/s · first token \d+\.\d\d s( · stopped at the .*)?\n",
        done.stderr,
    )


def test_the_shape_of_an_answer_for_programs(here):
    answer = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--seed", "3", "--json"))
    assert {"text", "tokens", "model", "placement", "timings"} <= answer.keys()
    assert all(isinstance(token, int) for token in answer["tokens"])
    assert answer["seed"] == 3
    assert answer["timings"].keys() == {"prompt_tokens", "generated_tokens", "first_token_s", "tokens_per_s"}
    assert answer["timings"]["generated_tokens"] == len(answer["tokens"])
    (part,) = answer["placement"]
    assert part.keys() >= {"node", "pid", "first_layer", "last_layer"}
    assert (part["first_layer"], part["last_layer"]) == (0, 29)


def test_the_question_may_come_from_standard_input(here):
    named = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--json"))
    for arguments in ([], ["-"]):
        piped = answer_of(ainet("ask", *arguments, *GREEDY, "--json", input="Name a colour."))
        assert piped["tokens"] == named["tokens"]


def test_raw_system_stop_and_schema_reach_the_model(here, tmp_path):
    plain = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--json"))
    raw = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--raw", "--json"))
    system = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--system", "You are a pirate.", "--json"))
    counts = [answer["timings"]["prompt_tokens"] for answer in (raw, plain, system)]
    assert counts[0] == min(counts)
    assert len(set(counts)) == 3
    stop = plain["text"].split()[1]
    stopped = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--stop", stop, "--json"))
    assert stop not in stopped["text"]
    assert stopped["finish"] == "stop"
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}')
    answer = answer_of(ainet("ask", "Yes?", "--max-tokens", "40", "--json-schema", str(schema), "--json"))
    assert json.loads(answer["text"]).keys() == {"n"}


def test_the_shape_of_the_status_for_programs(here, node_dir):
    status = answer_of(ainet("status", "--json"))
    node = status["node"]
    assert node["name"] == "tester"
    assert node["url"].startswith("http://127.0.0.1:")
    assert node["data_dir"] == str(node_dir)
    assert 50e6 < node["pss_bytes"] < 2e9
    (member,) = status["members"]
    assert member["name"] == "tester"
    assert member["workers"]
    for worker in member["workers"]:
        assert worker.keys() >= {"pid", "memory", "layers"}


@pytest.mark.parametrize("command", ["status", "models", "members", "plan"])
def test_what_people_read_names_the_essentials(here, command):
    done = ainet(command)
    assert done.returncode == 0, done.stderr
    assert ("smollm2" if command in {"models", "plan"} else "tester") in done.stdout
    assert "─" in done.stdout
    assert json.loads(ainet(command, "--json").stdout)


def test_unload_names_what_it_unloaded(here):
    ainet("ask", "hi", "--max-tokens", "1")
    assert ainet("unload").stdout.startswith("Unloaded: smollm2")
    assert ainet("unload").stdout == "Nothing was loaded.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["ask", "--max-tokens", "none", "x"], "'none' is not a number of 1 or more"),
        (["ask", "--stages", "0", "x"], "'0' is not a number of 1 or more"),
        (["ask", "--max", "3", "x"], "unrecognized arguments: --max"),
        (["ask", "x", "--json-schema", "/nowhere"], "/nowhere cannot be read"),
        (["ask", "x", "--to", "y"], "unrecognized arguments: --to"),
        (["new"], "invalid choice: 'new'"),
        (["join"], "the following arguments are required: TICKET"),
        (["up", "--memory", "much"], "'much' is not a size"),
        (["invite", "--minutes", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_usage_is_2(tmp_path, arguments, words):
    done = ainet(*arguments, data_dir=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_impossible_value_that_the_node_finds_is_wrong_usage_too(here):
    done = ainet("ask", "hi", "--temperature", "-1")
    assert done.returncode == 2
    assert "temperature" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["ask", "x"], ["models"], ["members"], ["plan"], ["unload"]]
)
def test_without_a_node_every_command_fails_with_one_line(tmp_path, arguments):
    done = ainet(*arguments, data_dir=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"ainet: No node is running on {tmp_path}. Start one with `ainet up` (or open JupyterLab with ainet enabled).\n"
    )


def test_debug_shows_the_traceback(tmp_path):
    done = ainet("status", "--debug", data_dir=tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr


def test_data_dir_is_an_option_of_every_command(node_dir, tmp_path):
    assert (
        answer_of(ainet("status", "--json", "--data-dir", str(node_dir), data_dir=tmp_path))["node"]["name"] == "tester"
    )
    assert (
        answer_of(ainet("--data-dir", str(node_dir), "status", "--json", data_dir=tmp_path))["node"]["name"] == "tester"
    )


def test_help_and_version_are_no_errors():
    for arguments in (["--help"], ["ask", "--help"], ["--version"]):
        done = ainet(*arguments)
        assert done.returncode == 0
        assert done.stdout
        assert not done.stderr


def test_the_function_returns_the_status(tmp_path, capsys):
    assert main(["status", "--data-dir", str(tmp_path)]) == 1
    assert main(["--version"]) == 0
    assert main(["ask", "--frob"]) == 2
    assert "unrecognized arguments: --frob" in capsys.readouterr().err


@pytest.fixture
def endless(tmp_path):
    """A question whose answer has no end: its grammar has none."""
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text("root ::= [a-z ] root")
    return ["ask", "Tell me everything.", "--max-tokens", "3000", "--grammar", str(grammar)]


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_stops_the_generation_and_keeps_the_text(here, endless, as_json):
    # A terminal, so that the output comes piece by piece.
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "ainet", *endless, *["--json"] * as_json]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True) as asking:
        if as_json:
            deadline = time.monotonic() + 30
            while not answer_of(ainet("status", "--json"))["pipelines"]:
                assert time.monotonic() < deadline
            time.sleep(1)  # words, which --json does not show, come meanwhile
            text = ""
        else:
            text = asking.stdout.read(5)
        asking.send_signal(signal.SIGINT)
        text += asking.stdout.read()
        assert asking.wait(10) == 130
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # that is how a terminal ends
        pass
    os.close(leader)
    assert b"Traceback" not in shown
    if as_json:
        answer = json.loads(text)
        assert answer["finish"] == "cancelled"
        assert answer["tokens"]
        assert answer["timings"]["generated_tokens"] == len(answer["tokens"])
    else:
        assert len(text) > 5
        assert "· stopped" in shown.decode()
    begun = time.monotonic()
    assert ainet("ask", "hi", "--max-tokens", "1").returncode == 0
    assert time.monotonic() - begun < 10


def test_a_reader_that_goes_away_ends_the_command(here, endless):
    command = [sys.executable, "-m", "ainet", *endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stdout.read(5)
        asking.stdout.close()
        assert asking.stderr.read() == ""
        assert asking.wait(10) == 1


def test_the_swarms_key_is_exported_without_the_passphrase_on_the_command_line(here, tmp_path):
    file = tmp_path / "key"
    done = ainet("export-key", str(file), env={"AINET_PASSPHRASE": "correct horse battery staple"})
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert "correct horse" not in file.read_text()
    done = ainet("import-key", str(file), env={"AINET_PASSPHRASE": "a wrong passphrase"})
    assert done.returncode == 1
    assert "passphrase" in done.stderr
    assert "--passphrase" not in ainet("export-key", "--help").stdout


def test_an_invitation_says_what_to_type_on_the_other_device(here):
    invited = answer_of(ainet("invite", "--minutes", "1", "--json"))
    assert invited.keys() >= {"ticket", "expires", "address"}
    done = ainet("invite", "--minutes", "1")
    assert re.search(r"\n    ainet join \S+\n", done.stdout)


def test_removing_an_unknown_member_fails(here):
    done = ainet("remove", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr
