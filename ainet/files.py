"""Files that only the owner of the device may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ainet.errors import AinetError


def make_private_dir(path: Path) -> Path:
    """Create `path` (0700) when it is missing, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace the file at `path` (0600) by `data`: after a crash it holds the old bytes or the new ones.

    Raises
    ------
    AinetError
        It cannot be written.
    """
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mkstemp makes it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as exc:
        if name:
            Path(name).unlink(missing_ok=True)
        if not isinstance(exc, OSError):
            raise
        raise AinetError(f"{path} cannot be written: {exc.strerror or exc}.") from exc
