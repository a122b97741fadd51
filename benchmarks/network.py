"""How fast devices find each other, how fast documents converge, what a link costs: one run, one table, JSON beside it.

    python benchmarks/network.py [--quick] [--output FILE]

Everything runs on this machine: links on loopback, discovery between two network namespaces where root allows, a
thousand nodes in one process over links that only hand messages over. Throughput is compared with plain TLS in the same
run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import times
from idle import idle_cpu, idle_traffic
from pycrdt import Text
from simulation import simulated
from swarm import PLAN, Device, numbers, seen, swarm, until

from ainet.documents.exchange import Documents
from ainet.errors import PeerUnreachable
from ainet.identity.credentials import client_context, server_context
from ainet.links.request import Probe
from ainet.units import show_bytes
from ainet.wire.carrier import CHUNK

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MB = 1_000_000


# Streams


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything, then say so."""
    while await reader.read(CHUNK):
        pass
    writer.write(b"!")
    await writer.drain()
    writer.close()


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> float:
    """Send `size` bytes; return the seconds until the other end has read them."""
    block = random.Random(0).randbytes(CHUNK)
    begun = time.perf_counter()
    for _ in range(size // CHUNK):
        writer.write(block)
        await writer.drain()
    writer.write_eof()
    await reader.readexactly(1)
    writer.close()
    return time.perf_counter() - begun


async def tls_relay(service_port: int, size: int, credentials: Any) -> list[asyncio.Server]:
    """Return two relays for streams of `size` bytes, TCP to TLS and TLS to TCP: a forwarder's work over plain TLS."""

    async def relay(source: Streams, target: Streams, *, ends: bool) -> None:
        (reader, back), (answer, writer) = source, target
        left = size
        while left and (data := await reader.read(CHUNK)):
            writer.write(data)
            await writer.drain()
            left -= len(data)
        if ends:  # TLS has no half-closed connections
            writer.write_eof()
        back.write(await answer.readexactly(1))
        await back.drain()
        for one in (back, writer):
            one.close()

    async def far(*source: Any) -> None:
        await relay(source, await asyncio.open_connection("127.0.0.1", service_port, limit=CHUNK), ends=True)

    async def near(*source: Any) -> None:
        secure: dict[str, Any] = {"ssl": client_context(credentials), "server_hostname": ""}
        await relay(source, await asyncio.open_connection("127.0.0.1", port, limit=CHUNK, **secure), ends=False)

    behind = await asyncio.start_server(far, "127.0.0.1", 0, ssl=server_context(credentials), limit=CHUNK)
    port = behind.sockets[0].getsockname()[1]
    return [await asyncio.start_server(near, "127.0.0.1", 0, limit=CHUNK), behind]


async def throughput(size: int) -> dict[str, float]:
    """Return bytes a second through plain TLS and through a forwarder, both ends in this process; and round trips."""
    async with swarm(2) as (one, other):
        service = await asyncio.start_server(sink, "127.0.0.1", 0, limit=CHUNK)
        port = service.sockets[0].getsockname()[1]
        size -= size % CHUNK
        relays = await tls_relay(port, size, one.identity.local_credentials())
        one.links.channels.expose("127.0.0.1", port)
        found: dict[str, list[float]] = {"tls": [], "forwarder": []}
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", relays[0].sockets[0].getsockname()[1])
            found["tls"].append(size / await pour(reader, writer, size))
            host, local = await other.links.forwarders.forward(one.identity.id, port)
            reader, writer = await asyncio.open_connection(host, local)
            found["forwarder"].append(size / await pour(reader, writer, size))
        link = await other.links.connect(one.identity.id)
        trips = []
        for _ in range(500):
            begun = time.perf_counter()
            await link.request(Probe(64))
            trips.append(time.perf_counter() - begun)
        for server in (*relays, service):
            server.close()
        medians = {name: statistics.median(values) for name, values in found.items()}
        return {**medians, "ratio": medians["forwarder"] / medians["tls"], "round_trip_s": statistics.median(trips)}


# Documents


async def joining() -> float:
    """Return the seconds from the ticket to the first link."""
    seconds = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            one, other = [await Device(Path(folder) / name, name).start() for name in ("one", "other")]
            ticket = (await one.pairing.invite()).ticket
            begun = time.perf_counter()
            await other.pairing.join(ticket)
            await until(lambda one=one, other=other: one.links.open_link(other.identity.id))
            seconds.append(time.perf_counter() - begun)
            for device in (one, other):
                await device.stop()
    return statistics.median(seconds)


async def converging(edits: int) -> dict[str, float]:
    """Return how long two members take to be equal again after `edits` on each side apart, and bytes an edit."""
    async with swarm(2) as (one, other):
        for device in (one, other):
            await device.links.upkeep.stop()  # nobody dials before it is wanted
            device.links.table.close_all(PeerUnreachable("The benchmark parts them."))
        push = Documents._push
        Documents._push = nothing  # type: ignore[method-assign]
        try:
            for name, device in (("a", one), ("b", other)):
                document = device.documents.open(PLAN)
                text = document.doc.get(f"text of {name}", type=Text)
                for i in range(edits):
                    if i % 2:
                        text.insert(0, f"{name}{i} ")
                        if i % 100 == 99:  # as in a text that is revised again and again
                            del text[200 : len(text)]
                    else:
                        numbers(device.documents)[f"{name}{i % 50}"] = i
                document.compact()
        finally:
            Documents._push = push  # type: ignore[method-assign]
        await until(lambda: not one.documents._outgoing and not other.documents._outgoing)
        saved = sum(len(update) for update in one.documents.store.updates(PLAN))
        begun = time.perf_counter()
        link = await one.links.connect(other.identity.id)
        before = link.transport.received
        await until(lambda: seen(one) == seen(other))
        seconds = time.perf_counter() - begun
        return {
            "edits": edits,
            "seconds": seconds,
            "bytes_an_edit": (link.transport.received - before) / edits,
            "saved_bytes_an_edit": saved / edits,
        }


async def nothing(self: Documents, peer: str) -> None:
    """Push nothing: the members are parted."""
    self._outgoing.pop(peer, None)


async def spreading(n: int) -> float:
    """Return the seconds until an edit is known to `n` linked members."""
    async with swarm(n) as devices:
        seconds = []
        for i in range(5):
            begun = time.perf_counter()
            numbers(devices[0].documents)["edit"] = i + 1
            await until(lambda i=i: all(numbers(one.documents).get("edit") == i + 1 for one in devices))
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)


