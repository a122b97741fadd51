"""Many answers while stages are killed all the time: no wrong text, no hang, nothing left behind.

``make soak`` asks 200 times; the tests ask 20 times.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from support.nodes import family_of
from support.smollm2 import CHUNK, N_CTX, one_process

from ainet.api.generate import Text
from ainet.client.answer import Answer
from ainet.client.client import NodeClient
from ainet.config import CONFIG_FILE, AinetConfig
from ainet.daemon import daemon
from ainet.stages.protocol.sampling_params import SamplingParams

SESSIONS = int(os.environ.get("AINET_SOAK", "20"))
AT_ONCE = 3
TOKENS = 60
STAGES = 3
QUESTIONS = ("Tell me about rain.", "What does a fox eat?", "Write about the sea.")
SETTINGS = {"stage_threads": 1, "context_window": N_CTX, "chunk": CHUNK, "threads": 1, "memory": "1GB", "exact": True}

pytestmark = pytest.mark.timeout(60 + 30 * SESSIONS)


class Killer:
    """Kills a random stage every few seconds, where answers go on between: a machine may be slow."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._said = threading.Event()
        self._chance = random.Random(3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def heard(self) -> None:
        """Note that an answer has gone on."""
        self._said.set()

    def _run(self) -> None:
        while not self._stop.wait(self._chance.uniform(2, 6)):
            if not self._said.is_set():
                continue
            self._said.clear()
            stages = [part for one in self._node.status().pipelines for part in one.placement]
            if stages:
                how = self._chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
                try:
                    os.kill(self._chance.choice(stages).pid, how)
                except ProcessLookupError:
                    continue
                self.kills += 1


def test_answers_survive_what_happens_all_the_time(jupyter_dirs, tmp_path, smollm2_path):
    expected = {
        question: one_process(smollm2_path, question, SamplingParams(temperature=0), TOKENS) for question in QUESTIONS
    }
    logging.getLogger("httpx").setLevel(logging.WARNING)  # `make soak` shows what is logged
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"AinetConfig": SETTINGS}))
    running, _ = daemon.up(tmp_path, {"name": "desk"})
    try:
        with NodeClient(running.url, running.token) as node, NodeClient(running.url, running.token) as watching:
            killer = Killer(watching)

            def ask(i: int) -> bool:
                question = QUESTIONS[i % len(QUESTIONS)]
                answer = Answer()
                with NodeClient(running.url, running.token) as asker:
                    for event in asker.generate(question, stages=STAGES, temperature=0.0, max_tokens=TOKENS):
                        answer.add(event)
                        if isinstance(event, Text):
                            killer.heard()
                return (answer.tokens, answer.text) == expected[question]

            assert ask(0)
            node.unload()
            before = settled(node, running)
            with killer, ThreadPoolExecutor(AT_ONCE) as asking:
                assert all(asking.map(ask, range(SESSIONS)))
            assert killer.kills >= SESSIONS // 10
            # And all is well afterwards: no place for a session is still taken.
            with ThreadPoolExecutor(AinetConfig().sessions) as asking:
                assert all(asking.map(ask, range(AinetConfig().sessions)))
            node.unload()
            after = settled(node, running)
        assert after["reserved"] == before["reserved"] == 0
        assert after["processes"] <= before["processes"]
        assert after["files"] <= before["files"] + 10
        assert after["memory"] < before["memory"] + 60e6
        # Also those of the engine, and of the worker that is kept, which may have held a model.
        assert after["all files"] <= before["all files"] + 20
        assert after["all memory"] < before["all memory"] + 120e6
        told = "%d answers, %d losses; before: %s; after: %s"
        logging.getLogger("ainet.soak").info(told, SESSIONS, killer.kills, before, after)
    finally:
        daemon.down(tmp_path)


def settled(node: NodeClient, running) -> dict[str, float]:
    """Return what the node takes once it has ended the workers that it does not need."""
    deadline = time.monotonic() + 60
    while len(family_of(running)) > 4 and time.monotonic() < deadline:  # server, engine, its helper, one worker
        time.sleep(0.2)
    server, family = psutil.Process(running.pid), family_of(running)
    return {
        "processes": len(family),
        "files": server.num_fds(),
        "memory": server.memory_full_info().uss,
        "all files": sum(process.num_fds() for process in family),
        "all memory": sum(process.memory_full_info().uss for process in family),
        "reserved": node.status().node.reserved.memory,
    }
