"""Whole nodes in the process of the test, and questions for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ainet.api import contacts, swarm
from ainet.api.generate import Done, GenerateRequest, Message
from ainet.config import AinetConfig
from ainet.node.node import Node
from ainet.timing import TIMING

SMALL = {"stage_threads": 1, "context_window": 512, "threads": 1}
ENDLESS = "root ::= [a-z ] root"
#: Continued as it is, without chance, this goes on for ever; no grammar makes it slow.
ON_AND_ON = "a b c d e f g " * 19 + "a b c d e f g"


@contextlib.asynccontextmanager
async def started(tmp_path, timing, settings):
    """Real nodes by name, each with its own settings, which do not know each other."""
    found: dict[str, Node] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, values in settings.items():
            config = AinetConfig(data_dir=str(tmp_path / name), name=name, **(SMALL | values))
            node = Node(config, log=logging.getLogger(name), timing=timing)
            stack.push_async_callback(node.stop)
            await node.start()
            found[name] = node
        yield found


@contextlib.asynccontextmanager
async def nodes(tmp_path, timing=TIMING, **settings):
    """Real nodes by name, each with its own settings; the others are members of the first one's swarm."""
    async with started(tmp_path, timing, settings) as found:
        first, *others = found.values()
        for node in others:
            await node.call(swarm.join, (await first.call(swarm.invite)).ticket)
        async with asyncio.timeout(20):
            for node in found.values():
                while not all(member.connected for member in await node.call(swarm.members)):
                    await asyncio.sleep(0.05)
        yield found


@contextlib.asynccontextmanager
async def owners(tmp_path, timing=TIMING, **settings):
    """Real nodes of different owners by name: the others are contacts of the first one, and know nobody else."""
    async with started(tmp_path, timing, settings) as found:
        first, *others = found.values()
        for node in others:
            await node.call(contacts.accept, (await first.call(contacts.introduce)).ticket)
            await until_contacts(node)
        await until_contacts(first)
        yield found


async def until_contacts(node):
    """Wait until a node is linked with all of its contacts."""
    async with asyncio.timeout(20):
        while not all(one.connected for one in await node.call(contacts.contacts)):
            await asyncio.sleep(0.02)


def question(text="Hello", **options):
    messages = text if isinstance(text, list) else [Message("user", text)]
    return GenerateRequest(messages=messages, **({"temperature": 0.0, "max_tokens": 4} | options))


async def ask(node, **options):
    events = [event async for event in node.generate(question(**options))]
    assert isinstance(events[-1], Done)
    return events[-1]
