"""Workers as forks of a process that has imported what they need, so that each is there at once and shares its memory.

The standard library starts its fork server as a program of its own, which imports everything once more. Here it is a
fork of the engine's process, made before that has any thread. (Linux only: elsewhere libraries do not survive a fork.)
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing.forkserver
import multiprocessing.process
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Whether it can be done: how the standard library knows its fork server is its own affair, which may change.
IS_POSSIBLE = sys.platform == "linux" and sys.version_info < (3, 14)


def serve_forks(folder: Path, closed: Sequence[int], modules: Sequence[str]) -> None:
    """Have processes of multiprocessing's ``forkserver`` be forks of what this process is now, with no threads.

    Parameters
    ----------
    folder
        Where the server's socket lies, for this user alone.
    closed
        Files that belong to this process, and not to its forks.
    modules
        What is imported for all forks.
    """
    for name in modules:
        importlib.import_module(name)
    server: Any = multiprocessing.forkserver._forkserver
    gc.collect()
    gc.freeze()  # what is there now is not looked at, and so not copied, by any fork
    listener = socket.socket(socket.AF_UNIX)
    # Paths of sockets have at most 107 bytes, folders may have longer ones.
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    short = f"/proc/{os.getpid()}/fd"
    listener.bind(f"{short}/{directory}/forks")
    path = folder / "forks"
    path.chmod(0o600)
    listener.listen()
    # It is reached by its file, which needs no name: whoever copies the node's folder meets no socket.
    address = f"{short}/{os.open(path, os.O_PATH)}"
    path.unlink()
    alive, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for number in (held, directory, *closed):
                os.close(number)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            multiprocessing.forkserver.main(listener.detach(), alive, [])
        finally:
            os._exit(0)
    listener.close()
    os.close(alive)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, held, pid
    # Should it be lost, the standard library starts one in its own way, with a socket in this folder.
    server.set_forkserver_preload(list(modules))
    multiprocessing.process.current_process()._config["tempdir"] = f"{short}/{directory}"  # type: ignore[attr-defined]


def use_forks() -> None:
    """Have Dask make its processes so. It would import whatever it may need first, to do that here."""
    import dask
    import distributed.utils

    distributed.utils._forkserver_preload_set = True
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
