"""The routes of the model API."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ainet.api import models
from ainet.api.generate import Done, Start, Text
from ainet.errors import AinetError, NotFound, TooLarge, UsageError
from ainet.server.base import MAX_BODY, MISTAKE, NodeHandler
from ainet.server.model_api.chat import ChatRequest
from ainet.server.model_api.completion import CompletionRequest
from ainet.server.model_api.failures import Failure, FailureBody, detail, failure, retry_after
from ainet.server.model_api.writers import ChatWriter, CompletionWriter
from ainet.server.stream import with_pauses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.generate import Event
    from ainet.api.models import ListedModel
    from ainet.server.model_api.writers import Writer

PREFIX = "/ainet/v1/"
#: A stream in which nothing was said for so many seconds says that it is alive.
ALIVE = 5.0


class ModelApiHandler(NodeHandler):
    """Refusals and failures in OpenAI's form."""

    def fail(self, error: AinetError) -> None:
        """Answer with an error."""
        status, body = failure(error)
        self.set_status(status)
        again = retry_after(error)
        if again is not None:
            self.set_header("Retry-After", str(again))
        self.finish(msgspec.json.encode(body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what tornado and Jupyter refuse."""
        exc_info = kwargs.get("exc_info")
        words = getattr(exc_info[1], "log_message", None) if exc_info else None
        if status_code in {401, 403} and self.current_user is None:
            self.set_status(401)
            found = Failure("The key is missing or wrong.", "authentication_error", None, "invalid_api_key")
        elif status_code == 404:
            found = Failure(words or "There is nothing at this address.", "invalid_request_error", None, "not_found")
        elif status_code < 500:
            found = Failure(words or f"{self.request.method} is not possible here.", "invalid_request_error")
        else:
            found = Failure(MISTAKE, "server_error")
        self.finish(msgspec.json.encode(FailureBody(found)))


class AnswerHandler(ModelApiHandler):
    """Answers a request, whole or as it grows; a closed connection ends the answer on every stage."""

    asked: ClassVar[type[ChatRequest | CompletionRequest]]
    writer: ClassVar[type[ChatWriter | CompletionWriter]]

    def initialize(self) -> None:
        super().initialize()
        self._answering: asyncio.Task[None] | None = None

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer."""
        try:
            asked = self._read()
            events = self.served.running_node().generate(asked.to_generate())
        except AinetError as error:
            self.fail(error)
            return
        writer = self.writer(asked)
        self.connection.stream.set_nodelay(True)
        answering = self._stream(events, writer) if asked.stream else self._whole(events, writer)
        self._answering = asyncio.create_task(answering)
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._answering

    def on_connection_close(self) -> None:
        """End the answer: nobody listens any more."""
        super().on_connection_close()
        if self._answering is not None:
            self._answering.cancel()

    def _read(self) -> ChatRequest | CompletionRequest:
        if self.received > MAX_BODY:
            raise TooLarge(f"The request has {self.received} bytes; at most {MAX_BODY} are accepted.")
        try:
            return msgspec.json.decode(bytes(self.body), type=self.asked)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            where = re.search(r"`\$\.([^`]+)`|required field `([^`]+)`", str(exc))
            param = where[1] or where[2] if where is not None else None
            raise UsageError(f"The request is not understood: {exc}.", param=param) from exc

    async def _whole(self, events: AsyncGenerator[Event, None], writer: Writer) -> None:
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Done):
                        self.finish(msgspec.json.encode(writer.whole(event)))
                        return
        except AinetError as error:
            self.fail(error)

    async def _stream(self, events: AsyncGenerator[Event, None], writer: Writer) -> None:
        has_begun = False
        try:
            async with contextlib.aclosing(with_pauses(events, ALIVE)) as heard:
                async for event in heard:
                    if isinstance(event, Start) and not has_begun:
                        has_begun = True
                        first = writer.begin(event.model)
                        if first is not None:
                            self._send(first)
                    elif isinstance(event, Text) and event.text:
                        self._send(writer.text(event.text))
                    elif isinstance(event, Done):
                        for chunk in writer.end(event):
                            self._send(chunk)
                    elif event is None:
                        self._write(b": one moment\n\n")
        except (StreamClosedError, asyncio.CancelledError):
            raise
        except Exception as exc:
            if not isinstance(exc, AinetError):
                self.log.exception("An answer failed.")
                exc = AinetError(MISTAKE)
            if not self._headers_written:
                self.fail(exc)
                return
            self._write(b"data: " + msgspec.json.encode(detail(exc)) + b"\n\n")
        self._write(b"data: [DONE]\n\n")
        self.finish(set_content_type="text/event-stream")

    def _send(self, chunk: msgspec.Struct) -> None:
        self._write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")

    def _write(self, data: bytes) -> None:
        if not self._headers_written:
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("Cache-Control", "no-cache")
            self.set_header("X-Accel-Buffering", "no")
        self.write(data)
        self.push()


class ChatHandler(AnswerHandler):
    """``/v1/chat/completions``."""

    asked, writer = ChatRequest, ChatWriter


class CompletionHandler(AnswerHandler):
    """``/v1/completions``."""

    asked, writer = CompletionRequest, CompletionWriter


class ModelsHandler(ModelApiHandler):
    """``/v1/models``, and one of them."""

    @web.authenticated
    @authorized
    async def get(self, name: str | None = None) -> None:
        """Return what can be asked here."""
        try:
            known = await self.served.running_node().answers.find(models.models)()
            found = [_listed(one) for one in known if one.error is None and one.cuts != "no"]
            if name is None:
                self.finish(msgspec.json.encode({"object": "list", "data": found}))
                return
            one = next((one for one in found if one["id"] == name), None)
            if one is None:
                raise NotFound(f"No model is called {name[:200]!r}. `ainet models` lists them.")
            self.finish(msgspec.json.encode(one))
        except AinetError as error:
            self.fail(error)


def _listed(one: ListedModel) -> dict[str, Any]:
    more = {"where": one.where, "quantisation": one.quantisation, "layers": one.layers, "members": one.members}
    return {"id": one.name, "object": "model", "created": 0, "owned_by": one.where, "ainet": more}


def routes() -> list[tuple[str, type[ModelApiHandler]]]:
    """Return which handler answers at which address."""
    return [
        (PREFIX + "chat/completions", ChatHandler),
        (PREFIX + "completions", CompletionHandler),
        (PREFIX + "models", ModelsHandler),
        (PREFIX + "models/(.+)", ModelsHandler),
    ]
