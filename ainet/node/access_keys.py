"""Keys of the model API: kept as hashes, with what they open and what was used of it today."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import secrets
import sqlite3
import time
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from ainet.api import access_keys as api
from ainet.api.access_keys import AccessKey, NewKey
from ainet.api.generate import Done, PromptScored, Start, Text, Timings
from ainet.errors import AinetError, Busy, NotFound, Refused, UsageError
from ainet.sqlite import open_database, put_aside

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.api.generate import Event, GenerateRequest
    from ainet.api.logprobs import TokenLogprob

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    hash BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, created REAL NOT NULL, expires REAL, models TEXT NOT NULL,
    tokens_per_day INTEGER, may_buy INTEGER NOT NULL, day TEXT NOT NULL, used INTEGER NOT NULL, last_used REAL
) WITHOUT ROWID;
"""
ADVICE = "Its keys open nothing any more and have to be made anew."
#: What all keys begin with, so that people and scanners know them.
PREFIX = "ainet-"
BYTES = 32
#: Most keys.
MOST = 1000
_FIELDS = ("name", "created", "expires", "models", "tokens_per_day", "may_buy", "used_today", "last_used")
USED_UP = "the key's tokens of today are used up"


class AccessKeys:
    """Knows the keys, lets them ask for what they open, and counts.

    Parameters
    ----------
    path
        Of their file.
    answers
        The registry of answers to the owner's verbs.
    log
        For a file that is damaged, and for counts that could not be kept.
    now
        Gives the time, in Unix seconds.
    """

    def __init__(
        self, path: Path, answers: Answers, log: logging.Logger, *, now: Callable[[], float] = time.time
    ) -> None:
        self._path, self._log, self._now = path, log, now
        self._database: sqlite3.Connection | None = None
        #: By the hash of each: what it opens, and the day of which its tokens are.
        self._keys: dict[bytes, AccessKey] = {}
        self._days: dict[bytes, str] = {}
        #: One at a time: what is in memory follows what is on the disk.
        self._writing = asyncio.Lock()
        answers.add(api.create_access_key, self.create)
        answers.add(api.access_keys, self.known)
        answers.add(api.revoke_access_key, self.revoke)

    async def start(self) -> None:
        """Read what is kept; a damaged file is put aside, and a new one begun."""
        await asyncio.to_thread(self._open)

    async def stop(self) -> None:
        """Close the file."""
        if self._database is not None:
            async with self._writing:
                self._database.close()

    async def create(
        self,
        name: str,
        models: list[str] | None = None,
        tokens_per_day: int | None = None,
        expires_in: float | None = None,
        may_buy: bool = False,
    ) -> NewKey:
        """Make a key; raises `UsageError` for a name that another one has."""
        async with self._writing:
            if any(one.name == name for one in self._keys.values()):
                raise UsageError(f"There is a key called {name} already. Revoke it first, or take another name.")
            if len(self._keys) >= MOST:
                raise UsageError(f"There are {MOST} keys already. Revoke some first.")
            now = self._now()
            expires = now + expires_in if expires_in is not None else None
            made = AccessKey(name, now, expires, models or [], tokens_per_day, may_buy, 0, None)
            secret = PREFIX + secrets.token_urlsafe(BYTES)
            row = (_hash(secret), name, now, expires, json.dumps(made.models), tokens_per_day, may_buy, self._today)
            await self._do("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, NULL)", *row)
            self._keys[_hash(secret)], self._days[_hash(secret)] = made, self._today
        return NewKey(secret, made)

    async def known(self) -> list[AccessKey]:
        """Return all keys, the oldest first."""
        return sorted(map(self._as_of_today, self._keys), key=lambda one: one.created)

    async def revoke(self, name: str) -> AccessKey:
        """Make a key open nothing any more; raises `NotFound`."""
        async with self._writing:
            found = next((hash_ for hash_, one in self._keys.items() if one.name == name), None)
            if found is None:
                raise NotFound(f"No key is called {name}. `ainet keys` lists them.")
            await self._do("DELETE FROM keys WHERE hash = ?", found)
            del self._days[found]
            return self._keys.pop(found)

    def find(self, secret: str) -> AccessKey | None:
        """Return what a key opens; None for one that is unknown, or has expired."""
        try:
            return self._opened(_hash(secret)) if secret.startswith(PREFIX) else None
        except Refused:
            return None

    async def generate(
        self, secret: str, answer: Callable[[GenerateRequest], AsyncGenerator[Event, None]], request: GenerateRequest
    ) -> AsyncGenerator[Event, None]:
        """Answer a request in a key's name, as far as its tokens of today go.

        Parameters
        ----------
        secret
            The key.
        answer
            Answers a request; see `Node.generate`.

        Raises
        ------
        Refused
            The key does not open this, or was revoked, or has expired, also meanwhile.
        Busy
            Its tokens of today are used up.
        """
        key = _hash(secret)
        request = self._admitted(self._opened(key), request)
        told = _Told(request)
        try:
            async with contextlib.aclosing(answer(request)) as events:
                async for event in events:
                    left = self._left(self._opened(key))
                    if isinstance(event, Start) and told.start is None and left != 0:
                        self._count(key, event.prompt_tokens)
                    elif isinstance(event, Text):
                        self._count(key, len(event.tokens))
                    told.note(event)
                    yield _without_others(event)
                    if isinstance(event, Start | Text) and self._left(self._opened(key)) == 0:
                        break
                else:
                    return
            # The rest is for other answers of this key, which have used what was left.
            yield told.cut_off()
        finally:
            await self._keep(key)

    def _opened(self, key: bytes) -> AccessKey:
        """Return what a key opens now; raises `Refused` for nothing."""
        found = self._keys.get(key)
        if found is None:
            raise Refused("This key was revoked.")
        if found.expires is not None and found.expires <= self._now():
            raise Refused("This key has expired.")
        return self._as_of_today(key)

    def _admitted(self, key: AccessKey, request: GenerateRequest) -> GenerateRequest:
        if request.context not in (None, "none"):
            raise Refused("This key does not open the owner's documents: no context.")
        if request.seller is not None and not key.may_buy:
            raise Refused("This key must not buy answers: leave out seller.")
        model = request.model
        if key.models:
            model = model or key.models[0]
            if model.casefold() not in {one.casefold() for one in key.models}:
                raise NotFound(f"This key does not open {model[:200]!r}, only {', '.join(key.models)}.")
        left = self._left(key)
        if left == 0:
            words = f"{USED_UP[0].upper()}{USED_UP[1:]}."
            raise Busy(words, retry_after=self._until_midnight, used_up=True)
        most = request.max_tokens if left is None else min(left, request.max_tokens or left)
        return dataclasses.replace(request, model=model, max_tokens=most)

    def _left(self, key: AccessKey) -> int | None:
        return None if key.tokens_per_day is None else max(0, key.tokens_per_day - key.used_today)

    def _count(self, key: bytes, tokens: int) -> None:
        today = self._as_of_today(key)
        self._keys[key] = dataclasses.replace(today, used_today=today.used_today + tokens, last_used=self._now())
        self._days[key] = self._today

    async def _keep(self, key: bytes) -> None:
        """Write down what was used."""
        async with self._writing:
            found = self._keys.get(key)
            if found is None:
                return
            try:
                change = "UPDATE keys SET day = ?, used = ?, last_used = ? WHERE hash = ?"
                await self._do(change, self._days[key], found.used_today, found.last_used, key)
            except sqlite3.Error as exc:
                self._log.warning("What %s has used could not be written down (%s).", found.name, exc)

    def _as_of_today(self, key: bytes) -> AccessKey:
        is_of_today = self._days.get(key) == self._today
        return self._keys[key] if is_of_today else dataclasses.replace(self._keys[key], used_today=0)

    @property
    def _today(self) -> str:
        return date.fromtimestamp(self._now()).isoformat()

    @property
    def _until_midnight(self) -> float:
        now = datetime.fromtimestamp(self._now()).astimezone()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time()).astimezone()
        return max(1.0, (midnight - now).total_seconds())

    async def _do(self, statement: str, *values: object) -> None:
        assert self._database is not None  # noqa: S101 - opened at the start
        await asyncio.to_thread(self._database.execute, statement, values)

    def _open(self) -> None:
        try:
            self._read()
        except (AinetError, sqlite3.DatabaseError, ValueError) as exc:
            cause = exc.__cause__ if isinstance(exc, AinetError) else exc
            if cause is None or isinstance(cause, sqlite3.OperationalError) or not self._path.exists():
                raise  # it is of a newer version, or cannot be read now
            if self._database is not None:
                self._database.close()
            aside = put_aside(self._path, int(self._now()))
            self._log.warning("%s is damaged (%s). %s It was put aside as %s.", self._path, cause, ADVICE, aside.name)
            self._keys, self._days = {}, {}
            self._read()

    def _read(self) -> None:
        self._database = open_database(self._path, SCHEMA, VERSION, advice=ADVICE)
        self._database.text_factory = lambda text: text.decode()  # its own error would look like a file that is locked
        for row in self._database.execute("SELECT * FROM keys"):
            key, name, created, expires, models, most, may_buy, day, used, last_used = row
            fields = (name, created, expires, json.loads(models), most, bool(may_buy), used, last_used)
            self._keys[key] = msgspec.convert(dict(zip(_FIELDS, fields, strict=True)), AccessKey)
            self._days[key] = day


