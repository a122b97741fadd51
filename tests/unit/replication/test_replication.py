"""What could not be done is done later."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest

from ainet.errors import NotEnough
from ainet.replication.replication import Replication
from ainet.timing import Timing


class Full:
    """Replicas on a disk that is full for a while, or whose code fails."""

    def __init__(self, error):
        self.error, self.tries = error, 0

    def sign(self, _sign):
        self.tries += 1
        if self.tries < 3:
            raise self.error
        return 7

    def keep_only(self, _members):
        return False

    def plan(self, _budget):
        return [], []


@pytest.mark.parametrize("error", [NotEnough("The disk is full."), RuntimeError("a mistake")])
async def test_entries_that_could_not_be_signed_are_signed_as_soon_as_that_is_possible(error):
    said = []
    identity = SimpleNamespace(id="me", roster=SimpleNamespace(members=()), sign=lambda _message: b"")
    replicas = Full(error)
    replication = Replication(
        replicas,
        links=SimpleNamespace(identity=identity, on_linked=lambda _callback: None, links=list),
        feeds=SimpleNamespace(on_change=lambda _callback: None, publish=lambda log, news: said.append((log, news))),
        disk=0,
        changed=lambda: None,
        removed=lambda: None,
        log=logging.getLogger("test"),
        timing=Timing(context_gather=0.0, context_again=0.0),
    )
    try:
        async with asyncio.timeout(10):
            while not said:
                await asyncio.sleep(0)
        assert (replicas.tries, said) == (3, [("context", {"head": 7})])
    finally:
        await replication.stop()
