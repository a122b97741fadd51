"""Three nodes on this machine answer one question together: `make demo`.

Three Jupyter servers with data directories of their own, of which only the first may see the model file, are paired by
tickets. The quickstart notebook then runs in the ainet kernel, with three stages of SmolLM2 over the three nodes. The
executed notebook and its HTML are kept in ``demo-output/``; everything else is removed, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from ainet import daemon
from ainet.client import NodeClient
from ainet.config import CONFIG_FILE, show_bytes
from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("desk", "laptop", "tablet")
NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")
OUTPUT = Path("demo-output")
CELL_SECONDS = 300


class ShowingClient(NotebookClient):
    """Runs a notebook and prints what its cells show, as it comes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shown: dict[str, str] = {}

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Print a message's text: of an updated display only what is new."""
        content = msg["content"]
        if msg["msg_type"] == "execute_input":
            print("\n" + "\n".join(f"  ▌ {line}" for line in content["code"].splitlines()), flush=True)
        elif msg["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif msg["msg_type"] in ("display_data", "update_display_data", "execute_result"):
            self._show(content)
        return super().process_message(msg, cell, cell_index)

    def _show(self, content: dict[str, Any]) -> None:
        text = content["data"].get("text/plain", "")
        if not text:  # what the node does before it answers
            if sys.stdout.isatty():
                doing = content["data"].get("text/markdown", "").strip("*")
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
def three_nodes(folder: Path) -> Iterator[dict[str, NodeClient]]:
    """Start the nodes, and stop them whatever happens."""
    with contextlib.ExitStack() as stack:
        nodes = {}
        for name in NAMES:
            data_dir = folder / name
            data_dir.mkdir(mode=0o700)
            # Only the first node looks for model files; the others have what they are sent.
            settings = {"AinetConfig": {"discover_models": name == NAMES[0], "stage_threads": 1}}
            (data_dir / CONFIG_FILE).write_text(json.dumps(settings))
            stack.callback(daemon.down, data_dir)
            running, _ = daemon.up(data_dir, {"name": name})
            print(f"  {name:<8} Jupyter server, process {running.pid}, {running.url}", flush=True)
            nodes[name] = stack.enter_context(NodeClient(running.url, running.token))
        yield nodes


def pair(nodes: dict[str, NodeClient]) -> None:
    """Make the other nodes members of the first one's swarm, each with a ticket of its own."""
    first, *others = NAMES
    for name in others:
        nodes[name].join(nodes[first].invite()["ticket"])
        print(f"  {name} joined {first}'s swarm with a one-time ticket", flush=True)


def run_notebook() -> Any:
    """Run the quickstart in the ainet kernel and return the executed notebook."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = ShowingClient(
        notebook,
        kernel_name="ainet",
        timeout=CELL_SECONDS,
        resources={"metadata": {"path": "."}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()
    finally:
        save(notebook)
    return notebook


def save(notebook: Any) -> None:
    """Keep the executed notebook and its HTML."""
    OUTPUT.mkdir(exist_ok=True)
    nbformat.write(notebook, OUTPUT / "quickstart.ipynb")
    html, _ = HTMLExporter().from_notebook_node(notebook)
    (OUTPUT / "quickstart.html").write_text(html)


def report(nodes: dict[str, NodeClient]) -> None:
    """Print which device ran which layers and what it had to fetch."""
    status = nodes[NAMES[0]].status()
    (pipeline,) = status["pipelines"]
    columns = f"{'layers':<8}{'memory of worker':>17}{'tensors fetched':>17}{'ms/token':>10}"
    print(f"\n\n{'device':<10}{'process':>8}  {columns}")
    memory = {worker["pid"]: worker["memory"] for member in status["members"] for worker in member["workers"]}
    for part, stage in zip(pipeline["placement"], pipeline["stages"], strict=True):
        layers = f"{part['first_layer']}–{part['last_layer']}"
        milliseconds = 1000 * stage["layer_seconds"] * (part["last_layer"] - part["first_layer"] + 1)
        fetched = show_bytes(pipeline["received_bytes"][part["node"]])
        print(
            f"{part['node']:<10}{part['pid']:>8}  {layers:<8}{show_bytes(memory[part['pid']]):>17}"
            f"{fetched:>17}{milliseconds:>10.1f}"
        )


def main() -> int:
    """Run the demo."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ainet-demo-") as folder:
            print("Three nodes start on this machine:")
            with three_nodes(Path(folder)) as nodes:
                pair(nodes)
                os.environ["AINET_DATA_DIR"] = str(Path(folder) / NAMES[0])
                run_notebook()
                report(nodes)
    except KeyboardInterrupt:
        print("\nStopped; every node is down and its data removed.", file=sys.stderr)
        return 130
    except (AinetError, CellExecutionError) as exc:
        print(f"\nThe demo failed: {exc}", file=sys.stderr)
        return 1
    print(f"\nThe notebook and its HTML are in {OUTPUT}/ ({time.monotonic() - begun:.0f} s in all).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
