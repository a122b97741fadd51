"""Neighbours for the notebook about the economy: devices of other owners, each in a process of its own.

``neighbours.py NAME FOLDER [FORMAT]`` is such a process. With a format it is a cheat: it sells a model by its name, and
serves it with fewer bits a weight. It takes one JSON value a line, answers with one, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Small enough for several on one laptop.
SETTINGS = {"threads": 1, "stage_threads": 1, "context_window": 1024}


class Neighbour:
    """A device of another owner, which becomes a contact of this notebook's node and sells its model.

    Parameters
    ----------
    name
        Its name.
    serves
        A format of llama.cpp, such as ``Q2_K``, in which it secretly serves the model.
    """

    def __init__(self, name: str, *, serves: str | None = None) -> None:
        self.name = name
        self._folder = tempfile.mkdtemp(prefix=f"ainet-{name}-")
        self._words = [name, self._folder, *([serves] if serves else [])]
        atexit.register(self.stop)
        self._start()

    def accept(self, ticket: str) -> None:
        """Become a contact of whoever gave the ticket, and sell."""
        self._ask("accept", ticket)
        self._ask("sell")

    def plug_in(self) -> None:
        """Start it again, on what it had before, and wait until it is there."""
        self._start()
        self._ask("linked")

    def unplug_after(self, tokens: int) -> None:
        """Cut its power once it has sold this number of tokens."""
        self._ask("unplug after", tokens)

    def balance(self) -> None:
        """Print its side of the account."""
        print(f"{self.name} says: {self._ask('balance')}")

    def stop(self) -> None:
        """End it, and remove what it kept."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, what: str, given: object = None) -> Any:
        asking, answering = self._process.stdin, self._process.stdout
        if asking is None or answering is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has no power: {self.name}.plug_in() starts it.")
        asking.write(f"{json.dumps([what, given])}\n")
        asking.flush()
        return json.loads(answering.readline())


def meet(*neighbours: Neighbour) -> None:
    """Make neighbours contacts of this notebook's node."""
    from ainet.client.client import NodeClient
    from ainet.config import default_data_dir

    with NodeClient.running(default_data_dir()) as node:
        for neighbour in neighbours:
            neighbour.accept(node.introduce().ticket)
            print(f"{neighbour.name} is a contact now, and sells.")


async def _be(name: str, folder: str, serves: str | None = None) -> None:
    import logging

    from ainet.api import contacts, ledger, market
    from ainet.cli.commands.ledger import balance_words
    from ainet.config import AinetConfig
    from ainet.economy.pair_account import PairAccount
    from ainet.node.node import Node

    node = Node(AinetConfig(data_dir=folder, name=name, **SETTINGS), log=logging.getLogger(name))
    await node.start()
    if serves is not None:
        await _cheat(node, Path(folder) / "cheap.gguf", serves)

    async def do(what: str, given: Any) -> object:
        if what == "accept":
            await node.call(contacts.accept, given)
        elif what == "sell":
            await node.call(market.sell, [])
        elif what == "unplug after":
            _arm(PairAccount, given)
        elif what == "balance":
            return balance_words(await node.call(ledger.balance))
        async with asyncio.timeout(30):
            while not all(one.connected for one in await node.call(contacts.contacts)):  # noqa: ASYNC110 - it is another device's
                await asyncio.sleep(0.1)
        return None

    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await do(*json.loads(line))), flush=True)
    finally:
        await node.stop()


def _arm(account: Any, tokens: int) -> None:
    """Cut the power of this process when it has charged this number of tokens."""
    charge, sold = account.charge, 0

    async def mortal(self: Any, session: bytes, most: int) -> int:
        nonlocal sold
        n: int = await charge(self, session, most)
        sold += n
        if sold >= tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    account.charge = mortal


async def _cheat(node: Any, cheap: Path, serves: str) -> None:
    """Answer with a model of fewer bits a weight, whatever was asked for."""
    from ainet.quantising.formats import FORMATS
    from ainet.quantising.llama_quantise import quantise

    source = Path(await asyncio.to_thread(node.catalog.path, "smollm2"))
    await asyncio.to_thread(
        quantise, source, cheap, FORMATS[serves], threads=1, importance={}, notes={}, progress=lambda *_: None
    )
    obtain = node.provider.obtain
    node.provider.obtain = lambda request, *rest: obtain(dataclasses.replace(request, model=str(cheap)), *rest)


if __name__ == "__main__":
    asyncio.run(_be(*sys.argv[1:]))
