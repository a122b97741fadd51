"""ainet: every device's notebook server becomes a node of a small AI network.

Importing this package is cheap: whatever is heavy is imported by the code that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"

__all__ = ["__version__", "load_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics (``%load_ext ainet``)."""
    from ainet.magics import register

    register(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from ainet.server import AinetExtension

    return [{"module": "ainet.server", "app": AinetExtension}]
