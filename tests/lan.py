"""A local network of the tests' own: devices in network namespaces, joined by a switch, with cables that can be cut.

Needs root and Debian's iproute2; nothing of it is reachable from outside, or reaches outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from nodes import family_of

from ainet import runtime
from ainet.config import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil

POSSIBLE = os.geteuid() == 0 and shutil.which("ip") is not None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return what `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return found


class Lan:
    """Namespaces on one switch, with the addresses 10.77.0.1, 10.77.0.2 and so on, in the order of `names`."""

    def __init__(self, prefix: str, *names: str) -> None:
        self._prefix = prefix
        self.names = names
        self.hosts = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}

    def __enter__(self) -> Lan:
        self._namespace("switch")
        # Without a querier, a snooping bridge forgets multicast groups after some minutes.
        bridge = ("link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        self.ip("switch", *bridge)
        self.ip("switch", "link", "set", "br0", "up")
        for name in self.names:
            self._namespace(name)
            self._plug(name, self.hosts[name])
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.names, "switch"):
            subprocess.run(["ip", "netns", "del", self.namespace(name)], check=False, capture_output=True)

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def ip(self, name: str, *arguments: str) -> None:
        ip("-n", self.namespace(name), *arguments)

    def inside(self, name: str, *command: str) -> list[str]:
        """Return the command that runs `command` on the device."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def cut(self, name: str) -> None:
        """Pull the device's cable."""
        self.ip("switch", "link", "set", f"p-{name}"[:15], "down")

    def heal(self, name: str) -> None:
        """Put it in again."""
        self.ip("switch", "link", "set", f"p-{name}"[:15], "up")

    def hide(self, one: str, other: str) -> None:
        """Let nothing pass between two devices; both go on seeing everybody else, and each other's multicasts."""
        for here, there in ((one, other), (other, one)):
            self.ip(here, "route", "replace", "blackhole", f"{self.hosts[there]}/32")

    def show(self, one: str, other: str) -> None:
        """Take `hide` back."""
        for here, there in ((one, other), (other, one)):
            self.ip(here, "route", "del", "blackhole", f"{self.hosts[there]}/32")

    def move(self, name: str, host: str) -> None:
        """Give the device another address, as a DHCP server does after a while."""
        self.ip(name, "addr", "flush", "dev", "eth0")
        self.ip(name, "addr", "add", f"{host}/24", "dev", "eth0")
        self.hosts[name] = host

    def _namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace(name)], check=False, capture_output=True)
        ip("netns", "add", self.namespace(name))
        self.ip(name, "link", "set", "lo", "up")

    def _plug(self, name: str, host: str) -> None:
        port, switch = f"p-{name}"[:15], self.namespace("switch")
        ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", self.namespace(name))
        self.ip("switch", "link", "set", port, "master", "br0")
        self.ip("switch", "link", "set", port, "up")
        self.ip(name, "addr", "add", f"{host}/24", "dev", "eth0")
        self.ip(name, "link", "set", "eth0", "up")


class LanNodes:
    """Real nodes, one on each device of a `Lan`."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder

    def start(self, name: str, *options: str, **settings: Any) -> None:
        """Start a node that is open to the network."""
        data_dir = self.folder / name
        data_dir.mkdir(mode=0o700, exist_ok=True)
        if settings:
            (data_dir / CONFIG_FILE).write_text(json.dumps({"AinetConfig": settings}))
        self.run(name, "up", "--name", name, "--lan", *options)

    def stop(self, name: str) -> None:
        self.run(name, "down")

    def run(self, name: str, *arguments: str) -> str:
        """Run the ``ainet`` command on the device; return what it prints."""
        done = self.python(name, "-m", "ainet", *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def json(self, name: str, *arguments: str) -> Any:
        """Run the ``ainet`` command on the device; return its JSON."""
        return json.loads(self.run(name, *arguments, "--json"))

    def python(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"AINET_DATA_DIR": str(self.folder / name)}
        command = self.lan.inside(name, sys.executable, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)

    def join(self, name: str, other: str) -> None:
        self.run(name, "join", self.json(other, "invite")["ticket"])

    def peer(self, name: str, other: str) -> dict[str, Any]:
        """Return what the device knows of the other one."""
        return next((peer for peer in self.json(name, "peers") if peer["name"] == other), {"reached": "unknown"})

    def reached(self, name: str, other: str) -> str:
        return str(self.peer(name, other)["reached"])

    def family(self, name: str) -> list[psutil.Process]:
        running = runtime.find(self.folder / name)
        assert running is not None
        return family_of(running)

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*/logs/*.log"))


@contextlib.contextmanager
def lan_nodes(folder: Path, *names: str, **settings: Any) -> Iterator[LanNodes]:
    """Run a node on each of several devices; the others are members of the first one's swarm."""
    with Lan(f"ai{os.getpid() % 10000}", *names) as lan:
        nodes = LanNodes(lan, folder)
        try:
            for name in names:
                nodes.start(name, **settings)
            for name in names[1:]:
                nodes.join(name, names[0])
            yield nodes
        finally:
            for name in names:
                nodes.python(name, "-m", "ainet", "down")
