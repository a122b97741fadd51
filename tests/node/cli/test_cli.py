from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest
from support.nodes import ainet, answer_of
from support.processes import running

from ainet.cli.main import main
from ainet.cli.subcommands import COMMANDS
from ainet.daemon import runtime

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
        r"smollm2.* · layers tester 0–29 · \d+\.\d tokens/s · first token \d+\.\d\d s( · stopped at the .*)?",
        done.stderr.splitlines()[-1],
    )


def test_the_shape_of_an_answer_for_programs(here):
    answer = answer_of(ainet("ask", "Name a colour.", *GREEDY, "--seed", "3", "--json"))
    assert {"text", "tokens", "model", "placement", "timings"} <= answer.keys()
    assert all(isinstance(token, int) for token in answer["tokens"])
    assert answer["seed"] == 3
    figures = {"prompt_tokens", "reused_tokens", "generated_tokens", "first_token_s", "tokens_per_s"}
    assert answer["timings"].keys() == figures
    assert answer["timings"]["generated_tokens"] == len(answer["tokens"])
    (part,) = answer["placement"]
    assert part.keys() >= {"node", "pid", "first_layer", "last_layer"}
    assert (part["first_layer"], part["last_layer"]) == (0, 29)


def test_usage_in_words_and_as_json(here):
    ainet("ask", "Name a colour.", *GREEDY)
    found = answer_of(ainet("usage", "--json"))
    (row,) = [one for one in found["sums"] if one["worked"] == one["asked"] == "tester"]
    assert row["answers"] >= 1
    assert 8 <= row["generated_tokens"] <= 8 * row["answers"]
    heading, _, *rows = ainet("usage").stdout.splitlines()
    assert heading.split("  ")[0] == "worked"
    assert heading.split()[:6] == ["worked", "for", "time", "answers", "tokens", "read"]
    assert rows[0].startswith("tester")
    by_model = ainet("usage", "--by", "model", "--days", "1").stdout
    assert "smollm2" in by_model
    failed = ainet("usage", "--days", "0")
    assert failed.returncode != 0
    assert "--days" in failed.stderr


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
    answer = answer_of(
        ainet("ask", "Yes?", "--temperature", "0", "--max-tokens", "60", "--json-schema", str(schema), "--json")
    )
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


def test_a_plan_can_be_made_for_devices_that_are_not_there(here, tmp_path):
    described = tmp_path / "home.json"
    devices = [
        {"name": "desk", "memory": "260MB", "speed": "8GB"},
        {"name": "attic", "memory": "260MB", "speed": "8GB", "latency_ms": 2},
        {"name": "moon", "memory": "260MB", "speed": "8GB", "latency_ms": 1300},
    ]
    described.write_text(json.dumps({"devices": devices}))
    done = ainet("plan", "smollm2", "--what-if", str(described))
    assert done.returncode == 0, done.stderr
    for words in ("desk", "attic", "ms a token", "Without moon: a token would take 2.6"):
        assert words in done.stdout
    assert "tester" not in done.stdout
    found = json.loads(ainet("plan", "smollm2", "--what-if", str(described), "--json").stdout)
    assert {stage["name"] for stage in found["stages"]} == {"desk", "attic"}
    described.write_text('{"devices": [{"name": "desk"}]}')
    done = ainet("plan", "smollm2", "--what-if", str(described))
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing required field `memory`" in done.stderr
    for text, words in (("{", "does not describe devices"), ("[]", "does not describe devices")):
        described.write_text(text)
        assert words in ainet("plan", "--what-if", str(described)).stderr
    assert "nowhere.json cannot be read: No such file" in ainet("plan", "--what-if", "nowhere.json").stderr


def test_a_key_is_made_asks_and_is_revoked(here, node_dir):
    lines = ainet("keys", "create", "phone", "--tokens-per-day", "60", "--expires", "30d").stdout.splitlines()
    key = lines[0]
    assert lines[2].startswith("This key of phone opens all models for 60 tokens a day until 2")
    url = runtime.find(node_dir).url.rstrip("/")
    asked = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4, "temperature": 0}

    def ask():
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            return client.post(f"{url}/ainet/v1/chat/completions", json=asked)

    answer = ask().json()
    assert answer["choices"][0]["message"]["content"]
    (listed,) = answer_of(ainet("keys", "--json"))
    assert (listed["name"], listed["used_today"]) == ("phone", answer["usage"]["total_tokens"])
    while (answer := ask()).status_code == 200:  # one after the other, until its tokens of today are used up
        pass
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert ainet("keys", "revoke", "phone").stdout == "phone opens nothing any more.\n"
    assert ask().status_code == 401
    assert ainet("keys").stdout.startswith("There are no keys.")
    again = ainet("keys", "revoke", "phone")
    assert again.returncode
    assert "No key is called phone. `ainet keys` lists them." in again.stderr


