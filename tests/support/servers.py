"""Jupyter servers with ainet in the test's own process, and a node double for states that a real one seldom has."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any

from jupyter_server.serverapp import ServerApp
from traitlets.config import Config

from ainet.api import models, node
from ainet.api.answers import Answers
from ainet.api.generate import Done, PlacedStage, Progress, PromptScored, Start, Text, Timings
from ainet.api.logprobs import Alternative, TokenLogprob
from ainet.api.models import Plan, Unloaded
from ainet.api.news import Changes, LinkState, News
from ainet.api.node import NodeStatus
from ainet.api.swarm import Removed
from ainet.api.verb import all_verbs
from ainet.daemon import runtime
from ainet.errors import UsageError
from ainet.node.access_keys import AccessKeys
from support.views import node_state

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, AsyncIterator, Collection
    from pathlib import Path

    from ainet.api.generate import Event, GenerateRequest
    from ainet.api.models import ListedModel
    from ainet.api.verb import Verb
    from ainet.config import AinetConfig
    from ainet.daemon.runtime import Runtime
    from ainet.errors import AinetError

JUPYTER_TOKEN = "the-jupyter-token"
PLACEMENT = [PlacedStage("double", 1, 0, 29)]
PLAN = Plan(model="m", name="m", n_ctx=1, n_ubatch=1, stages=[], why="", seconds=0.0)


class NodeDouble:
    """Generates words for ever, or what a test makes it do."""

    name = "double"
    #: Raised by `start`, before the first event, or after the third word.
    start_error: Exception | None = None
    early_error: AinetError | Exception | None = None
    late_error: AinetError | Exception | None = None

    def __init__(self, config: AinetConfig, *, log: logging.Logger, url: str) -> None:
        self.config = config
        self.url = url
        self.calls: list[tuple[Any, ...]] = []
        self.requests: list[GenerateRequest] = []
        self.generating = self.listening = 0
        self.words = 0
        self.stopped = False
        self.answers = Answers()
        self.access_keys = AccessKeys(config.make_data_dir() / "access_keys.sqlite", self.answers, log)
        self.answers.add(node.status, self.status)
        self.answers.add(models.models, self.models)
        self.answers.add(models.plan, self.plan)
        for verb in all_verbs().values():
            if verb not in self.answers:
                self.answers.add(verb, functools.partial(self._note, verb))

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        await self.access_keys.start()

    async def stop(self) -> None:
        await self.access_keys.stop()
        self.stopped = True

    async def open_notebooks(self, contents: Any, live: Any) -> None:
        pass

    async def status(self) -> NodeStatus:
        return NodeStatus(node_state(name=self.name, url=self.url), [], [])

    async def models(self) -> list[ListedModel]:
        raise RuntimeError("secret detail")

    async def plan(self, model: str | None = None, stages: int | None = None, private: bool = False) -> Plan:
        self.calls.append(("plan", model, stages))
        return PLAN

    async def _note(self, verb: Verb[..., Any], **given: Any) -> Any:
        self.calls.append((verb.name, *given.values()))
        return Unloaded([]) if verb.reply is Unloaded else Removed("", "", 0.0, [], False, 1)

    async def watch(self, kinds: Collection[str] = ()) -> AsyncGenerator[News, None]:
        self.listening += 1
        try:
            if "weather" in kinds:
                raise UsageError("There is no news of 'weather'.")
            for n in range(3):
                yield News(links=Changes({"a": LinkState(f"{n}", True, "direct", False, None)}))
            await asyncio.sleep(3600)
        finally:
            self.listening -= 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.generating += 1
        self.words = 0
        try:
            if self.early_error is not None:
                raise self.early_error
            yield Progress(text="loading", done=1, total=2)
            yield Start(model="words", placement=PLACEMENT, prompt_tokens=3)
            scored = [_told(token, b"p%d " % token) for token in range(3)] if request.scores_prompt else []
            if scored:
                yield PromptScored(begin=0, logprobs=scored)
            text, told = "", []
            limit = request.max_tokens or 10**9
            while self.words < limit:
                if self.late_error is not None and self.words == 3:
                    raise self.late_error
                await asyncio.sleep(0.005)
                piece = f"w{self.words} "
                text += piece
                logprobs = [_told(self.words, piece.encode())] if request.logprobs is not None else []
                told += logprobs
                yield Text(text=piece, tokens=[self.words], logprobs=logprobs)
                self.words += 1
            timings = Timings(prompt_tokens=3, generated_tokens=limit, first_token_s=0.1, tokens_per_s=42.0)
            yield Done(
                finish="length",
                text=text,
                tokens=list(range(limit)),
                model="words",
                seed=7,
                placement=PLACEMENT,
                received={},
                timings=timings,
                logprobs=told,
                prompt_logprobs=scored,
            )
        finally:
            self.generating -= 1


def _told(token: int, piece: bytes) -> TokenLogprob:
    """Return what the double tells of a token."""
    return TokenLogprob(token, piece, -0.5, [Alternative(token, piece, -0.5), Alternative(99, b"\xe2", -1.5)])


class Served:
    """A running server, its extension and how to reach it."""

    def __init__(self, app: ServerApp, data_dir: Path) -> None:
        self.app = app
        self.data_dir = data_dir
        self.extension = app.extension_manager.extension_points["ainet"].app
        self.url = f"http://{app.ip}:{app.port}{app.base_url}"

    @property
    def runtime(self) -> Runtime:
        found = runtime.find(self.data_dir)
        assert found is not None
        return found

    @property
    def node(self) -> NodeDouble:
        return self.extension.served.node

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.runtime.token}"}


@contextlib.asynccontextmanager
async def serve(
    folder: Path, node_class: type = NodeDouble, data_dir: Path | None = None, **traits: Any
) -> AsyncIterator[Served]:
    """Run a Jupyter server with the extension; `traits` are those of `ServerApp`."""
    data_dir = data_dir or folder / "data"
    config = Config()
    config.AinetExtension.node_class = node_class
    config.AinetConfig.data_dir = str(data_dir)
    config.IdentityProvider.token = JUPYTER_TOKEN
    config.BaseFileIdManager.db_path = str(folder / "file_ids.db")  # by default in the user's own folder
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    given = {"ip": "127.0.0.1", "port": 0, "root_dir": str(root), "allow_unauthenticated_access": False} | traits
    given.setdefault("jpserver_extensions", {"ainet": True})
    app = ServerApp(
        config=config,
        allow_root=True,
        open_browser=False,
        reraise_server_extension_failures=True,
        cookie_secret=b"not a secret",
        **given,
    )
    app.init_signal = lambda: None
    app.load_config_file = lambda *_: None
    app.initialize(argv=[], find_extensions=False)
    try:
        await app.extension_manager.start_all_extensions()
        yield Served(app, data_dir)
    finally:
        await app._cleanup()


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)
