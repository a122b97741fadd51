"""Two processes with half of a model each and a bare socket between them: what a split costs at least.

There is no TLS, no check and no session; the code between two calls of llama.cpp is as short as Python's can be.

    python bare.py MODEL FILE_DESCRIPTOR FOLDER      # the second one, which `BareRing` starts
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.llama.embedding import Embedding
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment

N_CTX = 1024
PROMPT = np.arange(1000, 1012, dtype=np.int32)


class Half(contextlib.ExitStack):
    """One half of a model, with one thread."""

    def __init__(self, model: Path, folder: Path, *, first: bool) -> None:
        super().__init__()
        store = TensorStore(folder)
        self.callback(store.close)
        manifest = store.register(model)
        middle = manifest.n_layers // 2
        layers = (0, middle - 1) if first else (middle, manifest.n_layers - 1)
        self.shard = ShardStore(store).assemble(manifest, *layers)
        self.llama = self.enter_context(Llama(self.shard.path, hidden_out=first, n_ctx=N_CTX))


class BareRing:
    """Both halves; this process has the first."""

    def __init__(self, model: Path) -> None:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._half = stack.enter_context(Half(model, folder / "first", first=True))
            self._embedding = Embedding(self._half.shard)
            stack.callback(self._embedding.close)
            with socket.create_server(("127.0.0.1", 0)) as server:
                self._socket = stack.enter_context(socket.create_connection(server.getsockname()))
                other, _ = server.accept()
            with other:
                for sock in (self._socket, other):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                command = [sys.executable, __file__, str(model), str(other.fileno()), str(folder / "second")]
                process = stack.enter_context(subprocess.Popen(command, pass_fds=[other.fileno()]))
            stack.callback(self._socket.close)  # ends the other process, for which the stack waits then
            stack.callback(process.poll)
            self._stack = stack.pop_all()
        self.measure(2)

    def measure(self, n: int) -> float:
        """Return seconds of a token, when `n` are generated."""
        tokens, position, begun = PROMPT, 0, 0.0
        self._half.llama.clear()
        for step in range(n):
            hidden = self._half.llama.decode(
                self._embedding.look_up(tokens), [Segment(0, position, len(tokens), len(tokens))]
            )
            assert hidden is not None
            self._socket.sendall(np.array([len(tokens), position], np.int32).tobytes() + hidden.tobytes())
            position += len(tokens)
            tokens = np.frombuffer(self._socket.recv(4, socket.MSG_WAITALL), np.int32)
            if step == 0:
                begun = time.perf_counter()
        return (time.perf_counter() - begun) / (n - 1)

    def stop(self) -> None:
        """End both processes."""
        self._stack.close()


def serve(model: Path, sock: socket.socket, folder: Path) -> None:
    """Answer hidden states with the most probable token until the connection ends."""
    with Half(model, folder, first=False) as half, sock:
        llama = half.llama
        while header := sock.recv(8, socket.MSG_WAITALL):
            n, position = np.frombuffer(header, np.int32).tolist()
            hidden = np.empty((n, llama.n_embd), np.float32)
            left = hidden.data.cast("B")
            while left:
                left = left[sock.recv_into(left) :]
            if position == 0:
                llama.clear()
            llama.decode(hidden, [Segment(0, position, n, 1)])
            sock.sendall(np.int32(llama.logits().argmax()).tobytes())


if __name__ == "__main__":
    serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[3]))
