"""The end of a node: no step keeps the others from running."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ainet.node.closing import Closing


class Part:
    def __init__(self, done, name, error=None, seconds=0.0):
        self.done, self.name, self.error, self.seconds = done, name, error, seconds

    async def stop(self):
        await asyncio.sleep(self.seconds)
        self.done.append(self.name)
        if self.error is not None:
            raise self.error

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.stop()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return logging.getLogger("closing")


async def test_every_step_is_done_whatever_the_others_raise(log, caplog):
    done = []
    closing = Closing(log, 5.0)
    closing.callback(Part(done, "callback").done.clear)
    assert (await closing.enter_async_context(Part(done, "context", OSError(28, "No space left")))).name == "context"
    for name, error in (("a", None), ("b", OSError(30, "Read-only file system")), ("c", ValueError("x"))):
        closing.push_async_callback(Part(done, name, error).stop)
    order = done.copy
    closing.callback(lambda: 1 / 0)
    await closing.aclose()
    assert order() == []  # the first callback, which came last
    words = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(": ")[2] for line in words] == [
        "division by zero",
        "x",
        "[Errno 30] Read-only file system",
        "[Errno 28] No space left",
    ]
    assert all(record.exc_info is None for record in caplog.records)
    await closing.aclose()  # there is nothing left
    assert len(caplog.records) == 4


async def test_a_step_that_hangs_is_left_behind(log, caplog):
    done = []
    closing = Closing(log, 0.2)
    closing.push_async_callback(Part(done, "first").stop)
    closing.push_async_callback(Part(done, "hangs", seconds=60).stop)
    closing.push_async_callback(Part(done, "hangs, too", seconds=60).stop)
    async with asyncio.timeout(10):
        await closing.aclose()
    assert done == ["first"]
    assert [record.getMessage() for record in caplog.records] == [
        "Part does not stop; the rest is stopped without it."
    ] * 2


async def test_who_cancels_it_hears_so_when_everything_is_stopped(log):
    done, begun = [], asyncio.Event()
    closing = Closing(log, 60.0)
    closing.push_async_callback(Part(done, "rest").stop)

    async def hang():
        begun.set()
        await asyncio.sleep(60)

    closing.push_async_callback(hang)
    ending = asyncio.create_task(closing.aclose())
    await begun.wait()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert done == ["rest"]
