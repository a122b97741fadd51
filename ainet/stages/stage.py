"""A stage: a shard with its KV cache, run by one decode thread that owns the connections to its neighbours.

The stages of a pipeline form a ring. The first one looks up embeddings and cuts prompts into chunks; each hands its
output to the next; the last one samples and sends the tokens to the first. A pipeline of one stage is its own ring.
A micro-batch carries rows of several sessions, and several micro-batches are on their way at the same time.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ainet.errors import AinetError, ModelError, ProtocolError, StageLost
from ainet.stages.kv_cache import KVCache
from ainet.stages.llama.embedding import Embedding
from ainet.stages.loading import Pace, load, measure_pace
from ainet.stages.protocol.segments import SEGMENT_BYTES, Segment
from ainet.stages.protocol.state import StageState
from ainet.stages.ring.frames import Frame, Kind, RingConnection
from ainet.stages.ring.hidden_states import HiddenStates
from ainet.stages.ring.inbox import Inbox
from ainet.stages.ring.kept_states import KeptStates
from ainet.stages.ring.ring import LAST, Ring
from ainet.stages.sessions.composer import Composer
from ainet.stages.sessions.drafts import most_outputs
from ainet.stages.sessions.head import Head
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ainet.models.shards import Shard
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.protocol.spec import StageSpec

#: What the first stage computes when its turn comes, and what every stage does at once.
PLANS = frozenset((Kind.PROMPT, Kind.REPLAY, Kind.TOKENS))
ORDERS = frozenset((Kind.RELEASE, Kind.CLEAR, Kind.KEEP, Kind.RESTORE, Kind.FORGET, Kind.BEGIN, Kind.AGAIN))


class Remains(NamedTuple):
    """The rest of a stage whose pipeline has ended: its model, its knowledge of the owner's sessions, its speed."""

    cache: KVCache
    owner: str
    pace: Pace


