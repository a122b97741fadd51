"""What a decode thread says reaches the event loop in order, gathered, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from ainet.stages.protocol.generation import Done, Event, Started, Text
from ainet.stages.sessions.outbox import Outbox
from ainet.timing import TIMING


class Requester:
    """Hears events; `last` is set with the last one."""

    def __init__(self, gather: float = TIMING.gather) -> None:
        self.heard: list[Event] = []
        self.last = asyncio.Event()
        self.outbox = Outbox(asyncio.get_running_loop(), self.hear, gather=gather)

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        if isinstance(event, Done):
            self.last.set()


async def test_the_start_and_the_first_words_come_at_once_and_the_rest_gathered():
    requester = Requester(gather=1.0)  # the test may be interrupted for long
    requester.outbox.put(Started(1, 3))
    await asyncio.sleep(0)
    requester.outbox.put(Text(1, "a", [1]))
    await asyncio.sleep(0)
    assert requester.heard == [Started(1, 3), Text(1, "a", [1])]
    for token in range(2, 6):
        requester.outbox.put(Text(1, "b", [token]))
        await asyncio.sleep(0)
    assert len(requester.heard) == 2
    async with asyncio.timeout(5):
        while len(requester.heard) == 2:
            await asyncio.sleep(0.01)
    assert requester.heard[2:] == [Text(1, "bbbb", [2, 3, 4, 5])]


async def test_the_end_takes_the_last_words_along():
    requester = Requester(gather=60.0)
    for token in range(3):
        requester.outbox.put(Text(1, "x", [token]))
        await asyncio.sleep(0)
    requester.outbox.put(Done(1, "stop", ""))
    await asyncio.sleep(0)
    assert requester.heard == [Text(1, "x", [0]), Text(1, "xx", [1, 2]), Done(1, "stop", "")]


async def test_slow_text_is_not_held_back():
    requester = Requester()
    requester.outbox.put(Text(1, "a", [1]))
    await asyncio.sleep(3 * TIMING.gather)
    requester.outbox.put(Text(1, "b", [2]))
    await asyncio.sleep(0)
    assert requester.heard == [Text(1, "a", [1]), Text(1, "b", [2])]


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.04]), max_size=12))
def test_whatever_the_pauses_nothing_is_lost_or_reordered(pauses):
    async def run() -> list[Event]:
        requester = Requester()

        def work() -> None:
            requester.outbox.put(Started(1, 1))
            for token, pause in enumerate(pauses):
                time.sleep(pause)
                requester.outbox.put(Text(1, f"{token},", [token]))
            requester.outbox.put(Done(1, "length", "rest"))

        async with asyncio.timeout(10):
            await asyncio.to_thread(work)
            await requester.last.wait()
        return requester.heard

    first, *words, last = asyncio.run(run())
    assert (first, last) == (Started(1, 1), Done(1, "length", "rest"))
    assert [token for event in words for token in event.tokens] == list(range(len(pauses)))
    assert "".join(event.text for event in words) == "".join(f"{token}," for token in range(len(pauses)))
