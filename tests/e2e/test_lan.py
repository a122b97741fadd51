"""Real nodes on a local network of their own: found, cut off, moved, reached through each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.lan import POSSIBLE, lan_nodes, wait_for
from support.nodes import alive
from support.processes import running
from support.smollm2 import CHUNK, N_CTX, one_process

from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.timing import TIMING

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(600),
]
NAMES = ("tower", "laptop", "tablet")
SETTINGS = {"stage_threads": 1, "context_window": N_CTX, "chunk": CHUNK, "threads": 1, "memory": "1GB"}
QUESTION = "Tell me about rain."
LISTEN = "0A"  # as the kernel writes it
GREEDY = SamplingParams(temperature=0)
FORGET = "import json, sys; p = sys.argv[1]; b = json.load(open(p)); b['hints'] = []; json.dump(b, open(p, 'w'))"


@pytest.fixture(scope="module")
def nodes(jupyter_dirs, tmp_path_factory):
    with lan_nodes(tmp_path_factory.mktemp("lan"), *NAMES, **SETTINGS) as nodes:
        for name in NAMES:
            for other in set(NAMES) - {name}:
                wait_for(lambda name=name, other=other: nodes.reached(name, other) == "direct")
        yield nodes
        families = [nodes.family(name) for name in NAMES]
    assert not [process for family in families for process in alive(family)]


def ask(nodes, name, *options):
    return nodes.json(name, "ask", QUESTION, "--temperature", "0", "--max-tokens", "24", *options)


def listening(nodes, name):
    """Return on how many ports something listens on the device."""
    network = Path(f"/proc/{nodes.family(name)[0].pid}/net")
    lines = [line.split() for table in ("tcp", "tcp6") for line in (network / table).read_text().splitlines()[1:]]
    return sum(columns[3] == LISTEN for columns in lines)


def test_members_describe_themselves(nodes):
    wait_for(lambda: nodes.peer("tower", "laptop").models)
    laptop = next(peer for peer in nodes.json("tower", "peers") if peer["name"] == "laptop")
    assert laptop["kind"] == "member"
    assert laptop["device"]["threads"] == 1
    assert set(laptop["offers"]) == {"stages", "workers"}
    assert laptop["offers"]["stages"]["memory"] == 10**9
    assert 0 < laptop["latency_s"] < 1
    assert laptop["bandwidth"] > 1e6
    assert laptop["path"].startswith((f"{nodes.lan.hosts['laptop']}:", f"{nodes.lan.hosts['tower']}:"))
    assert "laptop" in nodes.run("tower", "peers")


def test_a_member_whose_address_nobody_knows_is_found(nodes):
    nodes.stop("tablet")
    wait_for(lambda: nodes.reached("tower", "tablet") == "no")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(nodes.stop, NAMES))
        for name in NAMES:
            nodes.python(name, "-c", FORGET, str(nodes.folder / name / "network.json"))
        list(pool.map(lambda name: nodes.run(name, "up"), NAMES))
    for name in NAMES:
        for other in set(NAMES) - {name}:
            wait_for(lambda name=name, other=other: nodes.reached(name, other) == "direct")


def test_a_stranger_is_shown_as_one(nodes, tmp_path):
    nodes.folder, folder = tmp_path, nodes.folder
    try:
        (tmp_path / "tower").mkdir(mode=0o700)
        nodes.run("tower", "up", "--name", "guest", "--lan", "--threads", "1")
        nodes.folder = folder
        stranger = wait_for(lambda: [one for one in nodes.peers("laptop") if one.kind == "stranger"])[0]
        assert stranger.reached == "no"
        assert "guest" not in str(stranger)  # nothing private is announced
    finally:
        nodes.folder = tmp_path
        nodes.run("tower", "down")
        nodes.folder = folder
    wait_for(lambda: not [one for one in nodes.peers("laptop") if one.kind == "stranger"])


def test_a_device_that_moves_is_followed(nodes):
    before = nodes.lan.hosts["tablet"]
    nodes.lan.move("tablet", "10.77.0.99")
    try:
        wait_for(lambda: "10.77.0.99" in str(nodes.peer("tower", "tablet").addresses))
        wait_for(lambda: nodes.reached("tower", "tablet") == "direct")
        assert ask(nodes, "tower", "--stages", "3")["placement"][2]["node"]
    finally:
        nodes.lan.move("tablet", before)
    wait_for(lambda: nodes.reached("laptop", "tablet") == "direct")


def test_a_sleeping_device_is_unreachable_and_comes_back(nodes):
    family = nodes.family("tablet")
    nodes.shared("tower", "diary")["before"] = True
    wait_for(lambda: nodes.shared("tablet", "diary").get("before"))
    for process in family:
        os.kill(process.pid, signal.SIGSTOP)
    wakes = time.monotonic() + TIMING.resume + 5  # longer than anything of a link lives
    try:
        wait_for(lambda: nodes.reached("tower", "tablet") == "no")
        nodes.shared("tower", "diary")["meanwhile"] = True
        wait_for(lambda: time.monotonic() > wakes, 60)
    finally:
        for process in family:
            os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: nodes.reached("tower", "tablet") == "direct")
    nodes.shared("tablet", "diary")["after"] = True
    whole = {"before": True, "meanwhile": True, "after": True}
    for name in NAMES:
        wait_for(lambda name=name: dict(nodes.shared(name, "diary")) == whole)
    assert len(ask(nodes, "tower", "--stages", "3")["placement"]) == 3


@pytest.fixture(scope="module")
def hidden(nodes):
    """Laptop and tablet cannot reach each other from now on; the tower reaches both."""
    nodes.lan.hide("laptop", "tablet")
    try:
        wait_for(lambda: nodes.reached("laptop", "tablet") == "relayed", 60)
        wait_for(lambda: nodes.reached("tablet", "laptop") == "relayed", 60)
        yield nodes
    finally:
        nodes.lan.show("laptop", "tablet")
    wait_for(lambda: nodes.reached("laptop", "tablet") == "direct", 90)


def test_two_members_that_cannot_reach_each_other_work_together_through_a_third(hidden, smollm2_path):
    assert hidden.peer("laptop", "tablet").path == "through tower"
    before = listening(hidden, "laptop")
    answer = ask(hidden, "laptop", "--stages", "3")
    assert {part["node"] for part in answer["placement"]} == set(NAMES)
    assert answer["text"] == one_process(smollm2_path, QUESTION, GREEDY, 24)[1]
    assert listening(hidden, "laptop") > before  # ports that lead to stages on the tablet
    hidden.run("laptop", "unload")
    # Workers that are not needed any more stay for half a minute.
    wait_for(lambda: listening(hidden, "laptop") == before, 90)

    script = (
        "import sys; from ainet.client.client import NodeClient; from distributed import Client, Security\n"
        "with NodeClient.running() as node:\n"
        "    opened = node.open_client(3); tls = opened.tls\n"
        "    security = Security(require_encryption=True, tls_ca_file=tls.ca, tls_client_cert=tls.cert,\n"
        "                        tls_client_key=tls.key)\n"
        "    with Client(opened.address, security=security) as client:\n"
        "        parts = client.map(lambda i: bytes(i * 1000), range(40))\n"
        "        print(client.submit(lambda parts: sum(map(len, parts)), parts).result(timeout=60))\n"
        "        print(sorted(one.node for one in opened.workers), len(client.scheduler_info()['workers']))\n"
        "    node.close_client(opened.id)\n"
    )
    done = hidden.python("laptop", "-c", script)
    assert done.returncode == 0, done.stderr + hidden.logs()
    assert done.stdout.splitlines() == ["780000", "['laptop', 'tablet', 'tower'] 3"]


def test_a_cable_that_is_out_for_a_while_pauses_what_goes_over_channels(hidden, smollm2_path):
    expected = one_process(smollm2_path, QUESTION, GREEDY, 400)[1]
    hidden.run("laptop", "unload")  # another test's two stages are elsewhere
    environment = os.environ | {"AINET_DATA_DIR": str(hidden.folder / "laptop")}
    command = [sys.executable, "-m", "ainet", "ask", QUESTION, "--temperature", "0", "--max-tokens", "400"]
    inside = hidden.lan.inside("laptop", *command, "--stages", "2")
    pipe = subprocess.PIPE
    with running(inside, stdout=pipe, stderr=pipe, text=True, env=environment) as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        begun = asking.stdout.read(40)
        hidden.lan.cut("tablet")
        pause = time.monotonic() + 10
        wait_for(lambda: time.monotonic() > pause)
        hidden.lan.heal("tablet")
        text = begun + asking.stdout.read()
        footer = asking.stderr.read()
        assert asking.wait(60) == 0, footer + hidden.logs()
    assert "laptop" in footer
    assert "tablet" in footer
    assert "tower" not in footer
    assert text.strip() == expected.strip()
