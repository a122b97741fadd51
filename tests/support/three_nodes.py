"""Three real Jupyter servers on this machine, joined by tickets; only the first sees model files."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from ainet.client.client import NodeClient
from ainet.config import CONFIG_FILE
from ainet.daemon import daemon
from support.nodes import family_of
from support.smollm2 import CHUNK, N_CTX

if TYPE_CHECKING:
    import psutil

NAMES = ("desk", "laptop", "tablet")


class Swarm:
    """Three nodes, their clients and their folders."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.nodes: dict[str, NodeClient] = {}

    def start(self, name: str, **settings) -> NodeClient:
        data_dir = self.folder / name
        data_dir.mkdir(mode=0o700, exist_ok=True)
        values = {
            "discover_models": name == NAMES[0],
            "stage_threads": 1,
            "context_window": N_CTX,
            "chunk": CHUNK,
            "threads": 1,
            "memory": "1GB",
            **settings,
        }
        (data_dir / CONFIG_FILE).write_text(json.dumps({"AinetConfig": values}))
        running, _ = daemon.up(data_dir, {"name": name})
        self.nodes[name] = NodeClient(running.url, running.token)
        return self.nodes[name]

    def down(self, name: str) -> None:
        self.nodes.pop(name).close()
        daemon.down(self.folder / name)

    def family(self, name: str) -> list[psutil.Process]:
        from ainet.daemon import runtime

        return family_of(runtime.find(self.folder / name))

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*/logs/*.log"))

    def join(self, name: str) -> dict:
        return self.nodes[name].join(self.nodes[NAMES[0]].invite().ticket)

    def wait_until_connected(self, name: str, n: int) -> None:
        wait_for(lambda: sum(m.connected for m in self.nodes[name].status().members) == n)


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
