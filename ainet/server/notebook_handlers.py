"""Handlers for shared notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web

from ainet.server.base import NodeHandler
from ainet.server.checks import check_text
from ainet.sharing.shares import MAX_AUDIENCE

if TYPE_CHECKING:
    from ainet.node.node import Node


class NotebookShare(msgspec.Struct, forbid_unknown_fields=True):
    """Which notebook to share, under which name, whether the others may change it, and who they are."""

    path: str
    name: str | None = None
    read_only: bool = False
    audience: Annotated[list[str], msgspec.Meta(max_length=MAX_AUDIENCE + 1)] = msgspec.field(name="with", default=[])

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_text("name", self.name)
        for one in self.audience:
            check_text("with", one)


class NotebooksHandler(NodeHandler):
    """The notebooks that members share."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the list."""

        async def listed(node: Node) -> list[dict[str, Any]]:
            return node.notebooks.list()

        await self.answer(listed)

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Share one."""

        async def share(node: Node) -> dict[str, Any]:
            wanted = self.decode(NotebookShare)
            return await node.notebooks.share(
                wanted.path, wanted.name, read_only=wanted.read_only, audience=wanted.audience
            )

        await self.answer(share)


class NotebookOpening(msgspec.Struct, forbid_unknown_fields=True):
    """Which shared notebook to open, and as which file."""

    name: str
    path: str | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_text("path", self.path)


class OpenNotebookHandler(NodeHandler):
    """The notebooks of others."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Open one."""

        async def opened(node: Node) -> dict[str, Any]:
            wanted = self.decode(NotebookOpening)
            return await node.notebooks.open(wanted.name, wanted.path)

        await self.answer(opened)


class NotebookHandler(NodeHandler):
    """One shared notebook."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Stop sharing it."""
        await self.answer(lambda node: node.notebooks.unshare(unquote(name)))
