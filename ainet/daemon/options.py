"""The owner's options: checked, and kept in the data directory for the next start."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from traitlets import TraitError

from ainet.config import CONFIG_FILE, AinetConfig
from ainet.errors import UsageError
from ainet.files import write_private
from ainet.identity.roster import check_name
from ainet.wire.address import is_wildcard, outward_host, split_address

if TYPE_CHECKING:
    from pathlib import Path


def keep_options(data_dir: Path, options: dict[str, Any]) -> None:
    """Check `options` and write them to the data directory's configuration, next to those that were kept before.

    Raises
    ------
    UsageError
        An option has an impossible value; nothing was written.
    """
    check_options(options)
    AinetConfig(data_dir=str(data_dir)).make_data_dir()
    if not options:
        return
    path = data_dir / CONFIG_FILE
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept.setdefault("AinetConfig", {}).update(options)
    except (ValueError, AttributeError) as exc:
        raise UsageError(f"{path} is not a JSON configuration: {exc}. Correct it or delete it.") from exc
    write_private(path, json.dumps(kept, indent=2).encode())


def check_options(options: dict[str, Any]) -> None:
    """Check what can be checked before a node starts.

    Parameters
    ----------
    options
        Values of `AinetConfig` traits.

    Raises
    ------
    UsageError
        One is impossible.
    """
    try:
        AinetConfig(**options)
    except TraitError as exc:
        raise UsageError(str(exc)) from exc
    if "name" in options:
        check_name(options["name"])
    if "listen" in options:
        _check_listen(options["listen"])


def _check_listen(text: str) -> None:
    """Raise `UsageError` unless this device can listen on the address; whether its port is free changes."""
    advice = f"Name an address of this device, such as {outward_host()}, or 0.0.0.0 for all of them."
    if not text.strip():
        raise UsageError(f"The address to listen on is empty. {advice}")
    host, _ = split_address(text, 0)
    if is_wildcard(host):
        return
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, where = found[0]
        with socket.socket(family, kind) as probe:
            probe.bind(where)
    except (OSError, UnicodeError) as exc:
        raise UsageError(
            f"This device cannot listen on {host}: {getattr(exc, 'strerror', None) or exc}. {advice}"
        ) from exc
