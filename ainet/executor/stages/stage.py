"""A stage: a shard with its KV cache, run by one decode thread that owns the connections to its neighbours.

The stages of a pipeline form a ring. The first one looks up embeddings and cuts prompts into chunks; each hands its
output to the next; the last one samples and sends the token to the first. A pipeline of one stage is its own ring.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ainet.errors import AinetError, ModelError, ProtocolError, StageLost
from ainet.executor.stages.embedding import Embedding
from ainet.executor.stages.frames import DataLink, Frame, Kind
from ainet.executor.stages.head import Head
from ainet.executor.stages.inbox import Inbox
from ainet.executor.stages.llama import Llama
from ainet.executor.stages.sockets import ALIVE_SECONDS, FIRST_SILENCE_SECONDS, SILENCE_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ainet.executor.models.shards import Shard
    from ainet.executor.stages.spec import StageSpec


class Work(NamedTuple):
    """Tokens for the first stage to process from `position` on, `step` at once; `logits` after the last one."""

    session: int
    position: int
    tokens: NDArray[np.int32]
    step: int
    logits: bool


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
    """

    def __init__(
        self, spec: StageSpec, shard: Shard, log: logging.Logger, aborted: Callable[[], bool] = lambda: False
    ) -> None:
        self.spec = spec
        self._log = log
        self._is_first, self._is_last = shard.is_first, shard.is_last
        self.llama = Llama(
            shard.path,
            hidden_out=not shard.is_last,
            n_ctx=spec.n_ctx,
            n_ubatch=spec.n_ubatch,
            threads=spec.threads,
            gpu=spec.gpu,
            aborted=aborted,
        )
        try:
            self._embedding = Embedding(shard) if shard.embedding is not None else None
            self._head = Head(self.llama, self, spec.queue) if shard.is_last else None
        except BaseException:
            self.llama.close()
            raise
        self.inbox = Inbox()
        self._previous: DataLink | None = None
        self._next: DataLink | None = None
        self._pending: deque[Work] = deque()
        self._in_flight = 0
        self._filled = 0  # positions in the KV cache
        # One chunk on every stage and one on the way keeps all of them busy; more would only delay a cancellation.
        self._window = spec.n_stages + 1
        self._stopping = False
        self._ended = threading.Event()
        #: Seconds of waiting in which the stage before said nothing, and how many are too many.
        self._silent, self._limit = 0.0, FIRST_SILENCE_SECONDS
        self._patience = SILENCE_SECONDS
        self._token_seconds = 0.0
        #: How often llama.cpp was called.
        self.decodes = 0
        self._thread: threading.Thread | None = None
        self.error: AinetError | None = None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def max_payload(self) -> int:
        """Largest payload that a neighbour may send."""
        return max(self.spec.max_payload, 4 * self.spec.n_ubatch * self.llama.n_embd)

    @property
    def head(self) -> Head:
        """The head, on the last stage."""
        if self._head is None:
            msg = "Only the last stage of a pipeline answers requests."
            raise ProtocolError(msg)
        return self._head

    def start(self, previous: DataLink | None, following: DataLink | None, patience: float = SILENCE_SECONDS) -> None:
        """Begin to work between two neighbours (none, when the stage is the whole pipeline).

        Parameters
        ----------
        patience
            Seconds of silence after which the stage before counts as lost.
        """
        if self._thread is not None:
            msg = "The stage is linked already."
            raise ProtocolError(msg)
        self._previous, self._next, self._patience = previous, following, patience
        self._thread = threading.Thread(target=self._run, name=f"decode {self.spec.pipeline}", daemon=True)
        self._thread.start()
        threading.Thread(target=self._live, name=f"signs of life {self.spec.pipeline}", daemon=True).start()

    def stop(self) -> None:
        """End the decode thread and free the model."""
        if self._thread is None:
            self._close()
        elif self._thread.is_alive():
            self.inbox.put(self._stop)
            self._thread.join(timeout=60)

    def state(self) -> dict[str, Any]:
        """Return figures: bytes sent to the next stage, seconds a layer and token took lately, llama.cpp's buffers."""
        n_layers = self.spec.last_layer - self.spec.first_layer + 1
        return {
            "bytes_sent": self._next.bytes_sent if self._next else 0,
            "frames_sent": self._next.frames_sent if self._next else 0,
            "decodes": self.decodes,
            "layer_seconds": self._token_seconds / n_layers,
            "buffers": self.llama.buffers,
            "error": self.error.to_dict() if self.error else None,
        }

    # The ring, as the head sees it.

    def prompt(self, session: int, position: int, tokens: NDArray[np.int32], *, logits: bool) -> None:
        """Have the first stage process `tokens` from `position` on; what is before it is in every KV cache."""
        if self._next is not None:
            self._next.send_tokens(Kind.PROMPT, session, position, tokens, logits=logits)
        else:
            self._pending.append(Work(session, position, tokens, self.spec.n_ubatch, logits))

    def replay(self, session: int, position: int, tokens: NDArray[np.int32]) -> None:
        """Have the first stage process tokens that were generated before, each on its own as it was then."""
        if self._next is not None:
            self._next.send_tokens(Kind.REPLAY, session, position, tokens)
        else:
            self._pending.append(Work(session, position, tokens, 1, logits=True))

    def token(self, session: int, position: int, token: int) -> None:
        """Have the first stage process one sampled token."""
        if self._next is not None:
            self._next.send(Kind.TOKEN, session, position, rows=1, payload=token.to_bytes(4, "little"))
        else:
            self._pending.append(Work(session, position, np.array([token], np.int32), 1, logits=True))

    def release(self, session: int) -> None:
        """Have every stage forget the session."""
        if self._next is not None:
            self._next.send(Kind.RELEASE, session)
        else:
            self._forget()
            self.head.released()

    # The decode thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                for command in self.inbox.take():
                    command()
                if self._pending and self._in_flight < self._window:
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
        if frame.kind == Kind.HIDDEN and not self._is_first:
            if self._head is None or self._head.answers(frame.session):
                hidden = frame.hidden(self.llama.n_embd)
                self._process(frame.session, frame.position, hidden, logits=frame.logits)
        elif frame.kind == Kind.ALIVE:
            pass
        elif frame.kind in (Kind.PROMPT, Kind.REPLAY) and self._is_first:
            step = self.spec.n_ubatch if frame.kind == Kind.PROMPT else 1
            self._pending.append(Work(frame.session, frame.position, frame.tokens().copy(), step, frame.logits))
        elif frame.kind == Kind.TOKEN and self._is_first:
            self._in_flight -= 1  # the chunk that it was drawn from has gone all the way round
            self._pending.append(Work(frame.session, frame.position, frame.tokens().copy(), 1, logits=True))
        elif frame.kind == Kind.ACK and self._is_first:
            self._in_flight -= 1
        elif frame.kind == Kind.RELEASE:
            self._forget()
            if self._head is None:
                self._link.send(Kind.RELEASE, frame.session)
            else:
                self._head.released()
        elif frame.kind == Kind.ERROR:
            raise frame.error()
        else:
            msg = f"A {frame.kind.name} frame does not belong to the stage with layers {self._layers}."
            raise ProtocolError(msg)

    def _step(self) -> None:
        """Process the next chunk of what the first stage was asked."""
        work = self._pending.popleft()
        chunk, rest = work.tokens[: work.step], work.tokens[work.step :]
        if len(rest):
            self._pending.appendleft(work._replace(position=work.position + len(chunk), tokens=rest))
        if self._next is not None:
            self._in_flight += 1
        rows = chunk if self._embedding is None else self._embedding.look_up(chunk)
        self._process(work.session, work.position, rows, logits=work.logits and not len(rest))

    def _process(self, session: int, position: int, rows: NDArray[Any], *, logits: bool) -> None:
        begun = time.perf_counter()
        if position != self._filled:
            self._keep(position)
        hidden = self.llama.decode(rows, position, logits=logits)
        self._filled = position + len(rows)
        self.decodes += 1
        if len(rows) == 1:
            seconds = time.perf_counter() - begun
            self._token_seconds += 0.1 * (seconds - self._token_seconds) if self._token_seconds else seconds
        if hidden is not None:
            self._link.send_hidden(session, position, hidden, logits=logits)
            return
        if logits:
            self.head.decoded(session, position + len(rows))
        elif self._next is not None:
            self._next.send(Kind.ACK, session)

    def _keep(self, position: int) -> None:
        """Forget what an earlier session left from this position on; what is before it is the same in this one."""
        if position > self._filled:
            msg = f"The stage with layers {self._layers} was given position {position}, but knows {self._filled} only."
            raise ProtocolError(msg)
        self.llama.keep(position)

    def _forget(self) -> None:
        """Give up what was to be done; the next session says how much of the KV cache it keeps."""
        self._pending.clear()
        self._in_flight = 0

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
        self.llama.close()
