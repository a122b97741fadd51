"""A data directory that was copied to a second device: all hear of it at once, and the older one keeps working."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time

import pytest
from support.local_nodes import SMALL, ask, nodes
from support.swarms import until

from ainet.api import swarm
from ainet.api.node import status
from ainet.config import AinetConfig
from ainet.daemon import daemon
from ainet.errors import AinetError
from ainet.node.node import Node
from ainet.timing import Timing

#: Layers lie on both devices, and a device that was refused comes back soon.
MEMORY = {"memory": "190MB"}


@contextlib.asynccontextmanager
async def started(folder, name, **settings):
    config = AinetConfig(data_dir=str(folder), name=name, **(SMALL | settings))
    node = Node(config, log=logging.getLogger(f"{name} in {folder.name}"))
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


def copy_of(folder, copy):
    """Copy a data directory that is in use: files that are about to replace others come and go."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".*"))


async def warnings(node):
    return (await node.call(status)).node.warnings


async def test_the_copy_is_refused_at_once_and_everybody_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with nodes(tmp_path, tab=MEMORY, desk=MEMORY) as found:
        tab, desk = found["tab"], found["desk"]
        before = await ask(tab, max_tokens=4, stages=2)
        link = tab.links.open_link(desk.id)
        copy_of(tmp_path / "desk", tmp_path / "copy")
        async with started(tmp_path / "copy", "desk") as copy:
            assert copy.id == desk.id
            await until(lambda: copy.identity.problem is not None, 5)
            for words in (copy.identity.problem, *await warnings(tab), *await warnings(desk)):
                assert "ainet up --new-identity" in words
                assert "has a copy of the other's data directory" in words
            assert len(await warnings(tab)) == len(await warnings(desk)) == 1
            assert (await copy.call(status)).node.certificate.problem == copy.identity.problem
            # The older one works on, over the very same link; the copy leaves everybody alone.
            assert tab.links.open_link(desk.id) is link
            told = len(caplog.records)
            for _ in range(3):
                again = await ask(tab, max_tokens=4, stages=2)
                assert (again.text, {part.node for part in again.placement}) == (before.text, {"tab", "desk"})
            await asyncio.sleep(3)  # is nothing dialled again?
            lines = [record.getMessage() for record in caplog.records[told:]]
            assert not [line for line in lines if "refused" in line or "restarted" in line or "identity" in line]
            assert not copy.links.links()
            # It can work alone, and says what is wrong to whoever asks for more.
            assert (await ask(copy, max_tokens=2)).tokens
            with pytest.raises(AinetError, match="--new-identity"):
                await copy.links.connect(tab.id)


async def test_the_copy_becomes_a_device_of_its_own(tmp_path):
    async with nodes(tmp_path, tab={}, desk={}) as found:
        tab, desk = found["tab"], found["desk"]
        copy_of(tmp_path / "tab", tmp_path / "copy")  # which holds the swarm's key
        daemon.begin_anew(tmp_path / "copy")
        assert not list((tmp_path / "copy" / "identity").glob("*.key"))
        async with started(tmp_path / "copy", "laptop") as copy:
            assert copy.id not in {tab.id, desk.id}
            assert [member.name for member in await copy.call(swarm.members)] == ["laptop"]
            assert copy.identity.swarm != tab.identity.swarm
            await copy.call(swarm.join, (await tab.call(swarm.invite)).ticket)
            assert not copy.identity.holds_ca
            await until(lambda: copy.links.open_link(desk.id) is not None, 10)
            assert await warnings(tab) == await warnings(desk) == await warnings(copy) == []


async def test_a_device_that_was_started_anew_is_no_twin(tmp_path):
    async with nodes(tmp_path, tab={}) as found:
        tab = found["tab"]
        async with started(tmp_path / "desk", "desk") as desk:
            await desk.call(swarm.join, (await tab.call(swarm.invite)).ticket)
        for _ in range(2):
            async with started(tmp_path / "desk", "desk") as desk:
                await until(lambda: tab.links.open_link(desk.id) is not None, 10)
                assert desk.identity.problem is None
        assert await warnings(tab) == []


async def test_a_link_that_says_nothing_any_more_is_no_twin(tmp_path):
    """The device was cut off without a word, and is there again as another run."""
    async with nodes(tmp_path, tab={}, desk={}) as found:
        tab, desk = found["tab"], found["desk"]
        old = tab.links.open_link(desk.id)
        with contextlib.suppress(AttributeError):
            desk.links.open_link(tab.id).transport.write = lambda _data: None  # what it says is lost
        copy_of(tmp_path / "desk", tmp_path / "copy")
        begun = time.monotonic()
        async with started(tmp_path / "copy", "desk"):
            await until(lambda: tab.links.open_link(desk.id) not in (None, old), 10)
            assert time.monotonic() - begun < 10
            assert old.closed.is_set()
            assert await warnings(tab) == []


def test_a_device_that_runs_keeps_its_identity(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon.runtime, "is_locked", lambda _: True)
    with pytest.raises(AinetError, match=r"ainet down"):
        daemon.begin_anew(tmp_path)


def test_times_of_twins():
    timing = Timing()
    assert timing.twin < timing.dial
    assert timing.twin_pause > timing.last_retry
