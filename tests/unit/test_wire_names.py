"""What travels between devices of different versions, and what is kept, has the names that it had.

Where a change is wanted, the protocol's version or a migration belongs to it; then the golden file is written anew by
`python tests/unit/test_wire_names.py`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.wire import import_everything, shape, struct_shape, subclasses

from ainet.api import swarm
from ainet.api.generate import Event, GenerateRequest
from ainet.api.news import News
from ainet.api.verb import all_verbs
from ainet.config import AinetConfig
from ainet.daemon.runtime import Runtime
from ainet.documents.exchange import SHARED
from ainet.economy import receipt as receipts
from ainet.economy import voucher as vouchers
from ainet.economy.accounts import LOG as ACCOUNTS
from ainet.economy.accounts import KeptAccount
from ainet.economy.checks import Calibration
from ainet.economy.demand import Missed
from ainet.economy.ledger_schema import SCHEMA as LEDGER
from ainet.economy.terms import Terms
from ainet.economy.usage import SCHEMA as USAGE
from ainet.economy.wants import Want
from ainet.errors import AinetError
from ainet.executor.directory import LOG as PLACEMENTS
from ainet.executor.directory import AnnouncedPipeline
from ainet.identity.contacts import Contact
from ainet.identity.roster import SignedRoster
from ainet.identity.swarm import Swarm
from ainet.links import frames as link_frames
from ainet.links.address_book import _Book
from ainet.links.request import Request
from ainet.node.kept_prompts import FILE, Untold
from ainet.pairing.pairing import JoinBody
from ainet.pairing.tickets import Ticket
from ainet.replication.replication import FEED, HEAD
from ainet.resources.monitor import _Speed
from ainet.server.generate import GenerateHandler
from ainet.server.verbs import routes
from ainet.server.watch import WatchHandler
from ainet.sharing import shares
from ainet.sharing.shared_notebook import Remembered
from ainet.stages.protocol import generation, segments
from ainet.stages.ring import frames
from ainet.storage.records import SourceContent
from ainet.swarm import facts, leases
from ainet.swarm.feed import Body, Entry
from ainet.swarm.settings import SETTINGS

GOLDEN = Path(__file__).parents[1] / "golden" / "wire.json"


def requests() -> dict[str, Any]:
    """Return the requests between nodes by their names, with what answers them."""
    kinds = {kind.__name__: kind for kind in subclasses(Request)}
    assert len(kinds) == len(subclasses(Request)), "two requests have one name"
    return {
        name: {"asks": struct_shape(kind), "progress": shape(kind.progress), "reply": shape(kind.reply)}
        for name, kind in kinds.items()
    }


def methods() -> dict[str, list[str]]:
    """Return the HTTP methods that are answered at each address."""
    streams = {GenerateHandler: ["post"], WatchHandler: ["get"]}
    streamed = {pattern: streams[handler] for pattern, handler, _ in routes() if handler in streams}
    return streamed | {pattern: sorted(map(str.lower, given["verbs"])) for pattern, _, given in routes() if given}


def described() -> dict[str, Any]:
    """Return all names that another version of ainet, or another program, reads."""
    import_everything()
    return {
        "requests": requests(),
        "frames of a link": {
            kind.__name__: struct_shape(kind)
            for kind in vars(link_frames).values()
            if isinstance(kind, type) and getattr(kind, "__struct_config__", None) and kind.__struct_config__.tag
        },
        "protocol": link_frames.PROTOCOL,
        "frames of a ring": {kind.name: kind.value for kind in frames.Kind},
        "header and segment of a ring": [frames.HEADER.format, segments.SEGMENT_BYTES],
        "what a requester says": shape(generation.Command),
        "what a requester hears": shape(generation.Event),
        "errors": {kind.code: kind.status for kind in sorted(subclasses(AinetError), key=lambda kind: kind.code)},
        "routes": methods(),
        "verbs": {
            name: {"takes": shape(verb.request), "gives": shape(verb.reply)} for name, verb in all_verbs().items()
        },
        "events of an answer": shape(Event),
        "news": shape(News),
        "body of generate": shape(GenerateRequest),
        "documents": [SETTINGS, SHARED, shares.NOTEBOOK],
        "signed logs": {
            facts.CAPABILITIES: {
                "device": shape(swarm.Device),
                "models": shape(list[swarm.HeldModel]),
                "stages": shape(list[swarm.HeldStage]),
                "load": shape(swarm.Load),
            },
            leases.LOG: shape(leases.Lease),
            facts.GIFTS: {facts.STAGES: shape(swarm.Gift), facts.WORKERS: shape(swarm.Gift)},
            PLACEMENTS: shape(AnnouncedPipeline),
            FEED: {HEAD: "int"},
            shares.LOG: shape(shares.Share),
            ACCOUNTS: shape(KeptAccount),
        },
        "document for other devices": shape(SourceContent),
        "entry of a log": {"entry": shape(Entry), "body": shape(Body)},
        "ticket": {"ticket": shape(Ticket), "join": shape(JoinBody)},
        "configuration": sorted(AinetConfig.class_own_traits(config=True)),
        "files": {
            "identity: swarm": shape(Swarm),
            "identity: contacts": shape(list[Contact]),
            "roster": shape(SignedRoster),
            "network.json": shape(_Book),
            "memory_speed.json": shape(_Speed),
            "node.json": [field.name for field in dataclasses.fields(Runtime)],
            "shared_notebooks": shape(Remembered),
            FILE: shape(Untold),
            "selling.json": shape(Terms),
            "wants.json": shape(Want),
            "demand.json": shape(Missed),
            "calibrations.json": shape(Calibration),
        },
        "economy": {
            "voucher": shape(vouchers.Body),
            "receipt": shape(receipts.ReceiptBody),
            "signed": [shape(vouchers.Voucher), shape(receipts.Receipt)],
            "domains": [vouchers.DOMAIN.decode(), receipts.DOMAIN.decode()],
        },
        "columns": {
            "usage.sqlite": sorted(re.findall(r"(\w+) (?:TEXT|INTEGER)", USAGE)),
            "ledger.sqlite": sorted(re.findall(r"(\w+) (?:TEXT|INTEGER|BLOB)", LEDGER)),
        },
    }


@pytest.mark.parametrize("part", described())
def test_what_travels_and_what_is_kept_has_the_names_that_it_had(part):
    assert json.loads(json.dumps(described()[part])) == json.loads(GOLDEN.read_text())[part]


def write(names: dict[str, Any]) -> None:
    """Write the golden file: one line a name, so that a difference shows which one has changed."""
    parts = []
    for part, value in names.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value[key])}" for key in sorted(value))
            parts.append(f" {json.dumps(part)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {json.dumps(part)}: {json.dumps(value)}")
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    write(described())