def test_unload_names_what_it_unloaded(here):
    ainet("ask", "hi", "--max-tokens", "1")
    assert ainet("unload").stdout.startswith("Unloaded: smollm2")
    assert ainet("unload").stdout == "Nothing was loaded.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["keys", "create"], "Name the key: ainet keys create NAME."),
        (["keys", "create", "x", "--expires", "30"], "'30' is not a time. Write hours or days"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["ask", "--max-tokens", "none", "x"], "'none' is not a number of 1 or more"),
        (["ask", "--stages", "0", "x"], "'0' is not a number of 1 or more"),
        (["ask", "--max", "3", "x"], "unrecognized arguments: --max"),
        (["ask", "x", "--json-schema", "/nowhere"], "/nowhere cannot be read"),
        (["ask", "x", "--to", "y"], "unrecognized arguments: --to"),
        (["new"], "invalid choice: 'new'"),
        (["join"], "the following arguments are required: TICKET"),
        (["up", "--memory", "much"], "'much' is not a size"),
        (["up", "--memory", "0"], "memory is '0'; it must be at least 10 MB."),
        (["up", "--foreground", "--disk", "1KB"], "disk is '1KB'; it must be at least 10 MB."),
        (["up", "--name", ""], "A device's name has 1 to 64 printable characters."),
        (["up", "--listen", ""], "The address to listen on is empty."),
        (["up", "--listen", "8.8.8.8"], "This device cannot listen on 8.8.8.8: Cannot assign requested address."),
        (["invite", "--minutes", "soon"], "'soon' is not a number"),
        (["ask", "x", "--temperature", "nan"], "argument --temperature: 'nan' is not a number"),
        (["ask", "x", "--top-p", "inf"], "argument --top-p: 'inf' is not a number"),
        (["join", "foo"], "argument TICKET: This is not a ticket: one begins with ainet1-"),
        (["join", "ainet1-abcd"], "argument TICKET: The ticket is damaged"),
        (["logs", "--badoption"], "unrecognized arguments: --badoption\nusage: ainet logs "),
    ],
)
def test_wrong_usage_is_2(tmp_path, arguments, words):
    done = ainet(*arguments, data_dir=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_impossible_value_that_the_node_finds_is_wrong_usage_too(here):
    done = ainet("ask", "hi", "--temperature", "-1")
    assert done.returncode == 2
    assert "temperature" in done.stderr


@pytest.mark.parametrize("minutes", ["0", "99999"])
def test_the_limits_of_a_tickets_life_are_named(here, minutes):
    done = ainet("invite", "--minutes", minutes)
    assert done.returncode == 2
    assert done.stderr == (
        f"ainet: minutes is {minutes}; a ticket is valid for more than 0 and at most 1440 minutes.\n"
    )


def test_a_path_is_relative_to_the_folder_of_whoever_types_it(here, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    for arguments in (["ask", "--model", "./bad.gguf", "hi"], ["plan", "bad.gguf"]):
        done = ainet(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "It does not begin with 'GGUF'" in done.stderr
    done = ainet("plan", "none.gguf", cwd=tmp_path)
    assert done.stderr == f"ainet: There is no file {tmp_path / 'none.gguf'}.\n"


def test_a_data_directory_that_is_a_file_is_wrong_usage(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for command in ("status", "up", "down", "logs"):
        done = ainet(command, "--data-dir", str(file))
        assert done.returncode == 2
        assert done.stderr == (
            f"ainet: {file} is a file, not a data directory. Name another one (--data-dir, AINET_DATA_DIR).\n"
        )
    done = ainet("up", "--data-dir", str(file / "below"))
    assert done.returncode == 2
    assert f"{file / 'below'} cannot be the data directory: Not a directory." in done.stderr


def test_a_running_node_is_no_excuse_for_a_wrong_option(here):
    done = ainet("up", "--memory", "abc")
    assert done.returncode == 2
    assert "'abc' is not a size" in done.stderr


def test_a_second_node_in_the_foreground_is_refused_and_changes_nothing(here, node_dir):
    before = (node_dir / "ainet_config.json").read_bytes()
    pid = runtime.find(node_dir).pid
    done = ainet("up", "--foreground")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"ainet: The node already runs: process {pid}, http://127.0.0.1:\d+/\n", done.stderr)
    done = ainet("up", "--foreground", "--memory", "1GB")
    assert done.returncode == 1
    assert done.stderr == (
        f"ainet: The node already runs (process {pid}). `ainet down` first, then start it with new options.\n"
    )
    assert (node_dir / "ainet_config.json").read_bytes() == before


def test_where_there_is_no_terminal_loading_is_said_in_a_line(here):
    ainet("unload")
    done = ainet("ask", "hi", "--max-tokens", "1")
    first, *_, footer = done.stderr.splitlines()
    assert re.fullmatch(r"(tester: )?(reading|fetching|loading) smollm2.*[^0] (…|of .*)", first)
    assert "\x1b" not in done.stderr
    assert footer.startswith("smollm2")
    assert len(ainet("ask", "hi", "--max-tokens", "1").stderr.splitlines()) == 1


def test_an_error_after_the_first_words_begins_on_a_line_of_its_own(here, endless):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "ainet", *endless]
    with running(command, stdout=follower, stderr=follower) as asking:
        os.close(follower)
        shown = b""
        while b"\x1b[K" in shown[-3:] or not re.search(rb"[a-z ]{5}$", shown):
            shown += os.read(leader, 65536)
        ainet("unload")
        with contextlib.suppress(OSError):  # that is how a terminal ends
            while part := os.read(leader, 65536):
                shown += part
        assert asking.wait(30) == 1
    os.close(leader)
    assert re.search(rb"\r\nainet: [A-Z]", shown), shown[-300:]


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


def computed():
    """Return how many tokens the stages have computed, and whether nobody asks them any more."""
    loaded = answer_of(ainet("status", "--json"))["pipelines"]
    return sum(stage["decodes"] for one in loaded for stage in one["stages"]), all(one["idle"] for one in loaded)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_stops_the_generation_and_keeps_the_text(here, endless, as_json):
    ainet("ask", "hi", "--max-tokens", "1")  # so that nothing need be loaded
    before, _ = computed()
    # A terminal, so that the output comes piece by piece.
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "ainet", *endless, *["--json"] * as_json]
    with running(command, stdout=subprocess.PIPE, stderr=follower, text=True) as asking:
        if as_json:
            wait_for(lambda: computed()[0] > before + 50)  # words have come, which --json does not show
            text = ""
        else:
            text = asking.stdout.read(5)
        asking.send_signal(signal.SIGINT)
        text += asking.stdout.read()
        assert asking.wait(60) == 130
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
    wait_for(lambda: computed()[1])
    assert computed()[0] - before < 1500  # the answer did not come to its end
    assert ainet("ask", "hi", "--max-tokens", "1").returncode == 0


def test_a_reader_that_goes_away_ends_the_command(here, endless):
    ainet("ask", "hi", "--max-tokens", "1")  # so that nothing need be loaded
    command = [sys.executable, "-m", "ainet", *endless]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stdout.read(5)
        asking.stdout.close()
        assert asking.stderr.read() == ""
        assert asking.wait(60) == 1


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


def test_where_nobody_can_be_asked_for_a_passphrase_its_variable_is_named(here, tmp_path):
    (tmp_path / "key").write_text("a key")
    for arguments in (["export-key", str(tmp_path / "new")], ["import-key", str(tmp_path / "key")]):
        done = ainet(*arguments, start_new_session=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "ainet: There is nobody to ask for the passphrase: put it into the environment variable AINET_PASSPHRASE.\n"
        )
    assert not (tmp_path / "new").exists()


def test_every_command_prints_json_for_programs(here, node_dir, tmp_path):
    file = tmp_path / "key"
    secret = {"AINET_PASSPHRASE": "correct horse battery staple"}
    assert answer_of(ainet("export-key", str(file), "--json", env=secret)) == {"file": str(file)}
    assert answer_of(ainet("export-key", "-", "--json", env=secret))["key"].startswith("ainet")
    assert answer_of(ainet("import-key", str(file), "--json", env=secret))["holds_ca"] is True
    assert len(answer_of(ainet("logs", "-n", "2", "--json"))["lines"]) == 2
    down = answer_of(ainet("down", "--json", data_dir=tmp_path))
    assert down == {"stopped": False, "pid": None, "data_dir": str(tmp_path)}
    for command in COMMANDS:
        assert "--json" in ainet(command.name, "--help").stdout, command.name


def test_an_invitation_says_what_to_type_on_the_other_device(here):
    invited = answer_of(ainet("invite", "--minutes", "1", "--json"))
    assert invited.keys() >= {"ticket", "expires", "address"}
    done = ainet("invite", "--minutes", "1")
    assert re.search(r"\n    ainet join \S+\n", done.stdout)


def test_removing_an_unknown_member_fails(here):
    done = ainet("remove", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr
