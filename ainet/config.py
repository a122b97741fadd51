"""Configuration: one traitlets class, and the files of one data directory.

Set values in a Jupyter configuration file (`c.AinetConfig.memory = "4GB"`), in `ainet_config.json` inside the data
directory, or with the options of `ainet up`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Dict, Enum, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Configurable

from ainet.errors import UsageError
from ainet.units import UNITS, parse_bytes, show_bytes

#: Settings of one node inside its data directory, in the form of any Jupyter JSON configuration.
CONFIG_FILE = "ainet_config.json"
#: Least that `memory` and `disk` may be, in bytes: no stage and no shard fits into less.
MIN_SIZE = 10_000_000

UNITS |= {"KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4}


def default_data_dir() -> Path:
    """Return the data directory named by ``AINET_DATA_DIR``, or ``ainet`` under Jupyter's own."""
    named = os.environ.get("AINET_DATA_DIR")
    return Path(named).expanduser() if named else Path(jupyter_data_dir()) / "ainet"


class AinetConfig(Configurable):
    """The decisions of a node's owner. Sizes are texts such as ``"4GB"``; empty means no cap of its own."""

    data_dir = Unicode(help="Folder of everything that the node keeps.").tag(config=True)
    name = Unicode(help="Name of this device in the swarm.").tag(config=True)

    listen = Unicode("127.0.0.1", help="Address on which members may connect.").tag(config=True)
    lan = Bool(False, help="Whether members may connect from the local networks, and are looked for there (mDNS).").tag(
        config=True
    )
    peer_url = Unicode(
        "", help="Address of this Jupyter server as others reach it (https://…/), where only that port is open."
    ).tag(config=True)
    peer_port = Int(0, help="Port for members; 0 keeps the one chosen at the first start.").tag(config=True)

    memory = Unicode("", help="Most memory that stages may use; empty: 75 % of the device's.").tag(config=True)
    threads = Int(0, help="Most threads that stages may use; 0: all cores.").tag(config=True)
    disk = Unicode("", help="Most disk space for tensors and shards; empty: half of what is free.").tag(config=True)
    gpu = Bool(
        False, help="Whether layers may go to a GPU that llama.cpp was built for; otherwise none is opened."
    ).tag(config=True)
    gpu_memory = Unicode("", help="Most memory of the GPU that stages may use; empty: 90 % of what is free.").tag(
        config=True
    )
    lend = Bool(True, help="Whether members may borrow a Dask worker (`%ainet client`).").tag(config=True)

    model = Unicode("smollm2", help="Model that is used when none is named.").tag(config=True)
    model_paths = List(Unicode(), help="Further folders and files in which models are looked for.").tag(config=True)
    discover_models = Bool(
        True, help="Whether installed model packages, the Hugging Face cache, Ollama and LM Studio are searched."
    ).tag(config=True)
    embedding_model = Unicode(
        "",
        help="Model for vectors of the owner's passages: a GGUF file, or a name that `ainet models` lists "
        "(default: all-MiniLM-L6-v2, if installed).",
    ).tag(config=True)
    context_disk = Unicode("1GB", help="Disk space for documents of the owner's other devices; 0: none.").tag(
        config=True
    )
    context_window = Int(4096, help="Most tokens of prompt and answer together.").tag(config=True)
    chunk = Int(64, help="Prompt tokens that a stage processes at once (llama.cpp's n_ubatch).").tag(config=True)
    objective = Enum(
        ["latency", "throughput"],
        "latency",
        help="What a split over devices is made for: the answer of one user, or many answers at the same time.",
    ).tag(config=True)
    stage_threads = Int(0, help="Threads of one stage; 0: its share of `threads`.").tag(config=True)

    sessions = Int(8, help="Most requests that one pipeline answers at the same time.").tag(config=True)
    replicas = Int(
        2, help="Most other devices that load a whole model, too, while this one has several requests for it."
    ).tag(config=True)
    queue = Int(8, help="Most requests of each user that may wait for one pipeline.").tag(config=True)
    kept_tokens = Int(
        -1, help="Most tokens of earlier prompts that a pipeline keeps for the next question; -1: a context window."
    ).tag(config=True)
    exact = Bool(
        False,
        help="Whether an answer is the same, bit for bit, whoever shares the stages and whatever is lost meanwhile; "
        "slower (see docs/architecture.md).",
    ).tag(config=True)
    speculate = Bool(
        True, help="Whether tokens are tried before they are drawn (prompt lookup), where that is faster."
    ).tag(config=True)
    draft_model = Unicode(
        "auto",
        help="A small model on this device with the same tokens, which guesses what a large one will say where that is "
        "faster: its name; auto: the largest that has at most an eighth of the size; none.",
    ).tag(config=True)
    hidden_states = Enum(
        ["float32", "float16", "int8"],
        "float32",
        help="How hidden states travel between devices: exactly, or rounded to 16 or 8 bits.",
    ).tag(config=True)
    idle_seconds = Float(600.0, help="A pipeline that was idle this long is unloaded.").tag(config=True)
    link_keepalive = Float(1.0, help="Seconds between keep-alives on a peer link.").tag(config=True)
    link_timeout = Float(10.0, help="Seconds of silence after which a peer counts as unreachable.").tag(config=True)

    dask_scheduler = Unicode(
        "", help="Address of an existing Dask scheduler to use as engine (tcp://… or tls://…)."
    ).tag(config=True)
    dask_security = Dict(help="TLS files of that scheduler: tls_ca_file, tls_client_cert, tls_client_key (paths).").tag(
        config=True
    )

    @default("data_dir")
    def _default_data_dir(self) -> str:
        return str(default_data_dir())

    @default("name")
    def _default_name(self) -> str:
        return socket.gethostname().split(".")[0] or "device"

    @validate("memory", "disk")
    def _check_size(self, proposal: dict[str, Any]) -> str:
        text: str = proposal["value"]
        if text:
            try:
                size = parse_bytes(text)
            except UsageError as exc:
                raise TraitError(exc.message) from exc
            if size < MIN_SIZE:
                raise TraitError(f"{proposal['trait'].name} is {text!r}; it must be at least {show_bytes(MIN_SIZE)}.")
        return text

    def make_data_dir(self) -> Path:
        """Create the data directory (0700) when it is missing, and return it.

        Raises
        ------
        UsageError
            It cannot be one.
        """
        path = Path(self.data_dir).expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        except OSError as exc:
            raise UsageError(
                f"{path} cannot be the data directory: {exc.strerror}. Name another one (--data-dir, AINET_DATA_DIR)."
            ) from exc
        return path
