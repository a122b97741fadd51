"""Three nodes on this machine answer one question together (`make demo`), or neighbours trade (`make demo-economy`).

Three Jupyter servers with data directories of their own, of which only the first may see the model file, are paired by
tickets. The quickstart notebook then runs in the ainet kernel, with three stages of SmolLM2 over the three nodes. With
the word ``economy`` there is one node, and the notebook about the economy starts its neighbours itself. The executed
notebook and its HTML are kept in ``demo-output/``; everything else is removed, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

# What takes time to import is imported when Ctrl-C is taken care of.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ainet.client.client import NodeClient

NAMES = ("desk", "laptop", "tablet")
NOTEBOOK, ECONOMY = "quickstart.ipynb", "economy.ipynb"
OUTPUT = "demo-output"
CELL_SECONDS = 300
STOPPED = b"\nStopped; every node is down and its data removed.\n"


class Screen:
    """Prints what the cells of a notebook show, as it comes."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, message: dict[str, Any]) -> None:
        """Print a kernel's message: of an updated display only what is new."""
        content = message["content"]
        if message["msg_type"] == "execute_input":
            print("\n" + "\n".join(f"  ▌ {line}" for line in content["code"].splitlines()), flush=True)
        elif message["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif message["msg_type"] == "error":
            print(f"\n{content['evalue']}", flush=True)
        elif message["msg_type"] in ("display_data", "update_display_data", "execute_result"):
            self._show(content)

    def _show(self, content: dict[str, Any]) -> None:
        text = content["data"].get("text/plain", "")
        if not text:  # what the node does before it answers
            if sys.stdout.isatty():
                doing = html.unescape(re.sub("<[^>]*>", "", content["data"].get("text/html", "")))
                print(f"\r  {doing}\x1b[K", end="", flush=True)
            return
        key = content.get("transient", {}).get("display_id")
        before = self._shown.get(key, "") if key else ""
        if before and text.startswith(before):
            print(text[len(before) :], end="", flush=True)
        else:
            print(f"\r\x1b[K{text}" if sys.stdout.isatty() else f"\n{text}", end="", flush=True)
        if key:
            self._shown[key] = text


@contextlib.contextmanager
def some_nodes(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, NodeClient]]:
    """Start the nodes; `tidy` stops them."""
    import json

    from ainet.client.client import NodeClient
    from ainet.config import CONFIG_FILE
    from ainet.daemon import daemon

    with contextlib.ExitStack() as stack:
        nodes = {}
        for name in names:
            data_dir = folder / name
            data_dir.mkdir(mode=0o700)
            # Only the first node looks for model files; the others have what they are sent.
            settings = {"AinetConfig": {"discover_models": name == NAMES[0], "stage_threads": 1}}
            (data_dir / CONFIG_FILE).write_text(json.dumps(settings))
            running, _ = daemon.up(data_dir, {"name": name})
            print(f"  {name:<8} Jupyter server, process {running.pid}, {running.url}", flush=True)
            nodes[name] = stack.enter_context(NodeClient(running.url, running.token))
        yield nodes


def pair(nodes: dict[str, NodeClient]) -> None:
    """Make the other nodes members of the first one's swarm, each with a ticket of its own."""
    first, *others = nodes
    for name in others:
        nodes[name].join(nodes[first].invite().ticket)
        print(f"  {name} joined {first}'s swarm with a one-time ticket", flush=True)


def run_notebook(name: str) -> None:
    """Run a notebook in the ainet kernel, and keep the executed notebook and its HTML."""
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.read(Path(__file__).with_name(name), as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="ainet",
        timeout=CELL_SECONDS,
        resources={"metadata": {"path": "."}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    screen, process_message = Screen(), client.process_message

    def show_and_process(message: dict[str, Any], *where: Any) -> Any:
        screen.show(message)
        return process_message(message, *where)

    client.process_message = show_and_process
    try:
        # In the main thread it would take Ctrl-C for itself.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(client.execute).result()
    finally:
        output = Path(OUTPUT)
        output.mkdir(exist_ok=True)
        nbformat.write(notebook, output / name)
        html, _ = HTMLExporter().from_notebook_node(notebook)
        (output / name).with_suffix(".html").write_text(html)


def report(nodes: dict[str, NodeClient]) -> None:
    """Print which device ran which layers and what it had to fetch."""
    from ainet.api.node import status
    from ainet.units import show_bytes

    found = nodes[NAMES[0]].call(status)
    (pipeline,) = found.pipelines
    columns = f"{'layers':<8}{'memory of worker':>17}{'tensors fetched':>17}{'ms/token':>10}"
    print(f"\n\n{'device':<10}{'process':>8}  {columns}")
    memory = {worker.pid: worker.memory for member in found.members for worker in member.workers}
    for part, stage in zip(pipeline.placement, pipeline.stages, strict=True):
        layers = f"{part.first_layer}–{part.last_layer}"
        milliseconds = 1000 * stage.token_seconds
        fetched = show_bytes(pipeline.received_bytes[part.node])
        print(
            f"{part.node:<10}{part.pid:>8}  {layers:<8}{show_bytes(memory[part.pid]):>17}"
            f"{fetched:>17}{milliseconds:>10.1f}"
        )


def tidy(folder: Path) -> None:
    """End every process that was started here, and remove the folder."""
    import shutil

    import psutil

    from ainet.daemon import daemon

    daemon.end(*(child.pid for child in psutil.Process().children()))
    shutil.rmtree(folder, ignore_errors=True)


def on_signals(handler: Any) -> None:
    """Call `handler` on Ctrl-C, when asked to end, and when the terminal is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def stop_at_once(*_: object) -> None:
    """End; nothing was started yet, or everything has ended."""
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(2, STOPPED)
    os._exit(130)


def main() -> int:
    """Run the demo."""
    on_signals(stop_at_once)
    is_economy = sys.argv[1:] == ["economy"]
    print("A node starts" if is_economy else "Three nodes start", "on this machine:", flush=True)
    import shutil  # noqa: F401 - `tidy` needs it whole, like psutil and daemon
    import tempfile
    import time
    from pathlib import Path

    import psutil  # noqa: F401
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    from ainet.daemon import daemon  # noqa: F401
    from ainet.errors import AinetError

    begun = time.monotonic()
    folder = Path(tempfile.gettempdir()) / f"ainet-demo-{os.getpid()}-{time.time_ns():x}"

    def stop(*_: object) -> None:
        # Not an exception, which whatever runs at this moment might swallow or comment on.
        on_signals(signal.SIG_IGN)
        # What the notebook says about the loss of its kernel is of no interest.
        terminal, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        tidy(folder)
        os.dup2(terminal, 2)
        stop_at_once()

    on_signals(stop)
    try:
        folder.mkdir(mode=0o700)
        # Files of kernels and servers, too, are gone with the folder.
        os.environ |= {"AINET_DATA_DIR": str(folder / NAMES[0]), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
        # The notebook imports what lies beside it.
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        with some_nodes(folder, NAMES[:1] if is_economy else NAMES) as nodes:
            pair(nodes)
            run_notebook(ECONOMY if is_economy else NOTEBOOK)
            if not is_economy:
                report(nodes)
    except (AinetError, CellExecutionError, DeadKernelError) as exc:
        print(f"\nThe demo failed: {exc}", file=sys.stderr)
        return 1
    finally:
        tidy(folder)
        on_signals(signal.SIG_IGN)
    print(f"\nThe notebook and its HTML are in {OUTPUT}/ ({time.monotonic() - begun:.0f} s in all).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