class _Told:
    """An answer as far as it was told."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self.start: Start | None = None
        self._said: list[Text] = []
        self._scored: list[TokenLogprob] = []

    def note(self, event: Event) -> None:
        """Note what was told."""
        if isinstance(event, Start):
            self.start = self.start or event
        elif isinstance(event, PromptScored):
            self._scored[event.begin :] = event.logprobs
        elif isinstance(event, Text):
            self._said.append(event)

    def cut_off(self) -> Done:
        """Return its end, where nothing more may be told."""
        start, said = self.start, self._said
        tokens = [token for one in said for token in one.tokens]
        return Done(
            finish="length",
            text="".join(one.text for one in said),
            tokens=tokens,
            model=start.model if start is not None else self._request.model or "",
            seed=self._request.seed,
            placement=start.placement if start is not None else [],
            received={},
            timings=Timings(start.prompt_tokens if start is not None else 0, generated_tokens=len(tokens)),
            notes=[*(start.notes if start is not None else []), USED_UP],
            logprobs=[told for one in said for told in one.logprobs],
            prompt_logprobs=self._scored,
        )


def _without_others(event: Event) -> Event:
    """Return an event without what it says of other people's questions: how much of a prompt was known already."""
    if not isinstance(event, Done):
        return event
    return dataclasses.replace(event, timings=dataclasses.replace(event.timings, reused_tokens=0))


def _hash(secret: str) -> bytes:
    """Return what is kept of a key: it has so many random bits that no slow function is needed."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()
