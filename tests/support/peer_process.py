"""A member in a process of its own: ``peer_process.py FOLDER TICKET``; ends when standard input does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from support.swarms import Device


async def main(folder: str, ticket: str) -> None:
    device = await Device(Path(folder), "other", link_keepalive=0.1, link_timeout=1.0).start()
    await device.pairing.join(ticket)
    print(device.id, flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await device.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
