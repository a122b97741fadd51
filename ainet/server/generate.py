"""The route of generations: lines of JSON for as long as the answer grows."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from ainet.api.generate import GenerateRequest
from ainet.api.verb import read
from ainet.errors import AinetError, UsageError
from ainet.server.stream import StreamHandler


class GenerateHandler(StreamHandler):
    """One generation, streamed as lines of JSON; it ends when the connection does."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Stream the events of `Node.generate`."""
        try:
            events = self.served.running_node().generate(self._request())
        except AinetError as error:
            self.fail(error)
            return
        await self.stream(events)

    def _request(self) -> GenerateRequest:
        try:
            return read(self.decode(), GenerateRequest)
        except ValueError as exc:
            raise UsageError(f"The request is not understood: {exc}.") from exc
