"""A node of its own for one measurement."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.client.client import NodeClient
from ainet.config import CONFIG_FILE
from ainet.daemon import daemon

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def desk(**settings: Any) -> Iterator[NodeClient]:
    """Run a node whose stages have one thread each, with these settings besides, and give its client."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"stage_threads": 1, "context_window": 1024, **settings}
        (Path(folder) / CONFIG_FILE).write_text(json.dumps({"AinetConfig": values}))
        running, _ = daemon.up(Path(folder), {"name": "desk"})
        try:
            with NodeClient(running.url, running.token) as client:
                yield client
        finally:
            daemon.down(Path(folder))
