"""Shared variables: what code in kernels says, on this device and on others, in one dict, list or text."""

from __future__ import annotations

import gc
import json
import operator
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ainet
from ainet.client import shared_variables
from ainet.daemon import daemon
from ainet.errors import AinetError, NodeNotRunning, UsageError

OPTIONS = {"name": "sharer", "threads": 1, "memory": "1GB"}


@pytest.fixture(scope="module")
def own_node(jupyter_dirs, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("sharer")
    daemon.up(data_dir, OPTIONS)
    yield data_dir
    shared_variables.close_all()
    daemon.down(data_dir)
    gc.collect()  # what was left open is an error here


@pytest.fixture(autouse=True)
def environment(own_node, monkeypatch):
    monkeypatch.setenv("AINET_DATA_DIR", str(own_node))
    yield
    shared_variables.close_all()


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def elsewhere(code):
    """Run code in another kernel's place."""
    done = subprocess.run(
        [sys.executable, "-c", f"import ainet, json, time\n{code}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def elsewhere_until(condition, code):
    """Run code in another kernel's place, which stays until the condition holds."""
    command = [sys.executable, "-c", f"import ainet\n{code}\ninput()"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            wait_for(condition, 60)
        finally:
            out, problem = process.communicate("\n", timeout=60)
    assert process.returncode == 0, problem
    return out


def test_what_other_kernels_write_is_there(own_node):
    plan = ainet.shared("plan")
    changes = []
    stop = plan.on_change(changes.append)
    plan["here"] = {"list": [1, 2.5, "text", None, True]}
    code = "s = ainet.shared('plan'); print(s['here']); s['there'] = s['here']['list'][2]"
    assert "'list': [1" in elsewhere_until(lambda: plan.get("there") == "text", code)
    assert changes[0] is False
    assert changes[-1] is True
    stop()
    del plan["there"]
    assert len(changes) == 2
    assert dict(plan) == {"here": {"list": [1, 2.5, "text", None, True]}}
    assert "plan" in repr(plan)


def test_a_list_is_one(own_node):
    todo = ainet.shared("todo", "list")
    todo.extend(["a", "b", "c"])
    todo.insert(0, {"first": 1})
    todo[1] = "A"
    del todo[-1]
    assert list(todo) == [{"first": 1}, "A", "b"]
    todo.insert(-1, "before the last")
    assert todo[1:3] == ["A", "before the last"]
    wait_for(lambda: json.loads(elsewhere("print(json.dumps(list(ainet.shared('todo', 'list'))))")) == list(todo))


def test_a_text_is_one(own_node):
    notes = ainet.shared("notes", "text")
    notes.append("Hello world")
    notes.insert(5, ",")
    notes.delete(0, 1)
    notes.insert(0, "J")
    assert (str(notes), len(notes)) == ("Jello, world", 12)
    wait_for(lambda: elsewhere("print(ainet.shared('notes', 'text'))").strip() == "Jello, world")


@pytest.mark.parametrize(
    ("kind", "edits"),
    [
        (
            "list",
            [
                lambda s: s.append("b"),
                lambda s: s.insert(0, "a"),
                lambda s: operator.setitem(s, 1, "B"),
                lambda s: operator.delitem(s, 0),
            ],
        ),
        ("text", [lambda s: s.append("b"), lambda s: s.insert(0, "a"), lambda s: s.delete(1, 2)]),
    ],
    ids=["list", "text"],
)
def test_changes_of_lists_and_texts_are_told_as_well(own_node, kind, edits):
    variable = ainet.shared(f"told {kind}", kind)
    told = []
    stop = variable.on_change(lambda is_elsewhere: told.append((is_elsewhere, variable.to_py())))
    here = []
    for edit in edits:
        edit(variable)
        here.append((False, variable.to_py()))
        assert told == here  # each once, when it has happened
    # The other kernel ends when it has seen what is written after its change.
    code = (
        f"s = ainet.shared('told {kind}', {kind!r}); s.append('there'); end = time.monotonic() + 20\n"
        "while 'seen' not in str(s.to_py()) and time.monotonic() < end: time.sleep(0.01)"
    )
    with ThreadPoolExecutor() as pool:
        other = pool.submit(elsewhere, code)
        wait_for(lambda: "there" in str(variable.to_py()))
        assert told == [*here, (True, variable.to_py())]
        stop()
        variable.append("seen")
        other.result()
    assert len(told) == len(edits) + 1


def test_what_is_changed_while_the_node_is_down_is_not_lost(own_node):
    plan = ainet.shared("apart")
    plan["before"] = 1
    wait_for(lambda: elsewhere("print(dict(ainet.shared('apart')))").startswith("{'before'"))
    daemon.down(own_node)
    wait_for(lambda: not plan.connected)
    plan["meanwhile"] = 2
    daemon.up(own_node)
    wait_for(lambda: plan.connected, 30)
    wait_for(lambda: "'meanwhile'" in elsewhere("print(dict(ainet.shared('apart')))"))


def test_names_are_taken_as_they_are(own_node):
    names = ["what", "what?", "what#1", "my plan", "größe", "100%25"]
    for i, name in enumerate(names):
        ainet.shared(name)["i"] = i
    for i, name in enumerate(names):
        wait_for(lambda i=i, name=name: elsewhere(f"print(dict(ainet.shared({name!r})))").strip() == f"{{'i': {i}}}")


def test_a_mistake_in_a_callback_is_shown_and_ends_nothing(own_node, capfd):
    plan = ainet.shared("callback")
    plan.on_change(lambda _: 1 / 0)
    elsewhere_until(lambda: plan.get("a") == 1, "ainet.shared('callback')['a'] = 1")
    assert "ZeroDivisionError" in capfd.readouterr().err
    plan["b"] = 2
    wait_for(lambda: "'b'" in elsewhere("print(dict(ainet.shared('callback')))"))


def test_what_cannot_be_shared_is_said(own_node):
    plan = ainet.shared("wrong")
    with pytest.raises(UsageError, match="A function cannot be shared"):
        plan["f"] = lambda: None
    with pytest.raises(UsageError, match="A dict cannot be shared"):
        plan["d"] = {1: 2}
    with pytest.raises(UsageError, match="must be 'dict', 'list' or 'text'"):
        ainet.shared("plan", "set")
    with pytest.raises(AinetError, match="does not share shared/a/b"):
        ainet.shared("a/b")
    assert dict(plan) == {}


def test_without_a_node_there_are_words(tmp_path, monkeypatch):
    monkeypatch.setenv("AINET_DATA_DIR", str(tmp_path))
    with pytest.raises(NodeNotRunning, match="ainet up"):
        ainet.shared("plan")
