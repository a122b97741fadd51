"""Processes that end themselves, as a power cut would, at a point that a test names.

``mortal.py trader FOLDER NAME`` is a `Trader`, ``mortal.py node FOLDER NAME`` a whole node. Either takes a JSON value a
line, and answers with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from ainet.economy.terms import Terms
from ainet.errors import AinetError
from support.trade import QUICK, until

CUT = -signal.SIGKILL


def arm(point: str, nth: int) -> None:
    """Have this process end at the nth call of ``before`` or ``after``, module, class and method, with colons."""
    when, module, kind, method = point.split(":")
    owner = getattr(importlib.import_module(module), kind)
    wrapped, calls = getattr(owner, method), 0

    def end(now: str) -> None:
        nonlocal calls
        calls += now == "before"
        if calls == nth and now == when:
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(wrapped)
    async def later(*args: Any, **given: Any) -> Any:
        end("before")
        found = await wrapped(*args, **given)
        end("after")
        return found

    @functools.wraps(wrapped)
    def at_once(*args: Any, **given: Any) -> Any:
        end("before")
        found = wrapped(*args, **given)
        end("after")
        return found

    setattr(owner, method, later if inspect.iscoroutinefunction(wrapped) else at_once)


class TraderPart:
    """What a test has a trader do."""

    def __init__(self, folder: str, name: str) -> None:
        from support.traders import Trader

        self.device = Trader(Path(folder), name, terms=Terms())

    async def __aenter__(self) -> TraderPart:
        await self.device.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.device.stop()

    async def accept(self, ticket: str) -> None:
        await self.device.pairing.accept(ticket)

    async def met(self, _: None) -> bool:
        return await self.device.met()

    async def account(self, _: None) -> Any:
        return await self.device.account()

    async def verify(self, _: None) -> Any:
        return await self.device.books.verify()

    async def ask(self, given: dict[str, Any]) -> list[int]:
        return await self.device.ask(**given)


class NodePart:
    """What a test has a node do."""

    def __init__(self, folder: str, name: str) -> None:
        import logging

        from ainet.config import AinetConfig
        from ainet.node.node import Node
        from support.local_nodes import SMALL

        self.node = Node(AinetConfig(data_dir=folder, name=name, **SMALL), log=logging.getLogger(name), timing=QUICK)

    async def __aenter__(self) -> NodePart:
        await self.node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.stop()

    async def accept(self, ticket: str) -> None:
        from ainet.api import contacts

        await self.node.call(contacts.accept, ticket)

    async def met(self, _: None) -> bool:
        from ainet.api import contacts

        return all(one.connected for one in await self.node.call(contacts.contacts))

    async def sell(self, _: None) -> Any:
        from ainet.api import market

        return await self.node.call(market.sell, [])

    async def account(self, _: None) -> Any:
        from ainet.api import ledger

        (found,) = (await self.node.call(ledger.balance)).accounts
        return found

    async def verify(self, _: None) -> Any:
        from ainet.api import ledger

        return await self.node.call(ledger.verify)

    async def ask(self, given: dict[str, Any]) -> list[int]:
        from support.local_nodes import ask

        return (await ask(self.node, **given)).tokens


async def main(kind: str, folder: str, name: str) -> None:
    part = {"trader": TraderPart, "node": NodePart}[kind](folder, name)
    async with part:
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, given = json.loads(line)
            found: list[Any] = [None, None]
            try:
                if what == "arm":
                    arm(*given)
                else:
                    found[0] = await getattr(part, what)(given)
            except AinetError as exc:
                found[1] = exc.message
            print(json.dumps(msgspec.to_builtins(found)), flush=True)  # noqa: T201


class Mortal:
    """Such a process, as the test sees it."""

    def __init__(self, kind: str, folder: Path, name: str) -> None:
        self._words = [kind, str(folder), name]
        self._process: asyncio.subprocess.Process | None = None
        self._family: list[psutil.Process] = []

    async def start(self) -> None:
        """Start it, on what it had before."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.mortal",
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    async def do(self, what: str, given: Any = None) -> Any:
        """Return what it answers; None when its power was cut meanwhile."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps([what, given])}\n".encode())
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        self._family = psutil.Process(process.pid).children(recursive=True) or self._family
        line = await process.stdout.readline()
        if not line:
            await self.is_cut()
            return None
        found, error = json.loads(line)
        if error is not None:
            raise AinetError(error)
        return found

    async def is_cut(self) -> None:
        """Wait until its power was cut, and nothing of it is left."""
        assert self._process is not None
        assert await self._process.wait() == CUT

        async def is_gone() -> bool:
            return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in self._family)

        await until(is_gone)

    async def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is not None and self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
