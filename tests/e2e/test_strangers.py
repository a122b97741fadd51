"""Two owners who do not know each other, on one local network: what their nodes see and sell of each other."""

from __future__ import annotations

import os

import pytest
from support.lan import POSSIBLE, Lan, LanNodes, wait_for
from support.nodes import alive

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(300),
]
NAMES = ("ana", "ben")
ASK = ("--max-tokens", "12", "--seed", "1", "Tell me of the sea.")


@pytest.fixture
def nodes(jupyter_dirs, tmp_path):
    with Lan(f"as{os.getpid() % 10000}", *NAMES) as lan:
        nodes = LanNodes(lan, tmp_path)
        families = []
        try:
            for name in NAMES:
                nodes.start(name, "--threads", "1", "--memory", "1GB", discover_models=name == "ana")
                families += nodes.family(name)
            yield nodes
        finally:
            nodes.close()
            for name in NAMES:
                nodes.python(name, "-m", "ainet", "down")
    assert not alive(families)


def refused(nodes, *words):
    done = nodes.python("ben", "-m", "ainet", *words)
    assert (done.returncode != 0, done.stdout) == (True, "")
    return done.stderr


def test_strangers_deal_with_each_other_where_both_owners_say_so(nodes):
    me = nodes.client("ana", lambda node: node.status()).node
    name = f"stranger {me.id[:8]}"
    assert "10 minutes a day for all strangers together" in nodes.run("ana", "sell", "--strangers", "--price", "1")
    assert "There are no contacts." in nodes.run("ben", "offers")  # who does not say so sees nobody
    assert "Nobody can be asked: there are no contacts." in refused(nodes, "ask", "--from", "anyone", *ASK)
    assert "write `--from anyone`" in refused(nodes, "ask", "--strangers", *ASK)

    def offered():
        found = nodes.json("ben", "offers", "--strangers")["offers"]
        return found if found else None

    (offer,) = wait_for(offered)
    assert offer["seller"] == name
    assert offer["left_s"] == pytest.approx(600, rel=0.01)

    def ask(*whom):
        return nodes.python("ben", "-m", "ainet", "ask", *whom, "--strangers", *ASK)

    answers = [ask("--from", whom) for whom in ("anyone", me.id[:8], me.address)]
    assert [one.returncode for one in answers] == [0, 0, 0], answers
    assert f"{name} reads this conversation and its answer, and nothing else of yours" in answers[0].stderr
    assert f"· {name} · 12 tokens ·" in answers[0].stderr
    assert len({one.stdout for one in answers}) == 1
    assert "No contact and no stranger here is called 'zoe'" in refused(
        nodes, "ask", "--from", "zoe", "--strangers", *ASK
    )
    assert "Strangers may have" in nodes.run("ana", "balance")
    for one in NAMES:
        assert "Everything agrees: 3 rows" in nodes.run(one, "ledger", "verify")
    assert nodes.run("ben", "ledger").count(name) == 3

    nodes.run("ana", "sell", "--price", "1")  # not to strangers any more
    wait_for(lambda: not nodes.json("ben", "offers", "--strangers")["offers"])
    assert "no dealings with strangers" in refused(nodes, "ask", "--from", me.address, "--strangers", *ASK)
