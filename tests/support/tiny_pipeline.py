"""Stages of a tiny model in the process of the test, which can be lost and replaced."""

from __future__ import annotations

import logging
import queue
import threading
from itertools import pairwise

import msgspec

from ainet.identity.identity import Identity
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.protocol.generation import Done, Failed, Resume, Started, Text
from ainet.stages.protocol.recovery import Recovery, plan_recovery
from ainet.stages.protocol.spec import StageSpec
from ainet.stages.ring.frames import RingListener, connect
from ainet.stages.stage import Stage
from ainet.timing import TIMING
from support.tiny_architectures import write_tiny
from support.tiny_models import write_model
from support.whole_stage import EPOCH

N_STAGES = 4
N_CTX = 2048
CHUNK = 32
N_PROMPT = 150
TOKENS = 40


class Answer:
    """What a session said, until its pipeline was lost or the answer was complete."""

    def __init__(self, request) -> None:
        self.request, self.events = request, queue.Queue()
        self.prompt, self.tokens, self.laps, self.key, self.reused = [], [], [], 0, 0
        self.done = False
        #: How many tokens the stages have told, whether anybody has listened to them yet or not.
        self.told = 0

    def reply(self, event) -> None:
        """Hear of an event, in the decode thread."""
        self.told += len(event.tokens) if isinstance(event, Text) else 0
        self.events.put(event)

    def hear(self, *, until: int = N_CTX) -> None:
        """Listen until this many tokens came, or the end."""
        while not self.done and len(self.tokens) < until:
            self._hear(self.events.get(timeout=60))

    def hear_the_rest(self) -> None:
        """Take what was said before the pipeline was lost."""
        while not self.done:
            event = self.events.get(timeout=60)
            if isinstance(event, Failed):
                assert "lost" in event.error["code"]
                return
            self._hear(event)

    def _hear(self, event) -> None:
        match event:
            case Started() as started:
                self.prompt, self.key, self.reused = started.prompt, started.key, started.reused
            case Text() as text:
                self.tokens += text.tokens
                self.laps += text.laps
            case Done(finish=finish):
                self.done, self.finish = True, finish
            case Failed() as failed:
                raise AssertionError(failed)

    @property
    def rest(self):
        resume = Resume(self.prompt, self.tokens, self.laps, self.key)
        return msgspec.structs.replace(self.request, messages=[], resume=resume)


class Pipeline:
    """Stages of a tiny model in this process, which can be lost and replaced.

    Parameters
    ----------
    tiny, cuts
        Another model than four layers of Llama, and where it is cut.
    """

    def __init__(self, folder, timing=TIMING, kept_bytes=None, tiny=None, cuts=(1, 2, 3), **options) -> None:
        self._more = {"timing": timing, "kept_bytes": kept_bytes}
        self._folder = folder
        self._identity = Identity.open(folder / "node", "node")
        self._store = TensorStore(folder / "store")
        if tiny is not None:
            path = write_tiny(folder / "tiny.gguf", tiny)
        else:
            path = write_model(folder / "tiny.gguf", "llama", N_STAGES, metadata={"context_length": N_CTX})
        self._manifest = self._store.register(path, name="tiny")
        self._options = options
        self._ranges = [(first, end - 1) for first, end in pairwise((0, *cuts, self._manifest.n_layers))]
        self.stages: list[Stage] = []
        self.recovery: Recovery | None = None
        #: The last stage waits where this is true, until it is told to do something: so what happens to an answer
        #: happens while it runs.
        self.holds = lambda: False

    def load(self, remains=None, owner="o"):
        """Load the stages, those that are left as they are, and link them to a ring."""
        self.stages = []
        n_stages = len(self._ranges)
        for (first, last), left in zip(self._ranges, remains or [None] * n_stages, strict=True):
            spec = StageSpec(
                pipeline="p",
                epoch=EPOCH,
                owner=owner,
                model=self._manifest.digest,
                first_layer=first,
                last_layer=last,
                n_stages=n_stages,
                **{
                    "n_ctx": N_CTX, "n_ubatch": CHUNK, "threads": 1, "gpu": False, "sessions": 3, "queue": 3,
                    **self._options,
                },
            )  # fmt: skip
            shard = ShardStore(self._store).assemble(self._manifest, first, last)
            stage = Stage(spec, shard, logging.getLogger("stage"), remains=left, folder=str(self._folder), **self._more)
            self.stages.append(stage)
        self.recovery = plan_recovery(
            [first for first, _ in self._ranges], [stage.state().held for stage in self.stages]
        )
        credentials = self._identity.local_credentials()
        ways = []
        for stage in self.stages:
            listener, found = RingListener(credentials, "127.0.0.1", print), []
            accepting = threading.Thread(
                target=lambda listener=listener, found=found, most=stage.max_payload: found.append(
                    listener.accept(self._identity.id, EPOCH, most)
                )
            )
            accepting.start()
            address = ("127.0.0.1", listener.port)
            sender = connect(credentials, address, self._identity.id, EPOCH, stage.max_payload)
            accepting.join()
            ways.append((sender, found[0]))
        for i, stage in enumerate(self.stages):
            stage.start(
                ways[i][1], ways[(i + 1) % n_stages][0], self._options.get("kept_tokens", 0), recovery=self.recovery
            )

    def lose(self, *lost: int, owner="o"):
        """Lose stages; the others end, and their models and what they know stay for the pipeline in their place."""
        for number in lost:
            self.stages[number].stop()
        remains = [None if i in lost else stage.detach() for i, stage in enumerate(self.stages)]
        self.holds = lambda: False
        self.load(remains, owner)

    def close(self):
        for stage in self.stages:
            stage.stop()
        self._store.close()

    def open(self, *requests, until: int = N_CTX, holds=None):
        """Ask at once; the last stage holds all there is when each answer has this many tokens, or as `holds` says."""
        answers = [Answer(request) for request in requests]
        self._ask(answers, until, holds)
        return answers[0] if len(answers) == 1 else answers

    def go_on(self, *answers, until: int = N_CTX) -> None:
        """Ask for the rest of answers."""
        for answer in answers:
            answer.request = answer.rest
        self._ask(answers, until)

    def _ask(self, answers, until, holds=None) -> None:
        self.holds = holds or (lambda: all(answer.told >= until for answer in answers))
        last = self.stages[-1]

        def begin():
            for answer in answers:
                last.head.open(answer.request, answer.reply)

        last.inbox.put(begin)

    def known(self, number):
        """What a stage knows of its sessions."""
        return self.stages[number]._cache.held()

    @property
    def decodes(self):
        return [stage.decodes for stage in self.stages]