class Stage:
    """One stage at work.

    Parameters
    ----------
    spec
        The description of the stage.
    shard
        The file to load, which the node assembled and checked.
    log
        For what nobody is there to hear.
    aborted
        Asked with the part that is loaded (0 to 1); loading ends when it answers True.
    remains
        The rest of an earlier stage of the same kind, if there was one: see `detach`.
    folder
        For temporary files; None for the system's.
    kept_bytes
        Most bytes of hidden states that are kept there.
    """

    def __init__(
        self,
        spec: StageSpec,
        shard: Shard,
        log: logging.Logger,
        aborted: Callable[[float], bool] = lambda _: False,
        *,
        remains: Remains | None = None,
        folder: str | None = None,
        kept_bytes: int | None = None,
        timing: Timing = TIMING,
    ) -> None:
        self.spec = spec
        self._timing = timing
        self._log = log
        self._is_first = shard.is_first
        self.llama = remains.cache.llama if remains is not None else load(spec, shard, aborted)
        try:
            self._embedding = Embedding(shard) if shard.embedding is not None else None
            self._ring = Ring(self._dispatch)
            self._head = self._new_head() if shard.is_last else None
        except BaseException:
            self.llama.close()
            raise
        self._hidden_states = HiddenStates(spec.hidden_states, self.llama.n_embd)
        self.inbox = Inbox()
        self._previous: RingConnection | None = None
        self._next: RingConnection | None = None
        self._in_flight, self._stopping = 0, False
        #: Positions of sessions that a new first stage computes for other new ones only.
        self._again: dict[int, int] = {}
        self._is_followed_by_new = False
        # One chunk on every stage and one on the way keeps all of them busy; more would only delay a cancellation.
        self._window = spec.n_stages + 1
        self._ended = threading.Event()
        #: Seconds of waiting in which the stage before said nothing, and how many are too many.
        self._silent, self._limit = 0.0, timing.first_silence
        self._patience = timing.silence
        self._is_new = remains is None
        if remains is not None:
            self._cache, pace = remains.cache, remains.pace
            if remains.owner != spec.owner or not self.llama.can_keep:
                self._cache.clear()
        else:
            is_kept = self.llama.can_keep and not shard.is_last
            kept = KeptStates(self._hidden_states.row_bytes, folder, log, kept_bytes) if is_kept else None
            self._cache = KVCache(self.llama, self._hidden_states, kept, exact=spec.exact)
            pace = measure_pace(self.llama, self._embedding, spec, shard)
        self._pace, self._token_seconds = pace, pace.token_seconds
        n_groups = 1 if pace.rows_are_free else spec.n_devices or spec.n_stages
        self._composer = Composer(pace.chunk, n_groups, most_outputs(spec.sessions), equal_rows=self.llama.has_state)
        #: The number of calls of llama.cpp.
        self.decodes = 0
        self._thread: threading.Thread | None = None
        self.error: AinetError | None = None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def max_payload(self) -> int:
        """Largest payload that a neighbour may send."""
        rows = self._hidden_states.row_bytes * self.spec.n_ubatch
        return SEGMENT_BYTES * (self.spec.n_slots + 1) + max(self.spec.max_payload, rows)

    @property
    def head(self) -> Head:
        """The head, on the last stage."""
        if self._head is None:
            raise ProtocolError("Only the last stage of a pipeline answers requests.")
        return self._head

    def start(
        self,
        previous: RingConnection | None,
        following: RingConnection | None,
        kept_tokens: int = 0,
        *,
        recovery: Recovery | None = None,
        patience: float = TIMING.silence,
    ) -> None:
        """Begin to work between two neighbours (none, when the stage is the whole pipeline).

        Parameters
        ----------
        kept_tokens
            Tokens of earlier prompts that every stage can keep.
        recovery
            Sessions of a lost pipeline that go on.
        patience
            Seconds of silence after which the stage before counts as lost.
        """
        if self._thread is not None:
            raise ProtocolError("The stage is linked already.")
        if recovery is not None:
            recovery.check(self.llama.n_slots)
        self._previous, self._next, self._patience = previous and previous.within(patience), following, patience
        self._cache.go_on(recovery)
        self._is_followed_by_new = recovery is not None and self.spec.last_layer + 1 in recovery.new
        if self._head is not None:
            self._head.start(kept_tokens, recovery)
            if following is not None:
                following.unblock()  # prompts that are longer than what the sockets hold must not stop the ring
        self._thread = threading.Thread(target=self._run, name=f"decode {self.spec.pipeline}", daemon=True)
        self._thread.start()
        threading.Thread(target=self._live, name=f"signs of life {self.spec.pipeline}", daemon=True).start()

    def stop(self) -> None:
        """End the decode thread and free the model."""
        if self._end():
            self.llama.close()

    def detach(self) -> Remains | None:
        """End the decode thread; returns what is left for another stage of the same kind, unless the model failed."""
        if not self._end():
            return None
        if self.error is not None and not isinstance(self.error, StageLost):
            self.llama.close()
            return None
        return Remains(self._cache, self.spec.owner, self._pace._replace(token_seconds=self._token_seconds))

    def _end(self) -> bool:
        """End the decode thread, if it runs; whether it has ended."""
        if self._thread is None:
            self._close()
        elif self._thread.is_alive():
            self.inbox.put(self._stop)
            self._thread.join(timeout=self._timing.stage_stop)
            if self._thread.is_alive():
                for link in (self._previous, self._next):
                    if link is not None:
                        link.close()  # it may be waiting for a neighbour that takes nothing any more
            self._thread.join(timeout=60)
            return not self._thread.is_alive()
        return True

    def state(self) -> StageState:
        """Return what it has measured and keeps."""
        return StageState(
            bytes_sent=self._next.bytes_sent if self._next else 0,
            frames_sent=self._next.frames_sent if self._next else 0,
            decodes=self.decodes,
            token_seconds=self._token_seconds,
            rows=self._cache.rows,
            seconds=self._cache.seconds,
            buffers=self.llama.buffers,
            held=None if self._is_new or self._thread is not None else self._cache.held(),
        )

    def _dispatch(self, kind: Kind, segments: list[Segment], tokens: NDArray[np.int32]) -> None:
        """Tell the first stage what to do, or do it, when the stage is the whole pipeline."""
        if self._next is not None:
            self._next.send_tokens(kind, segments, tokens)
        elif kind in ORDERS:
            self._order(kind, segments)
        else:
            self._plan(kind, segments, tokens)

    # The decode thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                for command in self.inbox.drain():
                    command()
                if self._composer and self._in_flight < self._window:
                    if self._previous is not None and self._previous.readable():
                        self._receive(self._previous.receive())
                    else:
                        self._step()
                elif not self._stopping:
                    self._listen()
        except OSError as exc:
            msg = f"the stage with layers {self._layers} lost a neighbour ({exc})"
            self._fail(StageLost(msg))
        except AinetError as exc:
            self._fail(exc)
        except Exception:
            self._log.exception("The decode thread of %s failed.", self.spec.pipeline)
            self._fail(ModelError(f"The stage with layers {self._layers} failed; the engine's log has the details."))
        finally:
            self._close()
            self.on_end()

    def _listen(self) -> None:
        """Wait for what comes next, and notice when the stage before gives no sign of life any more."""
        came = self.inbox.wait(self._previous, self._timing.alive)
        if self._head is not None:
            self._head.tick()
        if came:
            assert self._previous is not None  # noqa: S101 - what `wait` has just seen readable
            self._receive(self._previous.receive())
            self._silent, self._limit = 0.0, self._patience
        elif came is None and self._previous is not None:
            # Only what this thread waited counts: while it computed, or did not run itself, it could hear nothing.
            self._silent += self._timing.alive
            if self._silent >= self._limit:
                raise TimeoutError(f"nothing came for {self._silent:.0f} seconds")

    def _live(self) -> None:
        """Give signs of life to the stage after this one while nothing else is sent."""
        link = self._next
        while link is not None and not self._ended.wait(self._timing.alive):
            if not link.has_sent:
                try:
                    link.send(Kind.ALIVE)
                except (OSError, ValueError):  # the decode thread notices, too
                    return
            link.has_sent = False

    @property
    def _layers(self) -> str:
        return f"{self.spec.first_layer}–{self.spec.last_layer}"

    def _stop(self) -> None:
        self._stopping = True

    def _receive(self, frame: Frame) -> None:
        kind, segments = frame.kind, frame.segments
        if kind == Kind.HIDDEN and not self._is_first:
            self._process(*self._wanted(segments, self._hidden_states.read(frame)))
        elif kind == Kind.ALIVE:
            pass
        elif kind == Kind.KNOWN and not self._is_first:
            self._catch_up(segments, self._hidden_states.read(frame))
        elif kind in PLANS and self._is_first:
            self._in_flight -= kind == Kind.TOKENS  # a micro-batch has gone all the way round
            self._plan(kind, segments, frame.tokens().copy())
        elif kind in ORDERS:
            if self._head is None:
                self._link.send(kind, segments)
            self._order(kind, segments)
        elif kind == Kind.ERROR:
            raise frame.error()
        else:
            raise ProtocolError(f"A {kind.name} frame does not belong to the stage with layers {self._layers}.")

    def _wanted(self, segments: list[Segment], rows: NDArray[np.float32]) -> tuple[list[Segment], NDArray[np.float32]]:
        """Return what is still worth computing: at the end, not the rows of sessions that are over."""
        if self._head is None or all(map(self._head.answers, segments)):
            return segments, rows
        wanted = [self._head.answers(segment) for segment in segments]
        left = [segment for segment, is_wanted in zip(segments, wanted, strict=True) if is_wanted]
        return left, rows[np.repeat(wanted, [segment.rows for segment in segments])]

    def _plan(self, kind: Kind, segments: list[Segment], tokens: NDArray[np.int32]) -> None:
        """Note what the sessions have to compute."""
        begin = 0
        if kind == Kind.TOKENS:
            for slot, position, rows, _ in segments:
                self._composer.tokens(slot, position, tokens[begin : begin + rows])
                begin += rows
            return
        for slot, position, rows, outputs in segments:
            is_replay = kind == Kind.REPLAY
            # Where nothing depends on the rows beside a row, the shapes of the first time do not matter.
            step = outputs if is_replay and not self.spec.exact else self.spec.n_ubatch
            some = tokens[begin : begin + rows]
            begin += rows
            if position < self._again.get(slot, 0):
                self._compute_again(slot, position, some, step)
            else:
                logits, is_last = bool(outputs % LAST) and not is_replay, outputs >= LAST and not is_replay
                self._composer.prompt(slot, position, some, step=step, logits=logits, is_last=is_last)

    def _compute_again(self, slot: int, position: int, tokens: NDArray[np.int32], step: int) -> None:
        """Compute what a lost first stage had computed, for stages that are new as well."""
        for i in range(0, len(tokens), step):
            for command in self.inbox.drain():
                command()
            if self._stopping:
                return
            some = tokens[i : i + step]
            self._catch_up([Segment(slot, position + i, len(some))], self._rows(some))

    def _order(self, kind: Kind, segments: list[Segment]) -> None:
        """Do what every stage does, between the same two micro-batches as the others."""
        self._cache.order(kind, segments)
        for slot, position, *_ in segments:
            if kind == Kind.AGAIN:
                self._bring_up(slot, position)
            elif kind == Kind.RELEASE:
                self._composer.release(slot)
                self._again.pop(slot, None)
                if self._head is not None:
                    self._head.released(slot)

    def _step(self) -> None:
        """Process the next micro-batch of what the first stage was asked."""
        segments, tokens = self._composer.compose()
        if self._next is not None:
            self._in_flight += 1
        self._process(segments, self._rows(tokens))

    def _rows(self, tokens: NDArray[np.int32]) -> NDArray[Any]:
        return tokens if self._embedding is None else self._embedding.look_up(tokens)

    def _process(self, segments: list[Segment], rows: NDArray[Any]) -> None:
        if not segments:  # whoever asked has left
            self._ring.tokens([])
            return
        begun = time.perf_counter()
        hidden = self._decode(segments, rows)
        if len(rows) == 1:
            seconds = time.perf_counter() - begun
            self._token_seconds += 0.1 * (seconds - self._token_seconds)
        if hidden is None:
            self.head.decoded(segments)
            return
        try:
            self._link.send(Kind.HIDDEN, segments, hidden)
        finally:
            self._cache.note_sent(segments, hidden)  # while the next stage computes

    def _decode(self, segments: list[Segment], rows: NDArray[Any]) -> memoryview | None:
        self.decodes += 1
        return self._cache.decode(segments, rows)

    def _bring_up(self, slot: int, n: int) -> None:
        """Have new stages know the first `n` positions of a session that others know."""
        if self._is_first and self._is_new:
            self._again[slot] = n
        elif self._is_followed_by_new:
            for segment, data in self._cache.sent(slot, n):
                self._link.send(Kind.KNOWN, [segment], data)

    def _catch_up(self, segments: list[Segment], rows: NDArray[Any]) -> None:
        """Compute what the stage that was here before had computed; the next stage knows it, unless it is new, too."""
        hidden = self._decode(segments, rows)
        if hidden is None:
            return
        self._cache.note_sent(segments, hidden)
        if self._is_followed_by_new:
            self._link.send(Kind.KNOWN, segments, hidden)

    def _new_head(self) -> Head:
        spec = self.spec
        return Head(
            self.llama,
            self._ring,
            sessions=spec.sessions,
            queue=spec.queue,
            exact=spec.exact,
            speculate=spec.speculate,
            is_whole=self._is_first,
            timing=self._timing,
        )

    @property
    def _link(self) -> RingConnection:
        if self._next is None:
            raise ProtocolError(f"The stage with layers {self._layers} has no next stage.")
        return self._next

    def _fail(self, error: AinetError) -> None:
        """Say what happened to whoever can still be reached: the error travels on to the head."""
        self.error = error
        self._log.error("%s: %s", self.spec.pipeline, error.message)
        if self._head is not None:
            self._head.fail(error)
        elif self._next is not None:
            try:
                self._next.send(Kind.ERROR, payload=msgspec.msgpack.encode(error.to_dict()))
            except OSError:
                self._log.info("%s: the next stage is gone, too.", self.spec.pipeline)

    def _close(self) -> None:
        self._ended.set()
        for link in (self._previous, self._next):
            if link is not None:
                link.close()
        if self._head is not None:
            self._head.fail(StageLost("the pipeline was unloaded"))
        self.inbox.close()
        if self._embedding is not None:
            self._embedding.close()
