"""The route of news: lines of JSON for as long as somebody listens."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from ainet.api.news import KINDS
from ainet.errors import AinetError
from ainet.server.stream import StreamHandler

#: An empty line is sent after so many seconds of silence.
ALIVE = 10.0


class WatchHandler(StreamHandler):
    """Streams news until the connection is closed."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Stream `Node.watch` for the kinds in the query; for all where it names none."""
        kinds = [kind for kind in self.query().get(KINDS, "").split(",") if kind]
        try:
            news = self.served.running_node().watch(kinds)
        except AinetError as error:
            self.fail(error)
            return
        await self.stream(news, alive=ALIVE)
