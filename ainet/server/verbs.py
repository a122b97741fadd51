"""The routes of the verbs: JSON in, JSON out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web

from ainet.api.generate import PATH as GENERATE
from ainet.api.news import PATH as WATCH
from ainet.api.verb import all_verbs
from ainet.errors import AinetError
from ainet.server.base import NodeHandler
from ainet.server.generate import GenerateHandler
from ainet.server.watch import WatchHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.api.verb import Verb

PREFIX = "/ainet/api/"


class VerbHandler(NodeHandler):
    """Answers the verbs of one path."""

    def initialize(self, verbs: dict[str, Verb[Any, Any]]) -> None:  # type: ignore[override]
        """Note the verbs, by their HTTP methods."""
        super().initialize()
        self._verbs = verbs

    @web.authenticated
    @authorized
    async def get(self, *in_path: str) -> None:
        """Answer a verb that only looks."""
        await self._answer(in_path)

    @web.authenticated
    @authorized
    async def post(self, *in_path: str) -> None:
        """Answer a verb that changes something."""
        await self._answer(in_path)

    @web.authenticated
    @authorized
    async def delete(self, *in_path: str) -> None:
        """Answer a verb that takes something away."""
        await self._answer(in_path)

    async def _answer(self, in_path: tuple[str, ...]) -> None:
        verb = self._verbs.get(str(self.request.method))
        if verb is None:
            raise web.HTTPError(405)
        try:
            answer: Callable[..., Awaitable[Any]] = self.served.running_node().answers.find(verb)
            fields = self.query() if verb.method == "GET" else self.decode()
            found = await answer(**verb.read(fields | dict(zip(verb.in_path, in_path, strict=True))))
        except AinetError as error:
            self.fail(error)
        else:
            self.finish(msgspec.json.encode(found))


def routes() -> list[tuple[str, type[NodeHandler], dict[str, Any]]]:
    """Return which handler answers at which address."""
    paths: dict[str, dict[str, Verb[Any, Any]]] = {}
    for verb in all_verbs().values():
        paths.setdefault(re.sub(r"{\w+}", "([^/]+)", verb.path), {})[verb.method] = verb
    # A fixed path comes before one with a name in it, which would take it for that name.
    patterns = sorted(paths, key=lambda path: "(" in path)
    return [
        (PREFIX + GENERATE, GenerateHandler, {}),
        (PREFIX + WATCH, WatchHandler, {}),
        *((PREFIX + pattern, VerbHandler, {"verbs": paths[pattern]}) for pattern in patterns),
    ]
