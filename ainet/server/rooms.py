"""The clients of each shared document on this server, and their own descriptions (cursor, name, colour)."""

from __future__ import annotations

from typing import Protocol


class Client(Protocol):
    """Somebody who edits a document."""

    def send(self, message: bytes) -> None:
        """Send a message of the y-websocket protocol, soon."""


class Rooms:
    """The clients of each document, by its name."""

    def __init__(self) -> None:
        self.clients: dict[str, dict[Client, bytes]] = {}

    def enter(self, name: str, client: Client) -> None:
        """Let a client hear of the others, and what they have said so far."""
        others = self.clients.setdefault(name, {})
        for message in others.values():
            if message:
                client.send(message)
        others[client] = b""

    def leave(self, name: str, client: Client) -> None:
        """Take `enter` back. The others forget the client by themselves, as it says nothing more."""
        clients = self.clients.get(name, {})
        clients.pop(client, None)
        if not clients:
            self.clients.pop(name, None)

    def broadcast(self, name: str, message: bytes, origin: Client) -> None:
        """Pass a client's awareness message on to the others."""
        clients = self.clients.get(name, {})
        if origin in clients:
            clients[origin] = message
        for client in clients:
            if client is not origin:
                client.send(message)
