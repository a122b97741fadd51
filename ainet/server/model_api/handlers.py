"""The routes of the model API."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ainet.api import models
from ainet.api.generate import Done
from ainet.errors import AinetError, NodeNotRunning, NotFound, TooLarge, UsageError
from ainet.models.catalog import is_called
from ainet.node import access_keys
from ainet.server.auth import AccessKeyIdentity
from ainet.server.base import MAX_BODY, MISTAKE, NodeHandler
from ainet.server.model_api.chat import ChatRequest
from ainet.server.model_api.completion import CompletionRequest
from ainet.server.model_api.failures import Failure, FailureBody, detail, failure, retry_after
from ainet.server.model_api.several import several
from ainet.server.model_api.writers import ChatWriter, CompletionWriter
from ainet.server.stream import with_pauses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from jupyter_server.auth import IdentityProvider

    from ainet.api.access_keys import AccessKey
    from ainet.api.generate import Event, GenerateRequest
    from ainet.api.models import ListedModel
    from ainet.server.model_api.several import Numbered
    from ainet.server.model_api.writers import Writer

Asked = TypeVar("Asked", bound=msgspec.Struct)
PREFIX = "/ainet/v1/"
#: Names of models that are no paths and no addresses.
PLAIN = re.compile(r"[\w.:+@ -]{1,200}")
#: A stream in which nothing was said for so many seconds says that it is alive.
ALIVE = 5.0


class Understood(NamedTuple):
    """What is asked, in groups with the same prompt; who puts the answers into their form; whether they stream."""

    groups: list[list[GenerateRequest]]
    writer: Writer
    streams: bool


class ModelApiHandler(NodeHandler):
    """Whoever may ask, and refusals and failures in OpenAI's form."""

    @functools.cached_property
    def access_key(self) -> AccessKey | None:
        """The key that the request bears; None for the owner."""
        node = self.served.node
        return node.access_keys.find(self._bearer) if node is not None else None

    @property
    def _bearer(self) -> str:
        return self.request.headers.get("Authorization", "").partition(" ")[2].strip()

    @property
    def identity_provider(self) -> IdentityProvider:
        """The one that knows the request's key, where it bears one."""
        key = self.access_key
        return AccessKeyIdentity(key) if key is not None else super().identity_provider

    async def prepare(self) -> None:  # type: ignore[override]
        """Take a key from where Anthropic's clients put it, too; see `NodeHandler`."""
        headers = self.request.headers
        if "Authorization" not in headers and "X-Api-Key" in headers:
            headers["Authorization"] = f"Bearer {headers['X-Api-Key']}"
        if self.served.node is None and self._bearer.startswith(access_keys.PREFIX):
            # Nobody can tell whether it is right, so it hears nothing of what is wrong.
            self.fail(NodeNotRunning("The node does not run now. Ask again in a few seconds."))
            return
        await super().prepare()

    async def usable_models(self) -> list[ListedModel]:
        """Return the models that can be asked here, and that the request's key opens; raises AinetError."""
        known = await self.served.running_node().answers.find(models.models)()
        key = self.access_key
        opens = key.models if key is not None else []
        usable = (one for one in known if one.error is None and one.cuts != "no")
        return [one for one in usable if not opens or any(is_called(one, name) for name in opens)]

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
            found = Failure(
                "The key is missing, wrong or has expired.", "authentication_error", None, "invalid_api_key"
            )
        elif status_code == 404:
            found = Failure(words or "There is nothing at this address.", "invalid_request_error", None, "not_found")
        elif status_code < 500:
            found = Failure(words or f"{self.request.method} is not possible here.", "invalid_request_error")
        else:
            found = Failure(MISTAKE, "server_error")
        self.finish(msgspec.json.encode(FailureBody(found)))


