"""A local network of the tests' own: devices in network namespaces, joined by a switch, with cables that can be cut.

Needs root and Debian's iproute2; nothing of it is reachable from outside, or reaches outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ainet.api.swarm import Peer
from ainet.client import shared_variables
from ainet.client.client import NodeClient
from ainet.config import CONFIG_FILE
from ainet.daemon import runtime
from support.nodes import family_of
from support.reaper import note_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import psutil

TAP = Path("/dev/net/tun")
NAMESPACES = Path("/var/run/netns")
CLONE_NEWNET = 0x40000000
T = TypeVar("T")
UNKNOWN = Peer(id="", name="", kind="stranger", reached="no", addresses=[])
POSSIBLE = os.geteuid() == 0 and shutil.which("ip") is not None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def enter(namespace: str) -> None:
    """Give the calling thread another network."""
    with (NAMESPACES / namespace).open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the namespace {namespace} cannot be entered")


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return what `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return found


class Lan:
    """Namespaces on one switch, with the addresses 10.77.0.1, 10.77.0.2 and so on, in the order of `names`.

    Those in `far` are on a switch of their own, and the cable between the two takes `delay` seconds for everything, and
    loses a share `loss` of it, where the kernel has TAP devices. With `apart`, everything takes that long (s) from any
    device to any other one.
    """

    def __init__(
        self,
        prefix: str,
        *names: str,
        far: Sequence[str] = (),
        delay: float = 0.0,
        loss: float = 0.0,
        apart: float = 0.0,
    ) -> None:
        self._prefix = prefix
        self.names = names
        self.far = far
        self._delay, self._loss = delay, loss
        self._apart = apart
        self._cables: list[subprocess.Popen[str]] = []
        self.hosts = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}

    def __enter__(self) -> Lan:
        self._namespace("switch")
        self._bridge("br0")
        if self.far:
            self._bridge("br1")
            self._join("trunk", ("br0", "br1"), self._delay, self._loss)
        for name in self.names:
            self._namespace(name)
            self._plug(name, self.hosts[name])
        return self

    def __exit__(self, *_: object) -> None:
        for cable in self._cables:
            cable.terminate()
            cable.communicate()
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

    def part(self) -> None:
        """Cut the cable between the two switches."""
        self.ip("switch", "link", "set", "trunk0", "down")

    def rejoin(self) -> None:
        """Take `part` back."""
        self.ip("switch", "link", "set", "trunk0", "up")

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
        note_namespace(self.namespace(name))
        ip("netns", "add", self.namespace(name))
        self.ip(name, "link", "set", "lo", "up")

    def _bridge(self, name: str) -> None:
        # Without a querier, a snooping bridge forgets multicast groups after some minutes.
        self.ip("switch", "link", "add", name, "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        self.ip("switch", "link", "set", name, "up")

    def _join(self, name: str, bridges: tuple[str, str], delay: float, loss: float) -> None:
        """Lay a cable between two bridges."""
        ends = f"{name}0", f"{name}1"
        if TAP.exists() and (delay or loss):
            script = Path(__file__).with_name("slow_cable.py")
            command = self.inside("switch", sys.executable, str(script), *ends, str(delay), str(loss))
            cable = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._cables.append(cable)
            assert cable.stdout is not None
            assert cable.stdout.readline() == "ready\n"
        else:
            self.ip("switch", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, bridge in zip(ends, bridges, strict=True):
            self.ip("switch", "link", "set", end, "master", bridge)
            self.ip("switch", "link", "set", end, "up")

    def _plug(self, name: str, host: str) -> None:
        port, switch = f"p-{name}"[:15], self.namespace("switch")
        ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", self.namespace(name))
        bridge = "br1" if name in self.far else "br0"
        if self._apart:  # every way leads through two of these cables
            own = f"b-{name}"[:15]
            self._bridge(own)
            self._join(f"t-{name}"[:14], (bridge, own), self._apart / 2, 0.0)
            bridge = own
        self.ip("switch", "link", "set", port, "master", bridge)
        self.ip("switch", "link", "set", port, "up")
        self.ip(name, "addr", "add", f"{host}/24", "dev", "eth0")
        self.ip(name, "link", "set", "eth0", "up")


class LanNodes:
    """Real nodes, one on each device of a `Lan`."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.folder = folder
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def within(self, name: str, work: Callable[[], T]) -> T:
        """Do `work` in a thread of this process whose network, like that of the threads it starts, is the device's."""
        if name not in self._threads:
            namespace = self.lan.namespace(name)
            self._threads[name] = ThreadPoolExecutor(1, initializer=enter, initargs=(namespace,))
        return self._threads[name].submit(work).result()

    def client(self, name: str, call: Callable[[NodeClient], T]) -> T:
        """Return what `call` makes of a client of the device's node: quicker than the command."""

        def work() -> T:
            with NodeClient.running(self.folder / name) as node:
                return call(node)

        return self.within(name, work)

    def shared(self, name: str, variable: str, kind: shared_variables.Kind = "dict") -> Any:
        """Return a shared variable of the device's node, as a kernel there has it."""
        return self.within(name, lambda: shared_variables.open_shared(self.folder / name, variable, kind))

    def close(self) -> None:
        shared_variables.close_all()
        for threads in self._threads.values():
            threads.shutdown()

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
        ticket = self.client(other, lambda node: node.invite().ticket)
        self.client(name, lambda node: node.join(ticket))

    def peers(self, name: str) -> list[Peer]:
        return self.client(name, lambda node: node.peers())

    def peer(self, name: str, other: str) -> Peer:
        """Return what the device knows of the other one."""
        return next((peer for peer in self.peers(name) if peer.name == other), UNKNOWN)

    def reached(self, name: str, other: str) -> str:
        return self.peer(name, other).reached

    def family(self, name: str) -> list[psutil.Process]:
        running = runtime.find(self.folder / name)
        assert running is not None
        return family_of(running)

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*/logs/*.log"))


@contextlib.contextmanager
def lan_nodes(
    folder: Path,
    *names: str,
    cable: Mapping[str, Any] | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Iterator[LanNodes]:
    """Run a node on each of several devices; the others are members of the first one's swarm.

    `cable` is what `Lan` is given besides, `own` the further settings of single devices.
    """
    with Lan(f"ai{os.getpid() % 10000}", *names, **(cable or {})) as lan:
        nodes = LanNodes(lan, folder)
        try:
            with ThreadPoolExecutor(2) as starting:
                list(starting.map(lambda name: nodes.start(name, **settings, **(own or {}).get(name, {})), names))
            for name in names[1:]:
                nodes.join(name, names[0])
            yield nodes
        finally:
            nodes.close()
            with ThreadPoolExecutor(2) as stopping:
                list(stopping.map(lambda name: nodes.python(name, "-m", "ainet", "down"), names))
