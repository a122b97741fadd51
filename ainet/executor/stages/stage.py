"""A stage: a shard with its KV cache, run by one decode thread that owns the connections to its neighbours.

The stages of a pipeline form a ring. The first one looks up embeddings and cuts prompts into chunks; each hands its
output to the next; the last one samples and sends the tokens to the first. A pipeline of one stage is its own ring.
A micro-batch carries rows of several sessions, and several micro-batches are on their way at the same time.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ainet.errors import AinetError, ModelError, ProtocolError, StageLost
from ainet.executor.stages.composer import Composer
from ainet.executor.stages.drafts import MAX_DRAFT
from ainet.executor.stages.embedding import Embedding
from ainet.executor.stages.frames import DataLink, Frame, Kind
from ainet.executor.stages.head import Head
from ainet.executor.stages.hidden_states import HiddenStates
from ainet.executor.stages.inbox import Inbox
from ainet.executor.stages.llama import Llama
from ainet.executor.stages.segments import SEGMENT_BYTES, Segment
from ainet.executor.stages.sockets import ALIVE_SECONDS, FIRST_SILENCE_SECONDS, SILENCE_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ainet.executor.models.shards import Shard
    from ainet.executor.stages.head import Next
    from ainet.executor.stages.spec import StageSpec

#: What the first stage computes when its turn comes, and what every stage does at once.
PLANS = frozenset((Kind.PROMPT, Kind.REPLAY, Kind.TOKENS))
ORDERS = frozenset((Kind.RELEASE, Kind.CLEAR, Kind.KEEP, Kind.RESTORE, Kind.FORGET))
#: So many tokens are computed to measure the time of one: the first ones are slower.
PROBES = 4
#: Steps of a replay in one frame.
MAX_STEPS = 500
NO_TOKENS = np.empty(0, np.int32)


class Stage:
    """One stage at work.

    Parameters
    ----------
    spec
        What to be.
    shard
        The file to load, which the node assembled and checked.
    log
        For what nobody is there to hear.
    aborted
        Loading ends when it answers True.
    llama
        The shard as an earlier stage of the same kind loaded it, if one did: see `detach`.
    """

    def __init__(
        self,
        spec: StageSpec,
        shard: Shard,
        log: logging.Logger,
        aborted: Callable[[], bool] = lambda: False,
        llama: Llama | None = None,
    ) -> None:
        self.spec = spec
        self._log = log
        self._is_first, self._is_last = shard.is_first, shard.is_last
        self.llama = llama or Llama(
            shard.path,
            hidden_out=not shard.is_last,
            n_ctx=spec.n_ctx,
            n_ubatch=spec.n_ubatch,
            n_slots=spec.n_slots,
            n_outputs=max(spec.sessions, MAX_DRAFT + 1),
            threads=spec.threads,
            gpu=spec.gpu,
            exact=spec.exact,
            aborted=aborted,
        )
        try:
            self._embedding = Embedding(shard) if shard.embedding is not None else None
            self._head = self._new_head() if shard.is_last else None
        except BaseException:
            self.llama.close()
            raise
        self._hidden_states = HiddenStates(spec.hidden_states, self.llama.n_embd)
        self.inbox = Inbox()
        self._previous: DataLink | None = None
        self._next: DataLink | None = None
        self._composer = Composer(spec.n_ubatch, spec.n_stages)
        self._in_flight = 0
        self._filled: dict[int, int] = {}  # positions of each session in the KV cache
        self._copies: dict[int, NDArray[np.uint8]] = {}
        # One chunk on every stage and one on the way keeps all of them busy; more would only delay a cancellation.
        self._window = spec.n_stages + 1
        self._stopping = False
        self._ended = threading.Event()
        #: Seconds of waiting in which the stage before said nothing, and how many are too many.
        self._silent, self._limit = 0.0, FIRST_SILENCE_SECONDS
        self._patience = SILENCE_SECONDS
        self._token_seconds = self._probe()
        #: How often llama.cpp was called.
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
            msg = "Only the last stage of a pipeline answers requests."
            raise ProtocolError(msg)
        return self._head

    def start(
        self,
        previous: DataLink | None,
        following: DataLink | None,
        kept_tokens: int = 0,
        patience: float = SILENCE_SECONDS,
    ) -> None:
        """Begin to work between two neighbours (none, when the stage is the whole pipeline).

        Parameters
        ----------
        kept_tokens
            Tokens of earlier prompts that every stage can keep.
        patience
            Seconds of silence after which the stage before counts as lost.
        """
        if self._thread is not None:
            msg = "The stage is linked already."
            raise ProtocolError(msg)
        self._previous, self._next, self._patience = previous, following, patience
        if self._head is not None:
            self._head.start(kept_tokens)
            if following is not None:
                following.unblock()  # prompts that are longer than what the sockets hold must not stop the ring
        self._thread = threading.Thread(target=self._run, name=f"decode {self.spec.pipeline}", daemon=True)
        self._thread.start()
        threading.Thread(target=self._live, name=f"signs of life {self.spec.pipeline}", daemon=True).start()

    def stop(self) -> None:
        """End the decode thread and free the model."""
        if self._end():
            self.llama.close()

    def detach(self) -> Llama | None:
        """End the decode thread; returns the model for another stage of the same kind, unless it is what failed."""
        if not self._end():
            return None
        if self.error is not None and not isinstance(self.error, StageLost):
            self.llama.close()
            return None
        self.llama.clear()
        return self.llama

    def _end(self) -> bool:
        """End the decode thread, if it runs; whether it has ended."""
        if self._thread is None:
            self._close()
        elif self._thread.is_alive():
            self.inbox.put(self._stop)
            self._thread.join(timeout=60)
            return not self._thread.is_alive()
        return True

    def state(self) -> dict[str, Any]:
        """Return figures: bytes sent to the next stage, seconds that a token took lately, llama.cpp's buffers."""
        return {
            "bytes_sent": self._next.bytes_sent if self._next else 0,
            "frames_sent": self._next.frames_sent if self._next else 0,
            "decodes": self.decodes,
            "token_seconds": self._token_seconds,
            "buffers": self.llama.buffers,
            "error": self.error.to_dict() if self.error else None,
        }

    # The ring, as the head sees it. A pipeline of one stage obeys at once; else the first stage does, and passes on
    # what concerns all of them, in order with the micro-batches.

    def prompt(self, slot: int, position: int, tokens: NDArray[np.int32], *, logits: bool) -> None:
        """Have the first stage process `tokens` from `position` on; what is before it is in every KV cache."""
        segment = Segment(slot, position, len(tokens), int(logits))
        self._tell(Kind.PROMPT, [segment], tokens)

    def replay(self, slot: int, steps: Sequence[tuple[int, list[int], int]]) -> None:
        """Have the first stage process tokens that were generated before, in the shapes in which they were then."""
        for i in range(0, len(steps), MAX_STEPS):
            some = steps[i : i + MAX_STEPS]
            segments = [Segment(slot, position, len(tokens), at_once) for position, tokens, at_once in some]
            self._tell(Kind.REPLAY, segments, np.array([token for _, tokens, _ in some for token in tokens], np.int32))

    def tokens(self, following: Sequence[Next]) -> None:
        """Have the first stage process what comes next in the sessions of a micro-batch."""
        segments = [Segment(slot, position, len(tokens), len(tokens)) for slot, position, tokens in following]
        self._tell(Kind.TOKENS, segments, np.array([token for one in following for token in one.tokens], np.int32))

    def release(self, slot: int) -> None:
        """Have every stage forget the session."""
        self._tell(Kind.RELEASE, [Segment(slot, 0, 0)])

    def clear(self) -> None:
        """Have every stage forget every session."""
        self._tell(Kind.CLEAR, [])

    def keep(self, slot: int, number: int) -> None:
        """Have every stage copy what it knows of a session."""
        self._tell(Kind.KEEP, [Segment(slot, number, 0)])

    def restore(self, slot: int, number: int, n: int) -> None:
        """Have every stage begin a session with the first `n` tokens of a copy."""
        self._tell(Kind.RESTORE, [Segment(slot, number, n)])

    def forget(self, numbers: Sequence[int]) -> None:
        """Have every stage drop copies."""
        self._tell(Kind.FORGET, [Segment(0, number, 0) for number in numbers])

    def _tell(self, kind: Kind, segments: list[Segment], tokens: NDArray[np.int32] = NO_TOKENS) -> None:
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
                for command in self.inbox.take():
                    command()
                if self._composer and self._in_flight < self._window:
                    if self._previous is not None and self._previous.readable():
                        self._take(self._previous.receive())
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
        came = self.inbox.wait(self._previous, ALIVE_SECONDS)
        if came:
            assert self._previous is not None  # noqa: S101 - what `wait` has just seen readable
            self._take(self._previous.receive())
            self._silent, self._limit = 0.0, self._patience
        elif came is None and self._previous is not None:
            # Only what this thread waited counts: while it computed, or did not run itself, it could hear nothing.
            self._silent += ALIVE_SECONDS
            if self._silent >= self._limit:
                msg = f"nothing came for {self._silent:.0f} seconds"
                raise TimeoutError(msg)

    def _live(self) -> None:
        """Give signs of life to the stage after this one while nothing else is sent."""
        link = self._next
        while link is not None and not self._ended.wait(ALIVE_SECONDS):
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

    def _take(self, frame: Frame) -> None:
        kind, segments = frame.kind, frame.segments
        if kind == Kind.HIDDEN and not self._is_first:
            self._process(*self._wanted(segments, self._hidden_states.read(frame)))
        elif kind == Kind.ALIVE:
            pass
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
            msg = f"A {kind.name} frame does not belong to the stage with layers {self._layers}."
            raise ProtocolError(msg)

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
            logits = bool(outputs) and not is_replay
            self._composer.prompt(slot, position, tokens[begin : begin + rows], step=step, logits=logits)
            begin += rows

    def _order(self, kind: Kind, segments: list[Segment]) -> None:
        """Do what every stage does, between the same two micro-batches as the others."""
        if kind == Kind.CLEAR:
            self._filled.clear()
            self.llama.clear()
        for slot, number, rows, _ in segments:
            if kind == Kind.RELEASE:
                self._release(slot)
            elif kind == Kind.KEEP:
                self._copies[number] = self.llama.save(slot)
            elif kind == Kind.FORGET:
                self._copies.pop(number, None)
            else:
                self.llama.restore(slot, self._copies[number])
                self.llama.keep(slot, rows)
                self._filled[slot] = rows

    def _release(self, slot: int) -> None:
        self._composer.release(slot)
        if not self.spec.exact:  # else its cells stay taken until no session runs
            self._filled.pop(slot, None)
            if self._filled:
                self.llama.keep(slot, 0)
            else:
                self.llama.clear()
        if self._head is not None:
            self._head.released(slot)

    def _step(self) -> None:
        """Process the next micro-batch of what the first stage was asked."""
        segments, tokens = self._composer.compose()
        if self._next is not None:
            self._in_flight += 1
        self._process(segments, tokens if self._embedding is None else self._embedding.look_up(tokens))

    def _process(self, segments: list[Segment], rows: NDArray[Any]) -> None:
        if not segments:  # whoever asked has left
            self.tokens([])
            return
        begun = time.perf_counter()
        for slot, position, n, _ in segments:
            filled = self._filled.get(slot, 0)
            if position < filled:  # the rest was tried only
                self.llama.keep(slot, position)
            elif position > filled:
                msg = f"The stage with layers {self._layers} was given position {position}, but knows {filled} only."
                raise ProtocolError(msg)
            self._filled[slot] = position + n
        hidden = self.llama.decode(rows, segments)
        self.decodes += 1
        if len(rows) == 1:
            seconds = time.perf_counter() - begun
            self._token_seconds += 0.1 * (seconds - self._token_seconds)
        if hidden is not None:
            self._link.send(Kind.HIDDEN, segments, self._hidden_states.write(hidden))
        else:
            self.head.decoded(segments)

    def _probe(self) -> float:
        """Return the time of one token here (s), measured before anybody asks."""
        token = np.zeros(1, np.int32)
        rows: NDArray[Any] = token if self._is_first else np.full((1, self.llama.n_embd), 0.01, np.float32)
        times = []
        for position in range(PROBES):
            begun = time.perf_counter()
            if self._embedding is not None:
                rows = self._embedding.look_up(token)
            self.llama.decode(rows, [Segment(0, position, 1, int(self._head is not None))])
            times.append(time.perf_counter() - begun)
        self.llama.clear()
        return min(times)

    def _new_head(self) -> Head:
        spec = self.spec
        return Head(
            self.llama,
            self,
            sessions=spec.sessions,
            queue=spec.queue,
            exact=spec.exact,
            speculate=spec.speculate,
            is_whole=self._is_first,
        )

    @property
    def _link(self) -> DataLink:
        if self._next is None:
            msg = f"The stage with layers {self._layers} has no next stage."
            raise ProtocolError(msg)
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
