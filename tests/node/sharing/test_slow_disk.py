"""A disk that hangs keeps nobody waiting: what ainet notes is written in threads, never on the server's event loop."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import httpx
import pytest
from support.desks import code, desks, shared
from support.servers import until
from support.workshop import LOG

import ainet
from ainet.links.frames import Hint
from ainet.resources.speeds import Speeds

PACKAGE = str(Path(ainet.__file__).parent)

pytestmark = pytest.mark.usefixtures("own_jupyter")


class HangingDisk:
    """Takes nothing that ainet writes until it is released; tells whether the event loop's thread was made to wait."""

    def __init__(self, monkeypatch) -> None:
        self._loop = threading.get_ident()
        self._released = threading.Event()
        self.hung = 0
        self.blocked: list[str] = []
        for name in ("fsync", "replace", "fdatasync"):
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def release(self) -> None:
        self._released.set()

    def _wrapped(self, real):
        def hanging(*arguments, **options):
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename.endswith("pathlib.py"):
                frame = frame.f_back
            if frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
                if threading.get_ident() == self._loop:
                    self.blocked.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                else:
                    self.hung += 1
                    self._released.wait(30)
            return real(*arguments, **options)

        return hanging


async def test_a_disk_that_hangs_does_not_keep_the_server_from_answering(tmp_path, monkeypatch):
    async with desks(tmp_path) as (ada, bob):
        disk = HangingDisk(monkeypatch)
        try:
            await shared(ada, bob)
            links = ada.node.links
            links.table.learn((Hint(bob.node.id, "192.0.2.7:4711", links.identity.now() + 5),))
            speeds = Speeds(tmp_path, LOG)
            speeds.note("model", 1e9)
            await until(lambda: disk.hung >= 3)
            async with httpx.AsyncClient(base_url=ada.served.url, headers=ada.served.headers, trust_env=False) as http:
                answered = await http.get("ainet/api/status", timeout=10)
            assert answered.status_code == 200
            assert not (tmp_path / "model_speeds.json").exists()  # it hangs still
        finally:
            disk.release()
        await speeds.flush()
        assert (tmp_path / "model_speeds.json").exists()
        ada.write("plan.ipynb", code("a", "changed"))
        await until(lambda: bob.sources("plan.ipynb")[:1] == ["changed"], 20)
        assert disk.blocked == []
