"""Dask servers as a node needs them: lean, silent, and listening for nothing but TLS.

Only child processes import this module.
"""

from __future__ import annotations

from typing import Any

import dask
from distributed import Scheduler, Worker

from ainet.timing import TIMING

#: No HTTP pages, no profiler, no statistics, no limits of memory: the node accounts for memory itself, and every
#: wakeup of Python in a worker takes the interpreter lock from the decode thread of a stage.
LEAN: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.preload": [],
    "distributed.nanny.preload": [],
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.log-length": 100,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.log-length": 2,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.diagnostics.nvml": False,
}
#: What a stage needs.
WORKER_MODULES = ["ainet.stages.actor", "ainet.stages.stage", "ainet.stages.session_server"]
#: The node's own cluster runs actors on workers that are chosen by address: there is nothing to balance. Its workers
#: import llama.cpp before they are needed, so that a stage is loaded without that wait.
ACTORS_ONLY: dict[str, Any] = {
    "distributed.worker.preload": WORKER_MODULES,
    "distributed.worker.preload-argv": [[] for _ in WORKER_MODULES],
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class TLSOnly:
    """Takes the HTTP server from a Dask server: it would answer anybody, without TLS."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start nothing."""


class LeanScheduler(TLSOnly, Scheduler):  # type: ignore[misc]
    """A scheduler without an HTTP server."""


class ActorScheduler(LeanScheduler):
    """The scheduler of a node's own cluster, which never ends by itself, and whose workers have little to report."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("idle-timeout", "no-workers-timeout"):
            del self.periodic_callbacks[name]

    def heartbeat_worker(self, **report: Any) -> dict[str, Any]:
        """Take a worker's report, and say when the next one is due: a lost worker is noticed by its connection."""
        answer: dict[str, Any] = super().heartbeat_worker(**report)
        if "heartbeat-interval" in answer:
            answer["heartbeat-interval"] = TIMING.heartbeat
        return answer

    def remove_client(self, client: str, stimulus_id: str | None = None) -> None:
        """Forget a client, before it is told of that itself: its connection may have ended before its goodbye came."""
        self.unsubscribe_topic("all", client)
        super().remove_client(client, stimulus_id)


class LeanWorker(TLSOnly, Worker):  # type: ignore[misc]
    """A worker without an HTTP server."""


def configure(run_dir: str, *settings: dict[str, Any]) -> None:
    """Set Dask's configuration for this process and those that its Nannies start; files of the user do not count."""
    dask.config.refresh(paths=[], env={})
    dask.config.set({"temporary-directory": run_dir})
    for values in (LEAN, *settings):
        dask.config.set(values)
