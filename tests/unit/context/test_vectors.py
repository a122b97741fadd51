"""What becomes of passages whose vectors end the process that makes them."""

from __future__ import annotations

import asyncio
import logging

import pytest
from support.storing import write

from ainet.context import vectors as module
from ainet.context.vectors import ContextVectors
from ainet.engine.leased_actor import WorkerLost
from ainet.storage.hybrid import HybridStorage
from ainet.timing import Timing


class Worker:
    """An actor whose process ends at a certain text."""

    is_ready = True

    def __init__(self, *_arguments, **_options):
        self.tables = {}
        self.ends = 0
        self.models = [("m" * 64, "model", 4)]
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def call(self, method, *arguments, seconds):
        await asyncio.sleep(0)
        if method == "models":
            await self.may_start.wait()
            self.is_ready = True
            return self.models, ""
        if method == "add":
            _, table, _, texts = arguments
            if any("deadly" in text for text in texts):
                self.ends += 1
                raise WorkerLost
            self.tables.setdefault(table, []).extend(texts)
            return len(texts), 0.1
        return None

    async def stop(self):
        pass


class Alone:
    """No other device."""

    def most(self, _dimensions):
        return 256

    async def ask(self, _index, _passages):
        return {}


@pytest.fixture
async def vectors(tmp_path):
    storage = HybridStorage(tmp_path / "context")
    folder = storage.add_folder("/f").id
    write(storage, folder, "a.txt", "\n".join(["deadly" if i == 40 else f"harmless {i}" for i in range(60)]))
    made = ContextVectors(
        storage,
        tmp_path,
        "",
        problem="No model is called 'nomic' here.",
        shared=Alone(),
        engine=None,
        workers=None,
        log=logging.getLogger(),
        timing=Timing(context_again=0.001, vectors_asked=0.05),
        leased=Worker,
    )
    made.storage = storage
    yield made
    await made.stop()
    storage.close()


async def test_one_passage_that_ends_the_process_keeps_no_other_from_its_vector(vectors):
    async with asyncio.timeout(20):
        while not vectors.storage.indexes() or vectors.storage.indexes()[0].left:
            await asyncio.sleep(0.01)
    (texts,) = vectors._actor.tables.values()
    assert sorted({one.split("\n")[1] for one in texts}) == sorted(f"harmless {i}" for i in range(60) if i != 40)
    assert vectors._actor.ends <= 1 + module.TRIES


async def test_a_model_that_is_missing_is_said_and_the_quick_one_goes_on(vectors):
    async with asyncio.timeout(20):
        while vectors.failed != "No model is called 'nomic' here.":
            await asyncio.sleep(0.01)
        while vectors.storage.indexes()[0].left:
            await asyncio.sleep(0.01)


async def test_a_new_model_is_noticed_although_the_question_that_started_it_gave_up(vectors):
    async def until_made(n):
        async with asyncio.timeout(20):
            while [one.left for one in vectors.storage.indexes()] != [0] * n:
                await asyncio.sleep(0.01)

    await until_made(1)
    worker = vectors._actor
    worker.is_ready, worker.models = False, [*worker.models, ("b" * 64, "better", 4)]
    worker.may_start.clear()
    assert (await vectors.search("question", 5)).found == []
    worker.may_start.set()
    await until_made(2)
    assert {one.name for one in vectors.storage.indexes()} == {"model", "better"}
