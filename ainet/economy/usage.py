"""Usage: what devices did for each other, by the hour.

Each device writes down what it did itself, whoever it was for, and tells the owner's other devices. So nothing is
counted twice, and a device that was away adds its part when it returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from ainet.economy.credits import MOST
from ainet.errors import AinetError, NotEnough
from ainet.sqlite import open_database, put_aside
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from ainet.resources.work import Work

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    provider TEXT NOT NULL, hour INTEGER NOT NULL, requester TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
    answers INTEGER NOT NULL, prompt INTEGER NOT NULL, generated INTEGER NOT NULL,
    layer_tokens INTEGER NOT NULL, microseconds INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (provider, hour, requester, kind, model)
) WITHOUT ROWID;
"""
ADVICE = "Move it away: a new one is begun, and the owner's other devices tell what they have done."
HOUR = 3600
#: Hours for which usage is known: thirteen months.
KEPT_HOURS = 400 * 24
#: Of one device in one hour.
MOST_ROWS = 4096
_COLUMNS = "hour, requester, kind, model, answers, prompt, generated, layer_tokens, microseconds, size"
#: Bytes that are kept are kept once, however often they are counted in an hour.
_ADD = f"""
INSERT INTO usage (provider, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET answers = answers + excluded.answers, prompt = prompt + excluded.prompt,
    generated = generated + excluded.generated, layer_tokens = layer_tokens + excluded.layer_tokens,
    microseconds = microseconds + excluded.microseconds,
    size = iif(kind = 'storage', max(size, excluded.size), size + excluded.size)
"""  # noqa: S608

Amount = Annotated[int, msgspec.Meta(ge=0, le=MOST >> 16)]
Hour = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]


class UsageRow(msgspec.Struct, frozen=True, array_like=True):
    """What a device did in an hour (since 1970) for one other device, with one model; see `Work`."""

    hour: Hour
    requester: Annotated[str, msgspec.Meta(max_length=64)]
    kind: Annotated[str, msgspec.Meta(max_length=16)]
    model: Annotated[str, msgspec.Meta(max_length=256)]
    answers: Amount = 0
    prompt: Amount = 0
    generated: Amount = 0
    layer_tokens: Amount = 0
    microseconds: Amount = 0
    size: Amount = 0


class ProvidedRow(NamedTuple):
    """A row, and the device (node id) that did the work."""

    provider: str
    row: UsageRow


class UsageBook:
    """Writes down what this device does, and what others say that they have done.

    What is noted reaches the disk soon, in one transaction: who asks for rows sees all of it.

    Parameters
    ----------
    path
        SQLite file.
    own_id
        Node id of this device.
    wait
        Seconds after which what was noted is written.
    """

    def __init__(self, path: Path, own_id: str, log: logging.Logger, *, wait: float = 2.0) -> None:
        self._file = open_database(path, SCHEMA, VERSION, advice=ADVICE)
        self._own_id = own_id
        self._log = log
        self._wait = wait
        self._noted: dict[tuple[int, str, str, str], list[int]] = {}
        self._writing = asyncio.Lock()
        self._tasks = Tasks("Usage was not written down", log)
        self._is_due = False
        #: Why nothing is written down; empty where it is.
        self.failed = ""

    def note(self, work: Work) -> None:
        """Add work to this hour's row."""
        key = (int(time.time()) // HOUR, work.requester or self._own_id, work.kind, work.model)
        amounts = self._noted.setdefault(key, [0] * 6)
        microseconds = round(work.seconds * 1e6)
        added = (work.answers, work.prompt, work.generated, work.layer_tokens, microseconds)
        for i, amount in enumerate(added):
            amounts[i] += amount
        amounts[5] = max(amounts[5], work.size) if work.kind == "storage" else amounts[5] + work.size
        if not self._is_due:
            self._is_due = True
            self._tasks.spawn(self._write_soon())

    async def rows(self, since: int, provider: str | None = None) -> list[ProvidedRow]:
        """Return the rows from an hour on, of one device or of all, by device and hour."""
        await self.flush()

        def read() -> list[ProvidedRow]:
            found = self._file.execute(
                f"SELECT provider, {_COLUMNS} FROM usage WHERE hour >= ? AND (?2 IS NULL OR provider = ?2) "  # noqa: S608
                "ORDER BY provider, hour, requester, kind, model",
                (since, provider),
            )
            return [ProvidedRow(of, UsageRow(*rest)) for of, *rest in found]

        async with self._writing:
            return await asyncio.to_thread(read)

    async def latest(self, provider: str) -> int:
        """Return the last hour of which something is known of a device; 0 for none."""
        async with self._writing:
            (hour,) = await asyncio.to_thread(
                lambda: self._file.execute("SELECT max(hour) FROM usage WHERE provider = ?", (provider,)).fetchone()
            )
        return hour or 0

    async def receive(self, provider: str, rows: list[UsageRow]) -> None:
        """Take what another device says that it did: what it said before of the same hours is replaced.

        Raises
        ------
        NotEnough
            It cannot be written down; it is asked for again.
        """

        def write() -> None:
            with self._file:
                self._file.execute("BEGIN")
                self._file.executemany(
                    "DELETE FROM usage WHERE provider = ? AND hour = ?",
                    [(provider, hour) for hour in sorted({row.hour for row in rows})],
                )
                self._file.executemany(_ADD, [(provider, *msgspec.structs.astuple(row)) for row in rows])

        async with self._writing:
            try:
                await asyncio.to_thread(write)
            except sqlite3.Error as exc:
                raise NotEnough(f"What others did cannot be written down ({exc}). Make room on the disk.") from exc

    async def flush(self) -> None:
        """Write what was noted; what cannot be written is kept for the next time."""
        async with self._writing:
            if not self._noted:
                return
            noted, self._noted = self._noted, {}
            try:
                await asyncio.to_thread(self._write, noted)
                self.failed = ""
            except sqlite3.Error as exc:
                for key, amounts in noted.items():
                    since = self._noted.get(key, [0] * 6)
                    self._noted[key] = [one + other for one, other in zip(amounts, since, strict=True)]
                words = f"Usage cannot be written down ({exc}). Make room on the disk; nothing is lost meanwhile."
                if not self.failed:
                    self._log.warning("%s", words)
                self.failed = words

    async def clear(self) -> None:
        """Forget everything: this device has gone to another swarm, whose owner it does not concern."""
        async with self._writing:
            self._noted.clear()
            await asyncio.to_thread(self._file.execute, "DELETE FROM usage")

    async def stop(self) -> None:
        """Write what was noted, and close the file."""
        await self._tasks.stop()
        await self.flush()
        self._file.close()

    def _write(self, noted: dict[tuple[int, str, str, str], list[int]]) -> None:
        first = int(time.time()) // HOUR - KEPT_HOURS
        with self._file:
            self._file.execute("BEGIN")
            self._file.executemany(_ADD, [(self._own_id, *key, *amounts) for key, amounts in noted.items()])
            self._file.execute("DELETE FROM usage WHERE hour < ?", (first,))

    async def _write_soon(self) -> None:
        await asyncio.sleep(self._wait)
        self._is_due = False
        await self.flush()


def open_book(path: Path, own_id: str, log: logging.Logger) -> UsageBook:
    """Return the book at `path`; a damaged one is put aside, and a new one begun."""
    try:
        return UsageBook(path, own_id, log)
    except AinetError as exc:
        if not path.exists():
            raise
        aside = put_aside(path, int(time.time()))
        log.warning("%s It was put aside as %s.", exc.message, aside.name)
        return UsageBook(path, own_id, log)
