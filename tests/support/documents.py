"""Documents of devices, and what is in the one that the tests edit."""

from __future__ import annotations

import contextlib

from pycrdt import Map

from ainet.documents.exchange import SIZES, Documents

PLAN = "shared/plan"


@contextlib.asynccontextmanager
async def sharing(*several, sizes=SIZES):
    """Give each device its documents."""
    opened = [
        Documents(device.links, device.folder / "documents.sqlite", device.log, sizes=sizes) for device in several
    ]
    try:
        yield opened
    finally:
        for one in opened:
            await one.stop()


def plan(documents):
    return documents.open(PLAN).doc.get("map", type=Map)


def says(documents):
    return plan(documents).to_py() or {}
