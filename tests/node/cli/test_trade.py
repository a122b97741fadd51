"""Selling and buying as people type it: two real servers of different owners."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
from support.nodes import ainet, alive, answer_of, family_of

from ainet.daemon import daemon, runtime

ASK = ("ask", "--from", "ana", "--max-tokens", "30", "--seed", "1", "Tell me of the sea.")


@pytest.fixture(scope="module")
def servers(jupyter_dirs, tmp_path_factory):
    """The data directories of Ana's and Ben's nodes, which are contacts; Ben has no model."""
    folders, families = {}, []
    for name in ("ana", "ben"):
        folder = folders[name] = tmp_path_factory.mktemp(name)
        (folder / "ainet_config.json").write_text(
            json.dumps({"AinetConfig": {"discover_models": name == "ana", "context_window": 1024}})
        )
        daemon.up(folder, {"name": name, "threads": 1, "memory": "2GB"})
        families += family_of(runtime.find(folder))
    ticket = answer_of(ainet("introduce", "--json", data_dir=folders["ana"]))["ticket"]
    assert ainet("accept", ticket, data_dir=folders["ben"]).returncode == 0
    deadline = time.monotonic() + 30
    while not all(
        one["connected"]
        for folder in folders.values()
        for one in answer_of(ainet("contacts", "--json", data_dir=folder))
    ):
        assert time.monotonic() < deadline
    yield folders
    for folder in folders.values():
        daemon.down(folder)
    assert not alive(families)


@pytest.fixture
def ana(servers):
    return lambda *words: ainet(*words, data_dir=servers["ana"])


@pytest.fixture
def ben(servers):
    return lambda *words: ainet(*words, data_dir=servers["ben"])


def line_of(done, status):
    """Return the one line in which a command failed."""
    assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
    (line,) = [one for one in done.stderr.splitlines() if not one.endswith("…")]  # what goes on is told, too
    return f"{line}\n"


def test_before_anything_is_sold(ana, ben):
    assert ana("selling").stdout.startswith("This device sells nothing. `ainet sell` lets contacts")
    assert ben("offers").stdout == "ana: ana sells nothing.\n"
    assert line_of(ben(*ASK), 1) == "ainet: ana sells nothing.\n"
    assert (
        "Nothing was bought or sold yet." in ben("balance").stdout or "You had nothing of ana" in ben("balance").stdout
    )
    assert ben("ledger").stdout == "Nothing was bought, sold or given in this time.\n"
    assert ben("earn").stdout == "Nothing was asked for in vain in the last 7 days.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sell", "--max-load", "0"), "'0' is no part of the time."),
        (("sell", "--hours", "7"), "'7' are no hours."),
        (("sell", "--price", "free"), "'free' is no price."),
        (("sell", "--allow", "5 years"), "'5 years' is not a time."),
        (("sell", "nothing-like-it"), "No model is called 'nothing-like-it'"),
        (("sell", "off", "smollm2"), "`sell off` sells nothing more: it takes no models."),
        (("give", "zoe", "1h"), "No contact is called 'zoe'. Contacts are: ben."),
        (("want", "x", "--until", "soon"), "'soon' is no date."),
        (("offers", "--from", "zoe"), "No contact is called 'zoe'. Contacts are: ben."),
        (("ask", "--from", "ben", "--private", "x"), "A private question is for this device alone"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(ana, words, said):
    assert said in line_of(ana(*words), 1 if "No " in said else 2)


def test_an_answer_is_sold_and_both_sides_keep_it(ana, ben):
    assert "No stranger finds this device" in ana("sell", "--strangers").stdout
    sold = ana("sell", "--price", "1", "--max-load", "100%").stdout
    assert "stranger" not in sold
    assert "its owner has named this price" in sold
    assert "30 minutes a day for each contact, at most 100% of the time. Your own questions come first." in sold
    offered = ben("offers", "--why").stdout
    assert "30 minutes of 30 minutes a day" in offered
    assert "its owner has named this price" in offered
    assert "ana is trusted to 80%: of its answers 0 came to their end" in offered
    bought = ben(*ASK)
    assert bought.returncode == 0, bought.stderr
    assert "smollm2 · ana · 30 tokens · " in bought.stderr
    assert "ana reads this conversation and its answer, and nothing else of yours" in bought.stderr
    again = ben(*ASK)
    assert again.stdout == bought.stdout
    assert "reads this conversation" not in again.stderr
    as_json = answer_of(ben(*ASK, "--json"))
    assert as_json["bought"][0]["seller"] == "ana"
    assert "You had " in ben("balance", "--why").stdout
    assert "why: " in ana("balance", "--why").stdout
    listed = ben("ledger").stdout
    assert listed.count("bought") == 3
    verified = ben("ledger", "verify")
    assert verified.stdout == ("Everything agrees: 3 rows, every signature and every sum.\nCompared with ana.\n"), (
        verified.stdout
    )
    lines = ana("ledger", "export").stdout.splitlines()
    assert [json.loads(line)["generated_tokens"] for line in lines] == [30, 30, 30]
    rows = list(csv.DictReader(io.StringIO(ana("ledger", "export", "--csv").stdout)))
    assert [row["kind"] for row in rows] == ["session"] * 3
    assert sum(int(row["credits"]) for row in rows) == sum(json.loads(line)["credits"] for line in lines)
    assert ana("give", "ben", "2h", "--for", "the garden").stdout == "ben may have 2 hours more of this device.\n"
    assert "gift given for the garden" in ana("ledger").stdout
    assert "The budget must be a time of at most a day" in line_of(ben(*ASK, "--budget", "0s"), 2)
    words = line_of(ben("ask", "--from", "anyone", "--budget", "0.1s", "--max-tokens", "400", "x"), 1)
    assert "of ana, and the budget is 0 seconds. " in words
    assert "smollm2 " in ana("want", "smollm2", "--speed", "5", "--bonus", "1h").stdout
    assert ana("want", "smollm2", "--no").stdout == "You promise nothing.\n"
    assert ana("sell", "off").stdout.startswith("This device sells nothing.")
    assert line_of(ben(*ASK), 1) == "ainet: ana sells nothing.\n"
