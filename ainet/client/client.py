"""`NodeClient`: what kernels, the command and widgets say to the node."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import ssl
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ainet.api import models
from ainet.api.generate import PATH as GENERATE
from ainet.api.generate import Done, Message, decode_event
from ainet.api.news import KINDS, decode_news
from ainet.api.news import PATH as WATCH
from ainet.api.verb import SHORT, all_verbs
from ainet.client.answer import Answer
from ainet.config import default_data_dir
from ainet.daemon.runtime import wait_until_ready
from ainet.errors import AinetError, NodeNotRunning, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import httpx

    from ainet.api.generate import Event
    from ainet.api.models import Plan
    from ainet.api.news import Kind, News
    from ainet.api.verb import P, R, Verb

    #: The turns of a conversation, or a single question.
    Conversation = str | Sequence[Message | Mapping[str, str]]


#: A node that says nothing to a listener for so many seconds is gone.
SILENCE = 30.0


class NodeClient:
    """A connection to the node of this device. One client may be used from one thread at a time.

    Whatever the node does for its owner is a method: ``status()``, ``forget(name)``, … as in the command (`dir` lists
    them). They return the dataclasses of `ainet.api`.

    Parameters
    ----------
    url
        The node's address, such as ``http://127.0.0.1:40123/``.
    token
        The node's token, from its runtime file.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/") + "/"
        self._token = token

    @classmethod
    def running(cls, data_dir: str | Path | None = None) -> NodeClient:
        """Return a client of the node that runs on `data_dir`, waiting while that node starts.

        Parameters
        ----------
        data_dir
            The node's data directory; by default ``AINET_DATA_DIR``, or ``ainet`` in Jupyter's data directory.

        Raises
        ------
        NodeNotRunning
            No node runs there.
        """
        running = wait_until_ready(Path(data_dir).expanduser().absolute() if data_dir else default_data_dir())
        return cls(running.url, running.token)

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if "_http" in self.__dict__:
            self._http.close()
            del self.__dict__["_http"]

    def call(self, verb: Verb[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the node do something; the arguments are the fields of the verb's request.

        Raises
        ------
        AinetError
            The node refused or failed.
        """
        fields = verb.make(*args, **kwargs)
        path = verb.path.format(**{name: quote(str(fields.pop(name)), safe="") for name in verb.in_path})
        content = self._send(verb.method, path, fields, verb.timeout)
        try:
            return msgspec.json.decode(content, type=verb.reply)
        except msgspec.DecodeError as exc:
            raise AinetError(
                f"The node's answer is not understood ({exc}). Restart what is older: the node or this kernel."
            ) from exc

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the verb with this name as a method."""
        verb = all_verbs().get(name)
        if verb is None:
            raise AttributeError(f"A node has no verb {name!r}.")
        signature = inspect.signature(verb.request)

        def method(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)  # its error names the argument, and no class of requests
            return self.call(verb, *given.args, **given.kwargs)

        method.__name__ = method.__qualname__ = name
        method.__doc__ = f"{verb.help[0].upper()}{verb.help[1:]}."
        method.__signature__ = signature.replace(return_annotation=verb.reply)  # type: ignore[attr-defined]
        return method

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *all_verbs()]

    def plan(
        self,
        model: str | None = None,
        stages: int | None = None,
        devices: Sequence[Mapping[str, Any]] | None = None,
        *,
        private: bool = False,
    ) -> Plan:
        """Return which layers would run where, and why; nothing is loaded.

        Parameters
        ----------
        devices
            Devices to plan for in place of those that are there, the asking one first; see `DescribedDevice`.
        private
            Whether the first and the last layers stay on the device that asks.
        """
        whole = whole_path(model)
        if devices is not None:
            return self.call(models.plan_for, devices, whole, stages, private)
        return self.call(models.plan, whole, stages, private)

    def unload(self, model: str | None = None) -> list[str]:
        """Unload `model`, or all models; return the names of what was unloaded."""
        whole = whole_path(model)
        return (self.call(models.unload, whole) if whole else self.call(models.unload_all)).unloaded

    def generate(self, messages: Conversation, **options: Any) -> Generator[Event, None, None]:
        """Generate, yielding events as they happen; closing the generator stops the generation on every stage.

        Parameters
        ----------
        messages
            The conversation, ``[{"role": "user", "content": "…"}]``, or the text of a single question.
        options
            The other fields of `GenerateRequest`. A path as `model` is relative to the folder of the caller.

        Yields
        ------
        Progress, Start, Text, Done
            `Done` comes last.

        Raises
        ------
        AinetError
            The node refused or failed.
        """
        if isinstance(messages, str):
            messages = [Message("user", messages)]
        body = {name: value for name, value in options.items() if value is not None}
        if "model" in body:
            body["model"] = whole_path(body["model"])
        body["messages"] = msgspec.to_builtins(messages)
        try:
            content = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise UsageError(f"The question or an option is not valid Unicode: {exc.reason}.") from exc
        # Loading a model or fetching layers may be silent for long; a dead node closes the connection.
        with self._stream("POST", GENERATE, content=content, headers={"Content-Type": "application/json"}) as lines:
            for line in lines:
                event = decode_event(line)
                if event is not None:
                    yield event
                if isinstance(event, Done):
                    return
        raise NodeNotRunning(f"The node at {self.url} stopped in the middle of the answer. `ainet logs` may say why.")

    def ask(self, messages: Conversation, **options: Any) -> Answer:
        """Generate and return the whole answer; parameters and errors as of `generate`."""
        answer = Answer()
        for event in self.generate(messages, **options):
            answer.add(event)
        return answer

    def watch(self, *kinds: Kind) -> Generator[News, None, None]:
        """Listen to the node: yield all there is, then what changes, until the generator is closed.

        Another client must be used for anything else meanwhile.

        Parameters
        ----------
        kinds
            What the listener wants to know, such as ``members`` or ``sessions``; none: everything.

        Raises
        ------
        AinetError
            There is no such kind, or too many listen.
        NodeNotRunning
            The node has stopped.
        """
        with self._stream("GET", WATCH, params={KINDS: ",".join(kinds)}, silence=SILENCE) as lines:
            for line in lines:
                news = decode_news(line)
                if news is not None:
                    yield news
        raise NodeNotRunning(f"The node at {self.url} has stopped.")

    @contextlib.contextmanager
    def _stream(
        self, method: str, path: str, *, silence: float | None = None, **options: Any
    ) -> Generator[Iterator[str], None, None]:
        """Yield the lines of a stream, between which there may be so many seconds."""
        import httpx

        try:
            timeout = httpx.Timeout(SHORT, read=silence)
            with self._http.stream(method, path, timeout=timeout, **options) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                yield response.iter_lines()
        except httpx.TransportError as exc:
            raise self._gone(exc) from exc

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=self.url + "ainet/api/",
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": f"ainet ({os.getpid()})"},
            # A proxy of the environment is for other hosts than this one.
            trust_env=False,
            # Plain HTTP: loading a bundle of authorities would take longer than the request.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def _send(self, method: str, path: str, fields: dict[str, Any], timeout: float) -> bytes:
        import httpx

        given = {name: value for name, value in fields.items() if value is not None}
        try:
            if method == "GET":
                response = self._http.request(method, path, params=given, timeout=timeout)
            else:
                response = self._http.request(method, path, json=given or None, timeout=timeout)
        except httpx.TimeoutException as exc:
            raise NodeNotRunning(f"The node at {self.url} did not answer within {timeout:.0f} s.") from exc
        except httpx.TransportError as exc:
            raise self._gone(exc) from exc
        if not response.is_success:
            raise _error(response)
        return response.content

    def _gone(self, cause: Exception) -> NodeNotRunning:
        return NodeNotRunning(f"The node at {self.url} does not answer any more ({cause}). `ainet logs` may say why.")


def whole_path(model: str | None) -> str | None:
    """Return the name of a model; where it is a path, one that means the same in the node's own folder."""
    if not model or model.startswith("hf:"):
        return model
    path = Path(model)
    with contextlib.suppress(RuntimeError):  # nobody has that home
        path = path.expanduser()
    meant = model.startswith(("~", "./", "../")) or model.lower().endswith(".gguf")
    return str(path.absolute()) if meant or ("/" in model and path.is_file()) else model


def _error(response: httpx.Response) -> AinetError:
    try:
        return AinetError.from_dict(response.json())
    except ValueError:
        asked = f"{response.request.method} {response.request.url}"
        is_elsewhere = response.status_code < 500  # a node gives its reasons as JSON
        advice = "no node answers there, or one with another base URL" if is_elsewhere else "its log says more"
        return AinetError(f"The server answered {asked} with HTTP status {response.status_code}: {advice}.")
