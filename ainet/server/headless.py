"""A Jupyter server for devices without JupyterLab: only this extension, on the loopback interface.

Its contents and the kernels it may start live in ``notebooks`` inside the data directory. Started by `ainet up`; in
the foreground (`ainet up --foreground`) it also logs to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING, Any

from jupyter_server.serverapp import ServerApp
from traitlets.config import Config

from ainet.config import default_data_dir
from ainet.engine.exit_deadline import ExitDeadline
from ainet.timing import TIMING

if TYPE_CHECKING:
    from pathlib import Path


class HeadlessServer(ServerApp):
    """A Jupyter server that takes no settings of the user's other Jupyter servers."""

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Read none: addresses, passwords and log-in services in them are meant for servers that people open.

        What concerns ainet is read by the extension, from ``jupyter_ainet_config.py`` and the data directory.
        """

    def init_signal(self) -> None:
        """End at the first Ctrl-C, without a question."""
        self._deadline = ExitDeadline(TIMING.server_stop)
        super().init_signal()
        signal.signal(signal.SIGINT, self._signal_stop)

    def stop(self, from_signal: bool = False) -> None:
        """Stop once: a second signal must not cut the first one's work short."""
        if not self._stopping:
            self._deadline.start()
            super().stop(from_signal)

    async def _stop(self) -> None:
        try:
            await super()._stop()
        finally:
            self.io_loop.stop()


def serve(data_dir: Path, *, console: bool) -> int:
    """Run the server until it is told to stop; return the exit status of the process.

    Parameters
    ----------
    data_dir
        The node's data directory.
    console
        Whether the log is also written to standard error.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    notebooks = data_dir / "notebooks"
    notebooks.mkdir(exist_ok=True)
    os.chdir(notebooks)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    config = Config()
    config.AinetExtension.headless = True
    config.IdentityProvider.token = secrets.token_urlsafe(32)
    server = HeadlessServer.instance(
        config=config,
        jpserver_extensions={"ainet": True},
        ip="127.0.0.1",
        port=0,
        root_dir=str(notebooks),
        cookie_secret=secrets.token_bytes(32),
        allow_root=True,
        allow_unauthenticated_access=False,
        reraise_server_extension_failures=True,
        open_browser=False,
        no_browser_open_file=True,
    )
    # Jupyter announces that Control-C asks for confirmation, which this server does not.
    server.log.addFilter(lambda record: "Control-C" not in record.getMessage())
    server.initialize(argv=[f"--AinetConfig.data_dir={data_dir}"], find_extensions=False)
    extension = server.extension_manager.extension_points["ainet"].app
    if not console:
        # Whatever the process writes to standard error goes to the log file anyway.
        for logger in (server.log, extension.log):
            for handler in list(logger.handlers):
                if isinstance(handler, logging.StreamHandler):
                    logger.removeHandler(handler)
    try:
        server.start()
    finally:
        loop.close()
    return 1 if extension.failed else 0


if __name__ == "__main__":
    sys.exit(serve(default_data_dir().absolute(), console=False))
