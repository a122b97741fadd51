"""ainet: every device's notebook server becomes a node of a small AI network.

Importing this package is cheap: whatever is heavy is imported by the code that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ainet.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

    from ainet.client.client import NodeClient

__all__ = ["__version__", "connect", "load_ipython_extension", "shared"]


def connect(data_dir: str | Path | None = None) -> NodeClient:
    """Return a connection to the node of this device: ``ainet.connect().ask("Why is the sky blue?").text``.

    Parameters
    ----------
    data_dir
        The node's data directory; by default ``AINET_DATA_DIR``, or ``ainet`` in Jupyter's data directory.

    Returns
    -------
    NodeClient
        Also a context manager. What the command does, it does as methods, which return the dataclasses of `ainet.api`.

    Raises
    ------
    NodeNotRunning
        No node runs there.
    """
    from ainet.client.client import NodeClient

    return NodeClient.running(data_dir)


def shared(name: str, kind: Literal["dict", "list", "text"] = "dict") -> Any:
    """Return a variable that the code on all devices of the swarm reads and changes.

    It lives in the node's shared document ``shared/NAME``, is saved there, and merges with what others did meanwhile.

    Parameters
    ----------
    name
        1 to 128 characters without a slash.
    kind
        ``dict``, ``list`` or ``text``.

    Returns
    -------
    SharedDict, SharedList or SharedText
        With `on_change` for callbacks.

    Raises
    ------
    NodeNotRunning
        No node runs on this device.
    """
    from ainet.client.shared_variables import open_shared
    from ainet.config import default_data_dir

    return open_shared(default_data_dir(), name, kind)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics (``%load_ext ainet``)."""
    from ainet.notebook.magics import register

    register(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from ainet.server.extension import AinetExtension

    return [{"module": "ainet.server.extension", "app": AinetExtension}]
