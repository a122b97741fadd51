from __future__ import annotations

import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time

import psutil
import pytest
from support.nodes import OPTIONS, ainet, alive, answer_of, family_of
from support.processes import running

from ainet.daemon import daemon, runtime
from ainet.daemon.options import keep_options
from ainet.errors import AinetError, NodeNotRunning, UsageError

pytestmark = pytest.mark.usefixtures("jupyter_dirs")


def until_gone(family, seconds=30.0):
    deadline = time.monotonic() + seconds
    while left := alive(family):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_two_nodes_of_one_machine_start_and_stop_on_their_own(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first, started = daemon.up(one, {"name": "first", **OPTIONS})
    second, _ = daemon.up(two, {"name": "second", **OPTIONS})
    families = family_of(first), family_of(second)
    try:
        assert started
        assert first.headless
        assert first.pid != second.pid
        assert first.token != second.token
        node = answer_of(ainet("status", "--json", data_dir=one))["node"]
        assert node["name"] == "first"
        assert 50e6 < node["pss_bytes"] <= 600e6  # idle: server, scheduler and one worker
        assert answer_of(ainet("status", "--json", data_dir=two))["node"]["name"] == "second"

        again, started = daemon.up(one)
        assert not started
        assert again == first
        with pytest.raises(AinetError) as refused:
            daemon.up(one, {"memory": "1GB"})
        assert refused.value.message == (
            f"The node already runs (process {first.pid}). `ainet down` first, then start it with new options."
        )
        assert json.loads((one / "ainet_config.json").read_text())["AinetConfig"]["memory"] == "2GB"

        assert daemon.down(one) == first
        assert not alive(families[0])
        assert daemon.down(one) is None
        assert answer_of(ainet("status", "--json", data_dir=two))["node"]["name"] == "second"
    finally:
        daemon.down(one)
        daemon.down(two)
    assert not alive(families[1])


def test_two_that_start_the_same_node_at_once_get_one(tmp_path):
    commands = [[sys.executable, "-m", "ainet", "up", "--json", "--data-dir", str(tmp_path)] for _ in range(3)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [json.loads(starter.communicate(timeout=100)[0]) for starter in starters]
    family = family_of(runtime.find(tmp_path))
    assert {answer["pid"] for answer in said} == {family[0].pid}
    assert [answer["started"] for answer in said].count(True) == 1
    daemon.down(tmp_path)
    assert not alive(family)


def test_no_token_is_on_a_command_line_or_in_the_log(node_dir):
    running = runtime.find(node_dir)
    lines = [" ".join(process.cmdline()) for process in family_of(running)]
    assert not any(running.token in line for line in lines)
    log = (node_dir / "logs" / "node.log").read_text()
    assert running.token not in log
    assert "token=" not in log.replace("token=...", "")
    assert stat.S_IMODE((node_dir / "logs" / "node.log").stat().st_mode) == 0o600


def test_the_server_listens_on_the_loopback_interface_only(node_dir):
    listening = [
        connection.laddr.ip
        for process in family_of(runtime.find(node_dir))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_killed_server_takes_its_children_along_and_another_can_start(tmp_path):
    running, _ = daemon.up(tmp_path, OPTIONS)
    family = family_of(running)
    assert len(family) > 1
    os.kill(running.pid, signal.SIGKILL)
    until_gone(family)
    with pytest.raises(NodeNotRunning, match=rf"The last one \(process {running.pid}\) ended without tidying up"):
        runtime.wait_until_ready(tmp_path)
    assert daemon.down(tmp_path) is None
    again, started = daemon.up(tmp_path)
    assert started
    assert again.pid != running.pid
    daemon.down(tmp_path)


def test_a_node_that_cannot_start_says_why(tmp_path):
    (tmp_path / "ainet_config.json").write_text('{"AinetConfig": {"threads": "many"}}')
    with pytest.raises(AinetError) as failed:
        daemon.up(tmp_path)
    first, last = failed.value.message.splitlines()
    assert first.startswith("The node did not start: The 'threads' trait")
    assert last == f"Its log: {tmp_path / 'logs' / 'node.log'}"
    assert not runtime.is_locked(tmp_path)


def test_an_impossible_option_changes_nothing(tmp_path):
    with pytest.raises(UsageError, match="'much' is not a size"):
        daemon.up(tmp_path / "new", {"memory": "much"})
    assert not (tmp_path / "new").exists()


def test_options_are_kept_next_to_those_of_before(tmp_path):
    keep_options(tmp_path, {"memory": "1GB", "lend": False})
    keep_options(tmp_path, {"memory": "2GB"})
    kept = json.loads((tmp_path / "ainet_config.json").read_text())
    assert kept == {"AinetConfig": {"memory": "2GB", "lend": False}}


def test_a_damaged_configuration_is_named_and_left_alone(tmp_path):
    (tmp_path / "ainet_config.json").write_text("{")
    with pytest.raises(UsageError, match="is not a JSON configuration"):
        keep_options(tmp_path, {"memory": "1GB"})
    assert (tmp_path / "ainet_config.json").read_text() == "{"


def test_down_does_not_stop_a_server_that_somebody_uses(tmp_path):
    program = (
        "import os, sys, time; from pathlib import Path; from ainet.daemon.runtime import NodeLock, Runtime\n"
        "lock = NodeLock(Path(sys.argv[1])); lock.acquire()\n"
        "lock.publish(Runtime(os.getpid(), 'http://127.0.0.1:8888/', 't', 1.0, False))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with running([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        with pytest.raises(AinetError) as refused:
            daemon.down(tmp_path)
        assert refused.value.message == (
            f"The node lives in the Jupyter server at http://127.0.0.1:8888/ (process {server.pid}): stop that server."
        )
        assert server.poll() is None


def test_the_log_is_followed_through_its_rotation(tmp_path):
    log = tmp_path / "logs" / "node.log"
    log.parent.mkdir()
    log.write_text("one\ntwo\nthree\n")
    assert "".join(daemon.read_log(tmp_path, 2)) == "two\nthree\n"
    with running(
        [sys.executable, "-m", "ainet", "logs", "-f", "-n", "1", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout.readline() == "three\n"
        with log.open("a") as file:
            file.write("four\n")
        assert follower.stdout.readline() == "four\n"
        log.rename(tmp_path / "logs" / "node.log.1")
        log.write_text("five\n")
        assert follower.stdout.readline() == "five\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


def test_a_folder_without_a_log_says_so(tmp_path):
    with pytest.raises(AinetError, match="no node has run there"):
        next(daemon.read_log(tmp_path, 5))


def test_in_the_foreground_the_log_is_on_the_terminal_and_ctrl_c_stops(tmp_path):
    command = [sys.executable, "-m", "ainet", "up", "--foreground", "--threads", "1", "--data-dir", str(tmp_path)]
    with running(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "is ready" in line:
                break
        family = family_of(runtime.find(tmp_path))
        assert family[0].pid == process.pid
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 0
    assert not alive(family)
    assert not (tmp_path / "node.json").exists()


def test_a_signal_during_the_start_stops_it(tmp_path):
    command = [sys.executable, "-m", "ainet", "up", "--foreground", "--threads", "1", "--data-dir", str(tmp_path)]
    with running(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not runtime.is_locked(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    until_gone(family)
    assert not runtime.is_locked(tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("name", "x" * 65, "1 to 64 printable characters"),
        ("name", "a\nb", "1 to 64 printable characters"),
        ("listen", "no address", "'no address' is not an address"),
        ("listen", "nonsense.invalid", "This device cannot listen on nonsense.invalid: "),
        ("listen", "a" * 100, "This device cannot listen on a"),
        ("disk", "9MB", "disk is '9MB'; it must be at least 10 MB."),
    ],
)
def test_a_value_with_which_no_node_starts_is_refused_before_it_is_kept(tmp_path, option, value, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        daemon.up(tmp_path / "new", {option: value})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kept", [None, '{"AinetConfig": {"threads": 1}}'])
def test_options_with_which_a_start_fails_are_not_kept(tmp_path, kept):
    file = tmp_path / "ainet_config.json"
    if kept:
        file.write_text(kept)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(AinetError) as failed:
            daemon.up(tmp_path, {"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert "Address already in use" in failed.value.message
        assert "The options were not kept.\n" in failed.value.message
    assert (file.read_text() if file.exists() else None) == kept


def test_a_kept_value_that_keeps_a_node_from_starting_is_named_with_its_file(tmp_path):
    file = tmp_path / "ainet_config.json"
    kept = '{"AinetConfig": {"listen": "8.8.8.8", "lend": false, "unknown": 1}}'
    file.write_text(kept)
    with pytest.raises(UsageError) as failed:
        daemon.up(tmp_path, {"memory": "1GB"})
    assert f"Correct `listen` in {file}. The options were not kept.\nIts log: " in failed.value.message
    assert file.read_text() == kept

    done = ainet("up", "--foreground", "--memory", "1GB", data_dir=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "ainet: The node did not start: the log above says why. "
        f"Correct `listen` in {file}. The options were not kept.\n"
    )
    assert "Control-C" not in done.stderr
    assert "Cannot assign requested address" in done.stderr
    assert file.read_text() == kept


def test_told_to_stop_at_any_moment_of_the_start_nothing_is_left(tmp_path):
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline:
        data_dir = tmp_path / secrets.token_hex(4)
        moment = random.uniform(0.3, 4)
        with running(
            [sys.executable, "-P", "-m", "ainet.server.headless"],
            env=os.environ | {"AINET_DATA_DIR": str(data_dir)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            started = time.monotonic()
            family = {psutil.Process(server.pid)}
            while time.monotonic() < started + moment:
                for process in alive(family):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        family |= set(process.children())
            while server.poll() is None:  # asked again and again, it still ends after all that it started
                assert time.monotonic() < started + moment + 60, moment
                server.terminate()
                time.sleep(0.05)
            assert not alive(family), moment
            assert server.returncode in {0, -signal.SIGTERM}, moment
        assert not any((data_dir / "processes").glob("*")), moment
        assert not (data_dir / "node.json").exists(), moment


def test_what_does_not_stop_when_asked_is_killed_with_all_beneath_it():
    stubborn = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "process = subprocess.Popen(['sleep', '600']); print('ready', flush=True); process.wait()"
    )
    with running([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert len(family) == 2
        daemon.end(server.pid, patience=0.5)
        assert not alive(family)
