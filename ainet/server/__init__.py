"""The Jupyter server extension: the server is the node."""

from __future__ import annotations

from ainet.server.extension import AinetExtension

__all__ = ["AinetExtension"]
