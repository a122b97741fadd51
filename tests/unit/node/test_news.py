"""News: what a listener hears, however fast things change and however slow it is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.api.news import Changes, LinkState, News, decode_news
from ainet.errors import AinetError, Busy, NotFound, UsageError
from ainet.node.news import MOST_LISTENERS, NewsDesk

LOG = logging.getLogger("test")


class Things:
    """What there is of one kind, and how often it was looked at."""

    def __init__(self, desk, kind="members"):
        self.there, self.looks, self.error = {}, 0, None
        self.touch = desk.add(kind, self.view)

    async def view(self):
        self.looks += 1
        now = dict(self.there)
        await asyncio.sleep(0)  # what changes from here on is not in it
        if self.error is not None:
            raise self.error
        return now

    def set(self, **there):
        self.there = there
        self.touch()


async def heard(listening, seconds=5):
    async with asyncio.timeout(seconds):
        return await anext(listening)


def applied(known, changes):
    """Return what a listener knows after some changes."""
    kept = {} if changes.is_whole else {key: value for key, value in known.items() if key not in changes.gone}
    return kept | changes.changed


async def test_a_listener_hears_all_there_is_and_then_what_changes():
    desk = NewsDesk(LOG, every=0.01)
    things, others = Things(desk), Things(desk, "links")
    things.set(a=1, b=2)
    async with contextlib.aclosing(desk.listen(["members"])) as listening:
        assert await heard(listening) == News(members=Changes({"a": 1, "b": 2}, [], True))
        others.set(x=1)  # it is not asked for
        things.set(a=1, b=3, c=4)
        assert await heard(listening) == News(members=Changes({"b": 3, "c": 4}, []))
        things.set(a=1, b=3)
        assert await heard(listening) == News(members=Changes({}, ["c"]))
        things.touch()  # nothing has changed
        with pytest.raises(TimeoutError):
            await heard(listening, 0.1)
    assert desk.listeners == 0
    assert others.looks == 0


async def test_all_kinds_come_together_and_nobody_looks_while_nobody_listens():
    desk = NewsDesk(LOG, every=0.01)
    things, others = Things(desk), Things(desk, "ledger")
    for _ in range(10):
        things.set(a=1)
    assert things.looks == 0
    async with contextlib.aclosing(desk.listen()) as one, contextlib.aclosing(desk.listen()) as other:
        expected = News(members=Changes({"a": 1}, [], True), ledger=Changes({}, [], True))
        assert await heard(one) == await heard(other) == expected
        assert (things.looks, others.looks) == (1, 1)  # both have the same look


async def test_a_slow_listener_hears_the_newest_and_nothing_queues_up():
    desk = NewsDesk(LOG, every=0.05)
    things = Things(desk)
    async with contextlib.aclosing(desk.listen()) as listening:
        await heard(listening)
        begun, n = time.monotonic(), 0
        known = {}
        for value in range(200):
            things.set(a=value)
            await asyncio.sleep(0)
        while known.get("a") != 199:
            known = applied(known, (await heard(listening)).members)
            n += 1
        assert n <= 2
        assert time.monotonic() - begun < 2
        assert things.looks <= 4


async def test_no_more_than_ten_a_second():
    desk = NewsDesk(LOG)
    things = Things(desk)
    times, stop = [], asyncio.Event()

    async def change():
        n = 0
        while not stop.is_set():
            things.set(a=(n := n + 1))
            await asyncio.sleep(0.005)

    changing = asyncio.create_task(change())
    async with contextlib.aclosing(desk.listen()) as listening:
        for _ in range(12):
            await heard(listening)
            times.append(time.monotonic())
    stop.set()
    await changing
    assert all(later - earlier >= 0.099 for earlier, later in itertools.pairwise(times))


@given(
    steps=st.lists(
        st.tuples(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)), st.integers(0, 3)), max_size=12
    )
)
def test_whoever_applies_what_it_hears_knows_all_there_is(steps):
    async def play():
        desk = NewsDesk(LOG, every=0.0)
        things = Things(desk)
        known = {}

        async def listen():
            nonlocal known
            async with contextlib.aclosing(desk.listen()) as listening:
                while "end" not in known:
                    known = applied(known, (await heard(listening)).members)

        listening = asyncio.create_task(listen())
        for there, rounds in steps:
            things.set(**there)
            for _ in range(rounds):  # in the middle of a look, too
                await asyncio.sleep(0)
        things.set(end=1)
        await listening
        assert known == {"end": 1}

    asyncio.run(play())


async def test_what_cannot_be_looked_at_is_told_when_it_can(caplog):
    desk = NewsDesk(LOG, every=0.01)
    things, others = Things(desk), Things(desk, "links")
    things.error = NotFound("The ledger is damaged.")
    others.set(x=1)
    with caplog.at_level(logging.INFO, "test"):
        async with contextlib.aclosing(desk.listen()) as listening:
            assert await heard(listening) == News(links=Changes({"x": 1}, [], True))
            things.error = None
            things.set(a=1)
            assert await heard(listening) == News(members=Changes({"a": 1}, [], True))
            things.error = OSError("gone")
            things.touch()
            others.set(x=2)
            assert await heard(listening) == News(links=Changes({"x": 2}))
            things.error, things.there = None, {"a": 2}  # and nobody says so
            assert await heard(listening) == News(members=Changes({"a": 2}))
    assert "members cannot be looked at: The ledger is damaged." in caplog.text


async def test_what_is_not_there_and_who_is_too_many_is_said():
    desk = NewsDesk(LOG)
    Things(desk)
    with pytest.raises(UsageError, match="There is no news of 'weather', but of members, links"):
        await anext(desk.listen(["members", "weather"]))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MOST_LISTENERS):
            await heard(await stack.enter_async_context(contextlib.aclosing(desk.listen())))
        with pytest.raises(Busy):
            await anext(desk.listen())
    assert desk.listeners == 0
    with pytest.raises(ValueError, match="two views of members"):
        Things(desk)


async def test_who_listens_after_a_while_hears_what_there_is_then():
    desk = NewsDesk(LOG)
    things = Things(desk)
    things.set(a=1)
    async with contextlib.aclosing(desk.listen()) as listening:
        await heard(listening)
    things.there = {"a": 2}  # nobody says so
    async with contextlib.aclosing(desk.listen()) as listening:
        assert await heard(listening) == News(members=Changes({"a": 2}, [], True))
        desk.stop()
        with pytest.raises(StopAsyncIteration):
            await heard(listening)


def test_a_line_is_news_a_sign_of_life_or_an_error():
    news = News(links=Changes({"a": LinkState("a", True, "direct", False, 0.01)}, ["b"]))
    assert decode_news(msgspec.json.encode(news)) == news
    assert decode_news("") is None
    with pytest.raises(Busy, match="Too many"):
        decode_news(msgspec.json.encode({"event": "error", "error": Busy("Too many.").to_dict()}))
    with pytest.raises(AinetError, match="not understood"):
        decode_news('{"members": 1}')
