"""Starting, stopping and looking at the node."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ainet.api import node
from ainet.cli.command import Command, Options, data_dir, print_json, verb_command
from ainet.cli.commands.swarm import member_state
from ainet.cli.parser import count, only_json
from ainet.cli.tables import table
from ainet.cli.terminal import say
from ainet.client.answer import layer_range, placement_words
from ainet.units import show_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from ainet.api.node import Caps, CertificateState, NodeStatus, WorkerState


def _up_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what the owner decides for this node."""
    parser.description = "Start the node. Options are kept for the next start."
    parser.add_argument("--name", help="name of this device in the swarm")
    parser.add_argument("--listen", metavar="ADDR", help="address on which members may connect (default: 127.0.0.1)")
    parser.add_argument(
        "--lan",
        action=argparse.BooleanOptionalAction,
        help="accept members from the local networks, and look for them there",
    )
    parser.add_argument("--memory", metavar="SIZE", help="most memory that stages may use, such as 4GB")
    parser.add_argument("--threads", metavar="N", type=count, help="most threads that stages may use")
    parser.add_argument("--disk", metavar="SIZE", help="most disk space for tensors and shards")
    boolean = argparse.BooleanOptionalAction
    parser.add_argument("--gpu", action=boolean, help="put layers on a GPU that llama.cpp was built for")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="most memory of the GPU that stages may use")
    parser.add_argument("--lend", action=boolean, help="let members borrow a Dask worker")
    parser.add_argument(
        "--new-identity",
        action="store_true",
        help="after the data directory was copied: become a device of its own, without membership and the swarm's key",
    )
    if not kernel:
        parser.add_argument("--foreground", action="store_true", help="stay, for service managers; Ctrl-C stops it")
    else:
        parser.set_defaults(foreground=False)
    only_json(parser, kernel)


def _logs_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add how much of the log is shown."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is added")
    parser.add_argument("-n", "--lines", metavar="N", type=count, default=50, help="how many lines (default: 50)")
    only_json(parser, kernel)


def status_words(found: NodeStatus, _: Options) -> str:
    """Return the status for people."""
    node = found.node
    facts = [
        f"{node.name} · ainet {node.version} · {show_bytes(node.pss_bytes)} of memory (PSS) · {node.url}",
        f"caps: {_caps(node.caps)} · reserved: {_caps(node.reserved)}",
        f"certificate: {_certificate(node.certificate)} · data: {node.data_dir}"
        f" · callback: {'native' if node.native_callback else 'Python'}",
        *([f"GPU: {node.gpu}"] if node.gpu else []),
    ]
    rows: list[tuple[object, ...]] = []
    for member in found.members:
        about = (member.name, member_state(member))
        rows += [(*about, one.pid, show_bytes(one.memory), _layers(one)) for one in member.workers]
        if not member.workers:
            rows.append((*about, None, None, None))
    parts = ["\n".join([*facts, *node.warnings]), table(("member", "state", "worker", "memory", "layers"), rows)]
    if found.pipelines:
        parts.append("\n".join(f"{one.model}: {placement_words(one.placement)}" for one in found.pipelines))
    if node.certificate.problem:
        parts.append(node.certificate.problem)
    return "\n\n".join(parts)


def _caps(caps: Caps) -> str:
    gpu = f", {show_bytes(caps.gpu_memory)} GPU memory" if caps.gpu_memory else ""
    return f"{show_bytes(caps.memory)} memory, {show_bytes(caps.disk)} disk, {caps.threads} threads{gpu}"


def _certificate(state: CertificateState) -> str:
    if state.problem:
        return "expired" if state.days_left <= 0 else "removed"
    return f"{state.days_left:.0f} days left"


def _layers(worker: WorkerState) -> str | None:
    if not worker.layers:
        return None
    return f"{worker.model} {layer_range(worker.layers[0], worker.layers[-1])}{' on the GPU' * worker.gpu}"


def _up(options: Options) -> int:
    from ainet.daemon import daemon

    directory = data_dir(options)
    names = ("name", "listen", "lan", "memory", "threads", "disk", "gpu", "gpu_memory", "lend")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.new_identity:
        daemon.begin_anew(directory)
    if options.foreground:
        daemon.refuse_second(directory, given)
        return _serve(directory, given)
    running, started = daemon.up(directory, given)
    if options.json:
        print_json({"url": running.url, "pid": running.pid, "data_dir": str(directory), "started": started})
    else:
        say(f"The node {'is up' if started else 'already runs'}: process {running.pid}, {running.url}")
    return 0


def _serve(directory: Path, given: dict[str, Any]) -> int:
    from ainet.daemon import daemon
    from ainet.server.headless import serve

    with daemon.options_kept(directory, given):
        status = serve(directory, console=True)
        if status:
            raise daemon.not_started(directory, given, "the log above says why.")
    return status


def _down(options: Options) -> int:
    from ainet.daemon import daemon

    directory = data_dir(options)
    stopped = daemon.down(directory)
    if options.json:
        print_json({"stopped": stopped is not None, "pid": stopped and stopped.pid, "data_dir": str(directory)})
        return 0
    say(f"The node (process {stopped.pid}) has stopped." if stopped else f"No node is running on {directory}.")
    return 0


def _logs(options: Options) -> int:
    from ainet.daemon import daemon

    texts = daemon.read_log(data_dir(options), options.lines, follow=options.follow)
    if options.json:
        texts = (json.dumps({"lines": text.splitlines()}, ensure_ascii=False) + "\n" for text in texts)
    for text in texts:
        say(text, end="")
    return 0


#: The subcommand of a bare ``ainet``.
STATUS = verb_command(node.status, status_words)
COMMANDS = (
    Command("up", "start the node", _up_options, _up),
    Command("down", "stop the node and all of its processes", only_json, _down),
    STATUS,
    Command("logs", "show the node's log", _logs_options, _logs),
)
