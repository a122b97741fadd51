"""Start the kernel: ``python -m ainet_kernel -f CONNECTION_FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As ipykernel's launcher does: a notebook's folder must not shadow modules before the kernel has started.
    if sys.path and sys.path[0] in {"", str(Path.cwd())}:
        sys.path.pop(0)

    from ipykernel.kernelapp import IPKernelApp

    from ainet_kernel import AinetKernel

    IPKernelApp.launch_instance(kernel_class=AinetKernel)
