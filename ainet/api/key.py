"""The swarm's key."""

from __future__ import annotations

from dataclasses import dataclass

from ainet.api.limits import KeyText, Text
from ainet.api.verb import LONG, Verb


@dataclass(frozen=True)
class ExportRequest:
    """The passphrase with which the key is encrypted."""

    passphrase: Text


@dataclass(frozen=True)
class ExportedKey:
    """The encrypted key, as one line of text."""

    key: str


@dataclass(frozen=True)
class ImportRequest:
    """An exported key and what it is encrypted with."""

    key: KeyText
    passphrase: Text


@dataclass(frozen=True)
class KeyHolder:
    """The swarm of this device, and whether it holds the swarm's key."""

    swarm: str
    holds_ca: bool


export_key = Verb(
    "export_key", "write the swarm's key, encrypted", "POST", "key/export", ExportRequest, ExportedKey, LONG
)
import_key = Verb("import_key", "take over an exported key", "POST", "key/import", ImportRequest, KeyHolder, LONG)
