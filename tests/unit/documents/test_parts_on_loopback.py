"""Five devices on loopback that part into two and three, and meet again through one pair of them."""

from __future__ import annotations

import contextlib

from support.documents import plan, says, sharing
from support.swarms import devices, until

from ainet.errors import PeerUnreachable
from ainet.swarm.feeds import Feeds

NAMES = ("ada", "bob", "carl", "dora", "emil")
NEAR, FAR = NAMES[:2], NAMES[2:]


@contextlib.asynccontextmanager
async def swarm(tmp_path):
    """Yield by name: each device, its documents and its logs."""
    async with devices(tmp_path, *NAMES) as found, sharing(*found) as documents:
        logs = [Feeds(device.links, device.folder / "logs.sqlite", device.log) for device in found]
        for device in found:
            for other in found:
                if device.id < other.id:
                    await device.links.connect(other.id)
        yield {name: parts for name, *parts in zip(NAMES, found, documents, logs, strict=True)}
        for log in logs:
            await log.stop()


async def part(found):
    """Cut every link between the two parts."""
    near = {found[name][0].id for name in NEAR}
    for device, *_ in found.values():
        await device.links.upkeep.stop()
    for device, *_ in found.values():
        for link in device.links.links():
            if (device.id in near) != (link.peer_id in near):
                link.close(PeerUnreachable("The cable is pulled."))
    await until(lambda: all(len(found[name][0].links.links()) == 1 for name in NEAR))


async def test_both_parts_edit_and_all_are_equal_when_two_of_them_meet(tmp_path):
    async with swarm(tmp_path) as found:
        await part(found)
        for name, (_, documents, logs) in found.items():
            plan(documents)[name] = "meanwhile"
            plan(documents)["both"] = "near" if name in NEAR else "far"
            logs.publish("capabilities", {"name": name})
        for group in (NEAR, FAR):
            for name in group:
                await until(lambda name=name, group=group: set(says(found[name][1])) == {*group, "both"})
        await found["bob"][0].links.connect(found["dora"][0].id)
        first = found["ada"][1]
        for name in NAMES:
            await until(lambda name=name: set(says(found[name][1])) == {*NAMES, "both"})
            assert says(found[name][1]) == says(first)
            for other in NAMES:
                node = found[other][0].id
                await until(
                    lambda name=name, node=node, other=other: (
                        found[name][2].get(node, "capabilities", "name", str) == other
                    )
                )
