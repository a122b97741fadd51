"""An answer of several devices while they are killed, stopped, cut off and come back: at random, the same text."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time

import psutil
import pytest
from support.lan import POSSIBLE, lan_nodes, wait_for
from support.losses import notices_of, said
from support.nodes import alive
from support.smollm2 import CHUNK, N_CTX, one_process

from ainet.api.generate import PlacedStage, Start, Text
from ainet.errors import AinetError
from ainet.stages.protocol.sampling_params import SamplingParams

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(600),
]
NAMES = ("desk", "attic", "cellar")
#: The model, which takes 207 MB, fits on no device alone, but on any two of them.
SETTINGS = {"stage_threads": 1, "context_window": N_CTX, "chunk": CHUNK, "threads": 1, "memory": "185MB"}
QUESTION = "Tell me a long story about a fox, a dog and a river."
TOKENS = 120
SEED = 20


@pytest.fixture(scope="module")
def nodes(jupyter_dirs, tmp_path_factory):
    with lan_nodes(tmp_path_factory.mktemp("losses"), *NAMES, **SETTINGS) as nodes:
        wait_for(lambda: all_reached(nodes), 60)
        yield nodes
        families = [nodes.family(name) for name in NAMES]
    assert not [process for family in families for process in alive(family)]


@pytest.fixture(scope="module")
def expected(smollm2_path):
    return one_process(smollm2_path, QUESTION, SamplingParams(temperature=0), TOKENS)


def all_reached(nodes):
    return all(nodes.reached(one, other) == "direct" for one in NAMES for other in NAMES if one != other)


def answer(nodes, happens, **options):
    """Ask the desk; `happens` is called with each event, the devices of the last placement, and the tokens so far."""

    asked = {"temperature": 0.0, "max_tokens": TOKENS} | options

    def work(node):
        events, placement, n = [], [], 0
        with contextlib.closing(node.generate(QUESTION, **asked)) as running:
            for event in running:
                events.append(event)
                placement = event.placement if isinstance(event, Start) else placement
                n += len(event.tokens) if isinstance(event, Text) else 0
                happens(event, placement, n)
        return events

    return nodes.client("desk", work)


class Loss:
    """Something that happens to a device that takes part in an answer, at some token."""

    def __init__(self, nodes, at, chance):
        self.nodes, self.at, self.chance = nodes, at, chance
        self.victim = ""
        self._undo = lambda: None

    def __call__(self, event, placement, n):
        if not self.victim and isinstance(event, Text) and n >= self.at:
            part = self.chance.choice([part for part in placement if part.node != "desk"])
            self.victim = part.node
            self._undo = self.hurt(part) or self._undo

    def undo(self):
        self._undo()
        wait_for(lambda: all_reached(self.nodes), 90)


class WorkerKilled(Loss):
    def hurt(self, part):
        os.kill(part.pid, signal.SIGKILL)


class DeviceKilled(Loss):
    def hurt(self, part):
        family = self.nodes.family(part.node)
        for process in family:
            process.kill()

        def undo():
            wait_for(lambda: not alive(family))
            self.nodes.run(part.node, "up")

        return undo


class DeviceStopped(Loss):
    def hurt(self, part):
        family = self.nodes.family(part.node)
        for process in family:
            process.suspend()
        return lambda: [process.resume() for process in family]


class CableCut(Loss):
    def hurt(self, part):
        self.nodes.lan.cut(part.node)
        return lambda: self.nodes.lan.heal(part.node)


def test_an_answer_outlives_whatever_happens_to_a_device_at_any_token(nodes, expected):
    chance = random.Random(SEED)
    losses = [WorkerKilled, DeviceKilled, DeviceStopped, CableCut]
    chance.shuffle(losses)
    for kind in losses:
        loss = kind(nodes, chance.randrange(2, TOKENS - 20), chance)
        what = kind.__name__, loss.at
        try:
            events = answer(nodes, loss)
        finally:
            loss.undo()
        assert loss.victim, what
        assert said(events) == (events[-1].tokens, events[-1].text) == expected, what
        assert any("goes on where it stopped" in notice for notice in notices_of(events)), what
        # Who was lost is used again.
        nodes.client("desk", lambda node: node.unload())
        parts = nodes.json("desk", "ask", "Hi", "--stages", "3", "--max-tokens", "2")["placement"]
        assert {part["node"] for part in parts} == set(NAMES), what
        nodes.client("desk", lambda node: node.unload())


def test_an_answer_waits_for_a_device_without_which_the_model_does_not_fit(nodes, expected):
    nodes.lan.cut("cellar")
    waited = []
    try:
        wait_for(lambda: nodes.reached("desk", "cellar") == "no")
        loss = CableCut(nodes, random.Random(SEED).randrange(2, TOKENS // 2), random.Random(SEED))

        def happens(event, placement, n):
            loss(event, placement, n)
            if not waited and "waiting for devices to come back" in getattr(event, "text", ""):
                waited.append(event.text)
                nodes.lan.heal(loss.victim)

        events = answer(nodes, happens)
    finally:
        nodes.lan.heal("cellar")
    assert loss.victim == "attic"
    assert "needs" in waited[0]  # how much, and how much is free
    assert said(events) == (events[-1].tokens, events[-1].text) == expected
    wait_for(lambda: all_reached(nodes), 90)


@pytest.mark.parametrize("loss", [DeviceKilled, CableCut])
def test_when_the_asking_device_is_lost_its_answer_ends_everywhere(nodes, loss):
    """It has no memory for a stage of its own, so that no stage misses another one."""
    nodes.stop("desk")
    nodes.run("desk", "up", "--memory", "60MB")
    wait_for(lambda: all_reached(nodes), 60)
    undo = []

    def happens(event, placement, n):
        if n >= 10 and not undo:
            undo.append([psutil.Process(part.pid) for part in placement])
            undo.append(loss(nodes, 0, random.Random(SEED)).hurt(PlacedStage("desk", 0, 0, 0)))

    def ask():
        with contextlib.suppress(AinetError):
            answer(nodes, happens, max_tokens=100_000, grammar="root ::= [a-z ] root")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_for(lambda: len(undo) == 2, 60)
        stages, _ = undo
        assert len(stages) == 2
        wait_for(lambda: rest(stages), 20)  # 10 s at most, on a machine that has nothing else to do
        others = [name for name in NAMES if name != "desk"]
        for name in others:
            wait_for(lambda name=name: not nodes.client(name, reserved), 60)
    finally:
        undo[1]()
        asking.join(60)
        nodes.stop("desk")
        nodes.run("desk", "up", "--memory", SETTINGS["memory"])
        wait_for(lambda: all_reached(nodes), 90)


def rest(processes):
    """Whether the processes do nothing for a second."""
    before = [sum(process.cpu_times()[:2]) for process in processes]
    time.sleep(1)
    return all(sum(process.cpu_times()[:2]) - used < 0.2 for process, used in zip(processes, before, strict=True))


def reserved(node):
    return node.status().node.reserved.memory
