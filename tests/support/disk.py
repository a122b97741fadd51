"""What is in the files of a folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def all_bytes(folder: Path) -> bytes:
    """Return the bytes of all files in a folder, of which some may vanish meanwhile."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError), (Path(parent) / name).open("rb") as file:
                found.append(file.read())
    return b"".join(found)
