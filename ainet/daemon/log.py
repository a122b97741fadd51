"""The node's log file."""

from __future__ import annotations

import io
import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_FILE = Path("logs", "node.log")
#: Bytes after which the log moves to ``node.log.1``.
LOG_SIZE = 5_000_000
#: Begins the line that says why a node did not start; `ainet up` quotes the rest of it.
FAILED = "The node did not start: "
FORMAT = "[%(levelname)1.1s %(asctime)s.%(msecs)03d %(name)s] %(message)s"


class PrivateFileHandler(RotatingFileHandler):
    """A rotating log file that only its owner can read."""

    def _open(self) -> io.TextIOWrapper:
        return open_log(Path(self.baseFilename))


def open_log(path: Path) -> io.TextIOWrapper:
    """Open `path` for appending, created with mode 0600 in a folder with mode 0700."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return io.TextIOWrapper(os.fdopen(number, "ab", buffering=0), encoding="utf-8", write_through=True)


class LogFile:
    """The log of a data directory, as a further destination of `loggers` until it is closed."""

    def __init__(self, data_dir: Path, loggers: list[logging.Logger]) -> None:
        self._loggers = loggers
        self._handler = PrivateFileHandler(data_dir / LOG_FILE, maxBytes=LOG_SIZE, backupCount=1)
        self._handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
        self._handler.setLevel(logging.INFO)
        for logger in loggers:
            logger.addHandler(self._handler)

    def close(self) -> None:
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        self._handler.close()