# Discovery


def discovery() -> dict[str, float] | None:
    """Return the seconds until two members on a network of their own are linked by mDNS alone; None without root."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return None
    names = (f"aib{os.getpid() % 10000}a", f"aib{os.getpid() % 10000}b")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        one, other = names
        subprocess.run(
            ["ip", "link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", other],
            check=True,
        )
        for i, name in enumerate(names, 1):
            for command in (f"addr add 10.78.0.{i}/24 dev eth0", "link set eth0 up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        asyncio.run(prepare(Path(folder)))
        seconds = []
        for _ in range(5):
            first = start_inside(names[0], Path(folder) / "one")
            assert first.stdout is not None
            first.stdout.readline()  # listens
            second = start_inside(names[1], Path(folder) / "other")
            assert second.stdout is not None
            second.stdout.readline()
            seconds.append(json.loads(second.stdout.readline())["seconds"])
            for process in (first, second):
                process.kill()
                process.communicate()
        return {"median_s": statistics.median(seconds), "max_s": max(seconds)}


async def prepare(folder: Path) -> None:
    """Make two devices members of one swarm that know no addresses of each other."""
    devices = [await Device(folder / name, name).start() for name in ("one", "other")]
    await devices[1].pairing.join((await devices[0].pairing.invite()).ticket)
    for device in devices:
        device.links.book.keep_only(set())
        await device.stop()
        (device.folder / "network.json").unlink()


def start_inside(namespace: str, folder: Path) -> subprocess.Popen[str]:
    """Run a device in a network namespace."""
    command = ["ip", "netns", "exec", namespace, sys.executable, __file__, "--device", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def be_found(folder: Path) -> None:
    """Start a device that is open to the network; print how long it took until it was linked."""
    device = await Device(folder, folder.name, lan=True).start()
    print("{}", flush=True)
    begun = time.perf_counter()
    await until(device.links.links)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    await asyncio.sleep(3600)


def measure_times() -> dict[str, float]:
    """Return what `times` measures."""
    return {
        "keepalive_s": asyncio.run(times.keepalive()),
        "left_after_s": asyncio.run(times.leaving()),
        **asyncio.run(times.silence()),
        "unloaded_after_s": times.idle_pipeline(),
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/network.json"))
    parser.add_argument("--device", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device:
        asyncio.run(be_found(options.device))
        return
    logging.disable(logging.WARNING)
    quick = options.quick
    found: dict[str, Any] = {}

    def measure(name: str, result: Any) -> None:
        found[name] = result
        print(f"{name}: {json.dumps(result)}", file=sys.stderr, flush=True)

    measure("discovery", discovery())
    measure("join_s", asyncio.run(joining()))
    measure("throughput", asyncio.run(throughput((50 if quick else 200) * MB)))
    measure(
        "convergence", [asyncio.run(converging(n)) for n in ((100, 1000) if quick else (100, 1000, 10_000, 100_000))]
    )
    measure("spreading", {str(n): asyncio.run(spreading(n)) for n in ((2, 4) if quick else (2, 5, 10))})
    measure("simulated", [asyncio.run(simulated(n)) for n in ((50,) if quick else (10, 100, 1000))])
    measure("times", measure_times())
    measure("idle_traffic", asyncio.run(idle_traffic(5 if quick else 20)))
    measure("idle_cpu", idle_cpu(5 if quick else 30))
    show(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nsaved as {options.output}")


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    speed = found["throughput"]
    there = found["discovery"]
    rows = [
        (
            "found by mDNS and linked",
            f"{there['median_s']:.2f} s (at most {there['max_s']:.2f} s)" if there else "no root",
        ),
        ("from ticket to link", f"{1000 * found['join_s']:.0f} ms"),
        ("plain TLS, one stream", f"{speed['tls'] / MB:.0f} MB/s"),
        ("forwarder, one stream", f"{speed['forwarder'] / MB:.0f} MB/s ({speed['ratio']:.2f} of plain TLS)"),
        ("request and reply on a link", f"{1000 * speed['round_trip_s']:.2f} ms"),
        *(
            (
                f"equal again after 2 × {one['edits']} edits",
                f"{one['seconds']:.2f} s ({one['bytes_an_edit']:.1f} B sent, {one['saved_bytes_an_edit']:.1f} B saved)",
            )
            for one in found["convergence"]
        ),
        *((f"an edit on all of {n} nodes", f"{1000 * seconds:.0f} ms") for n, seconds in found["spreading"].items()),
        *(
            (
                f"an edit on all of {one['nodes']} simulated nodes",
                f"{1000 * one['seconds']:.0f} ms ({one['messages_a_node']:.1f} messages a node)",
            )
            for one in found["simulated"]
        ),
        ("keep-alive of a link", f"{found['times']['keepalive_s']:.2f} s (aim 1 s)"),
        ("a member that left is unreachable after", f"{1000 * found['times']['left_after_s']:.0f} ms (aim: at once)"),
        ("a silent member is unreachable after", f"{found['times']['unreachable_after_s']:.1f} s (aim 10 s)"),
        ("channels without a link end after", f"{found['times']['channels_end_after_s']:.1f} s (aim 30 s)"),
        (
            f"an idle model is unloaded after {times.IDLE_SECONDS:g} s",
            f"{found['times']['unloaded_after_s']:.1f} s (looked for every 5 s)",
        ),
        ("an idle link", f"{show_bytes(found['idle_traffic'])}/s"),
        ("an idle node, server", f"{100 * found['idle_cpu']['server']:.2f} % of a core"),
        ("an idle node, all processes", f"{100 * found['idle_cpu']['all_processes']:.2f} % of a core"),
    ]
    print()
    for name, value in rows:
        print(f"{name:<42}{value}")


if __name__ == "__main__":
    main()