class AnswerHandler(ModelApiHandler):
    """Answers a request, whole or as it grows; a closed connection ends the answer on every stage."""

    def initialize(self) -> None:
        super().initialize()
        self._answering: asyncio.Task[None] | None = None

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer."""
        try:
            asked = self.understood()
        except AinetError as error:
            self.fail(error)
            return
        self.connection.stream.set_nodelay(True)
        self._answering = asyncio.create_task(self._answer(asked))
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._answering

    async def _answer(self, asked: Understood) -> None:
        try:
            if self.access_key is not None:
                await self._check_models([one for group in asked.groups for one in group])
            events = several(self._generate(), asked.groups)
        except AinetError as error:
            self.fail(error)
            return
        await (self._stream(events, asked.writer) if asked.streams else self._whole(events, asked.writer))

    def on_connection_close(self) -> None:
        """End the answer: nobody listens any more."""
        super().on_connection_close()
        if self._answering is not None:
            self._answering.cancel()

    def _generate(self) -> Callable[[GenerateRequest], AsyncGenerator[Event, None]]:
        """Return what answers; raises AinetError."""
        node = self.served.running_node()
        if self.access_key is None:
            return node.generate
        return functools.partial(node.access_keys.generate, self._bearer, node.generate)

    async def _check_models(self, requests: Collection[GenerateRequest]) -> None:
        """Raise `NotFound` for what a key does not open: it names models of the list, no files and no downloads."""
        for name in {one.model for one in requests if one.model is not None}:
            # A seller's models need not be known here.
            is_bought = all(one.seller is not None for one in requests) and PLAIN.fullmatch(name) is not None
            if not is_bought and not any(is_called(one, name) for one in await self.usable_models()):
                raise NotFound(f"This key opens no model that is called {name[:200]!r}.")

    def understood(self) -> Understood:
        """Return what is asked; raises AinetError."""
        raise NotImplementedError

    def read(self, kind: type[Asked]) -> Asked:
        """Return the body of the request; raises AinetError for what is not understood."""
        if self.received > MAX_BODY:
            raise TooLarge(f"The request has {self.received} bytes; at most {MAX_BODY} are accepted.")
        try:
            return msgspec.json.decode(bytes(self.body), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            where = re.search(r"`\$\.([^`]+)`|required field `([^`]+)`", str(exc))
            param = where[1] or where[2] if where is not None else None
            raise UsageError(f"The request is not understood: {exc}.", param=param) from exc

    async def _whole(self, events: AsyncGenerator[Numbered, None], writer: Writer) -> None:
        try:
            async with contextlib.aclosing(events):
                done = {number: event async for number, event in events if isinstance(event, Done)}
            self.finish(msgspec.json.encode(writer.whole([done[number] for number in sorted(done)])))
        except AinetError as error:
            self.fail(error)

    async def _stream(self, events: AsyncGenerator[Numbered, None], writer: Writer) -> None:
        try:
            async with contextlib.aclosing(with_pauses(events, ALIVE)) as heard:
                async for told in heard:
                    if told is None:
                        self._write(b": one moment\n\n")
                        continue
                    for chunk in writer.receive(*told):
                        self._send(chunk)
            for chunk in writer.end():
                self._send(chunk)
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

    def understood(self) -> Understood:
        """Return what is asked; raises AinetError."""
        asked = self.read(ChatRequest)
        return Understood(asked.to_generate(), ChatWriter(asked), bool(asked.stream))


class CompletionHandler(AnswerHandler):
    """``/v1/completions``."""

    def understood(self) -> Understood:
        """Return what is asked; raises AinetError."""
        asked = self.read(CompletionRequest)
        return Understood(asked.to_generate(), CompletionWriter(asked), bool(asked.stream))


class ModelsHandler(ModelApiHandler):
    """``/v1/models``, and one of them."""

    @web.authenticated
    @authorized
    async def get(self, name: str | None = None) -> None:
        """Return what can be asked here."""
        try:
            found = [_listed(one) for one in await self.usable_models()]
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
