"""Compiles the callback that takes hidden states out of llama.cpp, where there is a C compiler."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("ainet/stages/llama/watch.c")
LIBRARY = SOURCE.with_suffix(".bin")


class Native(BuildHookInterface):
    """Adds the library to a wheel, or puts it beside its source for an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile it; without a compiler ainet works all the same, by a slower callback in Python."""
        root = Path(self.root)
        editable = version == "editable"
        self._folder = tempfile.TemporaryDirectory()
        target = root / LIBRARY if editable else Path(self._folder.name) / LIBRARY.name
        target.unlink(missing_ok=True)
        compiler = (os.environ.get("CC") or "cc").split()
        command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(root / SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as exc:
            self.app.display_warning(f"No C compiler ({exc}): the slower callback in Python will be used.")
            return
        if not editable:
            build_data["force_include"][str(target)] = str(LIBRARY)
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: the wheel has it."""
        self._folder.cleanup()
