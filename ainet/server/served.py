"""The node of a Jupyter server, as its routes know it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from ainet.errors import AinetError, NodeNotRunning
from ainet.server.auth import NodeTokenIdentity
from ainet.server.rooms import Rooms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ainet.node.node import Node

#: The name under which it stands in the settings of the web application.
SETTING = "ainet_served"


class Served:
    """The node of a Jupyter server, if it runs, and who may ask it.

    Attributes
    ----------
    node
        The node while it runs.
    failure
        Why it does not.
    url
        The address of the server for this device's own processes.
    identity
        Knows whoever bears the node's token.
    rooms
        The clients of shared documents.
    """

    def __init__(self) -> None:
        self.node: Node | None = None
        self.failure: AinetError = NodeNotRunning("The node is still starting. Ask again in a few seconds.")
        self.url = ""
        self.identity = NodeTokenIdentity(token=secrets.token_urlsafe(32))
        self.rooms = Rooms()

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Served:
        """Return what the web application with these settings serves."""
        served: Served = settings[SETTING]
        return served

    def running_node(self) -> Node:
        """Return the node.

        Raises
        ------
        AinetError
            It is still starting, did not start, or lives in another server.
        """
        if self.node is None:
            raise self.failure
        return self.node
