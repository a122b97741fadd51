"""Usage: written down once, by who did the work, in rows of an hour."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.economy.usage import HOUR, KEPT_HOURS, ProvidedRow, UsageBook, UsageRow, open_book
from ainet.economy.usage_sums import days_of, sums
from ainet.resources.work import Work

LOG = logging.getLogger()
NAMES = {"me": "desk", "you": "laptop"}


@pytest.fixture
async def book(tmp_path):
    found = UsageBook(tmp_path / "usage.sqlite", "me", LOG, wait=0.01)
    yield found
    await found.stop()


async def test_work_is_added_up_by_hour_requester_kind_and_model(book):
    hour = int(time.time()) // HOUR
    book.note(Work("answer", model="tiny", answers=1, prompt=20))
    book.note(Work("answer", model="tiny", generated=3))
    book.note(Work("answer", "you", "tiny", answers=1, prompt=7))
    book.note(Work("layers", "you", "tiny", layer_tokens=90, seconds=0.25))
    found = {(one.provider, one.row.requester, one.row.kind): one.row for one in await book.rows(hour)}
    assert found["me", "me", "answer"] == UsageRow(hour, "me", "answer", "tiny", 1, 20, 3)
    assert found["me", "you", "answer"] == UsageRow(hour, "you", "answer", "tiny", 1, 7)
    assert found["me", "you", "layers"] == UsageRow(hour, "you", "layers", "tiny", 0, 0, 0, 90, 250_000)
    assert len(found) == 3


async def test_what_is_kept_counts_once_and_what_is_sent_each_time(book):
    for size in (500, 900, 700):
        book.note(Work("storage", "you", size=size))
        book.note(Work("transfer", "you", size=size))
        await book.flush()
    assert {one.row.kind: one.row.size for one in await book.rows(0)} == {"storage": 900, "transfer": 2100}


async def test_it_is_on_the_disk_soon_and_for_the_owner_alone(tmp_path, book):
    book.note(Work("answer", model="tiny", generated=3))
    path = tmp_path / "usage.sqlite"
    with sqlite3.connect(path) as other:
        async with asyncio.timeout(20):
            while not other.execute("SELECT generated FROM usage").fetchall():
                await asyncio.sleep(0.01)
    other.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_another_device_says_replaces_what_it_said_of_the_same_hours(book):
    hour = int(time.time()) // HOUR
    before = UsageRow(hour - 1, "me", "layers", "tiny", layer_tokens=9)
    await book.receive("you", [before, UsageRow(hour, "me", "relay", "")])
    await book.receive("you", [UsageRow(hour, "me", "layers", "tiny", layer_tokens=4)])
    book.note(Work("answer", model="tiny", answers=1))
    assert [(one.row.hour, one.row.kind) for one in await book.rows(0, "you")] == [
        (hour - 1, "layers"),
        (hour, "layers"),
    ]
    assert (await book.latest("you"), await book.latest("nobody")) == (hour, 0)
    assert {one.provider for one in await book.rows(0)} == {"me", "you"}


async def test_nothing_is_lost_while_the_disk_is_full(book, monkeypatch):
    write = UsageBook._write

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(UsageBook, "_write", full)
    book.note(Work("answer", model="tiny", generated=3))
    assert await book.rows(0) == []
    assert "Make room on the disk" in book.failed
    book.note(Work("answer", model="tiny", generated=4))
    monkeypatch.setattr(UsageBook, "_write", write)
    assert [one.row.generated for one in await book.rows(0)] == [7]
    assert book.failed == ""


async def test_a_full_disk_is_logged_once(book, monkeypatch, caplog):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(UsageBook, "_write", full)
    for _ in range(3):
        book.note(Work("answer", model="tiny", generated=3))
        await book.flush()
    assert [one.message for one in caplog.records] == [book.failed]
    monkeypatch.undo()


async def test_all_of_it_can_be_forgotten(book):
    book.note(Work("answer", model="tiny", generated=3))
    await book.flush()
    await book.receive("you", [UsageRow(int(time.time()) // HOUR, "me", "relay", "", size=1)])
    book.note(Work("answer", model="tiny", generated=3))
    await book.clear()
    assert await book.rows(0) == []


async def test_a_damaged_file_is_put_aside(tmp_path):
    path = tmp_path / "usage.sqlite"
    path.write_bytes(b"no database at all" * 500)
    book = open_book(path, "me", LOG)
    book.note(Work("answer", model="tiny", generated=3))
    assert len(await book.rows(0)) == 1
    await book.stop()
    (aside,) = tmp_path.glob("usage.sqlite.damaged-*")
    assert aside.read_bytes().startswith(b"no database")


async def test_old_hours_go(book):
    await book.receive("you", [UsageRow(int(time.time()) // HOUR - KEPT_HOURS - 1, "me", "relay", "", size=1)])
    book.note(Work("answer", model="tiny"))
    assert {one.provider for one in await book.rows(0)} == {"me"}


WORK = st.builds(
    Work,
    st.sampled_from(["answer", "layers", "transfer"]),
    st.sampled_from(["", "you", "x"]),
    st.sampled_from(["", "tiny", "large"]),
    answers=st.integers(0, 3),
    prompt=st.integers(0, 1000),
    generated=st.integers(0, 1000),
    layer_tokens=st.integers(0, 10**6),
    seconds=st.integers(0, 1000),
    size=st.integers(0, 10**9),
)


@given(st.lists(st.tuples(WORK, st.booleans()), max_size=20))
def test_whatever_is_noted_and_whenever_it_is_written_the_sums_are_those_of_the_work(tmp_path_factory, noted):
    async def run():
        path = tmp_path_factory.mktemp("book") / "usage.sqlite"
        book = UsageBook(path, "me", LOG)
        for work, is_written in noted:
            book.note(work)
            if is_written:
                await book.flush()
        await book.stop()
        book = UsageBook(path, "me", LOG)  # also after a restart
        found = await book.rows(0)
        await book.stop()
        return found

    found = asyncio.run(run())
    for field in ("answers", "prompt", "generated", "layer_tokens", "size"):
        assert sum(getattr(one.row, field) for one in found) == sum(getattr(one, field) for one, _ in noted)
    assert sum(one.row.microseconds for one in found) == sum(one.seconds for one, _ in noted) * 10**6
    for by in ("peer", "model", "day"):
        assert sum(one.seconds for one in sums(found, by, NAMES)) == sum(one.seconds for one, _ in noted)


def test_usage_is_added_up_by_who_worked_for_whom_by_model_and_by_day():
    hour = int(time.mktime((2026, 11, 27, 12, 0, 0, 0, 0, -1))) // HOUR
    found = [
        ProvidedRow("me", UsageRow(hour, "me", "answer", "tiny", 2, 100, 50)),
        ProvidedRow("me", UsageRow(hour, "me", "layers", "tiny", layer_tokens=900, microseconds=1_500_000)),
        ProvidedRow("me", UsageRow(hour, "me", "vectors", "small", prompt=5000, microseconds=500_000)),
        ProvidedRow("you", UsageRow(hour, "me", "layers", "tiny", layer_tokens=2100, microseconds=4_000_000)),
        ProvidedRow("you", UsageRow(hour - 1, "me", "storage", "", size=70)),
        ProvidedRow("you", UsageRow(hour, "me", "storage", "", size=90)),
        ProvidedRow("you", UsageRow(hour + 24, "gone" * 13, "relay", "", size=30)),
    ]
    laptop, desk, gone = sums(found, "peer", NAMES)
    assert (laptop.worked, laptop.asked, laptop.seconds, laptop.layer_tokens) == ("laptop", "desk", 4.0, 2100)
    assert laptop.kept == 90
    assert (desk.worked, desk.asked, desk.seconds) == ("desk", "desk", 2.0)
    assert (desk.answers, desk.prompt_tokens, desk.generated_tokens) == (2, 100, 50)
    assert (gone.asked, gone.relayed) == ("gonegone", 30)
    assert [(one.model, one.seconds) for one in sums(found, "model", NAMES)] == [("tiny", 5.5), ("small", 0.5), ("", 0)]
    assert [(one.day, one.seconds) for one in sums(found, "day", NAMES)] == [("2026-11-27", 6.0), ("2026-11-28", 0)]
    assert [(one.day, one.device, one.tokens) for one in days_of(found, NAMES)] == [
        ("2026-11-27", "desk", 50),
        ("2026-11-27", "laptop", 0),
        ("2026-11-28", "laptop", 0),
    ]
