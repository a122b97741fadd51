"""The head of a pipeline: sessions, their queue, sampling and text. It lives on the last stage."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ainet.errors import AinetError, Busy, ModelError, PromptTooLong, UsageError
from ainet.executor.stages.generation import Done, Event, Failed, Open, Resume, Started, Text
from ainet.executor.stages.sampling import Sampler
from ainet.executor.stages.vocabulary import TextStream, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from numpy.typing import NDArray

    from ainet.executor.stages.llama import Llama

    class Ring(Protocol):
        """What the head asks of the stages: the first one obeys, wherever it is."""

        def prompt(self, session: int, position: int, tokens: NDArray[np.int32], *, logits: bool) -> None:
            """Process the tokens from `position` on, after those that are kept; `logits` for the next token."""

        def replay(self, session: int, position: int, tokens: NDArray[np.int32]) -> None:
            """Process tokens that were generated before, one by one."""

        def token(self, session: int, position: int, token: int) -> None:
            """Process one sampled token."""

        def release(self, session: int) -> None:
            """Give the session up; answered by `Head.released` when every stage has."""


FIRST_GUESS = 10.0  # seconds that a generation takes, before one was measured


class Generation:
    """One session while it is answered."""

    def __init__(self, request: Open, reply: Callable[[Event], None], number: int) -> None:
        self.request = request
        self.reply = reply
        self.number = number
        self.generated = 0
        self.begun = time.monotonic()
        self.stream: TextStream | None = None
        self.sampler: Sampler | None = None
        self.prompt: NDArray[np.int32] = np.empty(0, np.int32)


class Head:
    """Answers one session at a time and lets a limited number wait. Used by the decode thread only.

    Parameters
    ----------
    llama
        The last stage, with its vocabulary.
    ring
        Reaches the first stage.
    queue
        Most sessions that may wait.
    """

    def __init__(self, llama: Llama, ring: Ring, queue: int) -> None:
        self._llama = llama
        self._ring = ring
        self._queue = queue
        self._log = logging.getLogger("ainet.stage")
        self._vocabulary = Vocabulary(llama)
        self._active: Generation | None = None
        self._waiting: deque[Generation] = deque()
        self._numbers = 0
        self._usual_seconds = 0.0
        self._releasing = False
        self._can_keep = llama.can_keep
        #: Tokens whose keys and values every stage holds, in whole chunks.
        self._kept: NDArray[np.int32] = np.empty(0, np.int32)

    @property
    def waiting(self) -> int:
        """Sessions that wait or run."""
        return len(self._waiting) + (self._active is not None)

    def answers(self, number: int) -> bool:
        """Whether the session with this number is the one being answered."""
        return self._active is not None and self._active.number == number and not self._releasing

    def open(self, request: Open, reply: Callable[[Event], None]) -> None:
        """Answer `request`, now or when its turn comes; `reply` hears of it."""
        if self._active is not None and len(self._waiting) >= self._queue:
            seconds = max(1, round((self._usual_seconds or FIRST_GUESS) * (len(self._waiting) + 1)))
            before = len(self._waiting) + 1
            msg = f"This pipeline is busy: {before} requests are before yours. Ask again in {seconds} s."
            reply(Failed(request.session, Busy(msg, retry_after=seconds).to_dict()))
            return
        self._numbers += 1
        self._waiting.append(Generation(request, reply, self._numbers))
        self._next()

    def cancel(self, request: Open) -> None:
        """End the session that `request` opened, keeping what it said."""
        active = self._active
        if active is not None and active.request is request:
            if not self._releasing:
                self._finish(active, "cancelled")
            return
        for waiting in [waiting for waiting in self._waiting if waiting.request is request]:
            self._waiting.remove(waiting)
            waiting.reply(Done(request.session, "cancelled", ""))

    def decoded(self, number: int, position: int) -> None:
        """Draw the token at `position` from the logits of the row before it."""
        active = self._active
        if active is None or active.sampler is None or active.stream is None or not self.answers(number):
            return
        if self._can_keep:
            self._kept = active.prompt[: len(active.prompt) - len(active.prompt) % self._llama.n_ubatch]
        try:
            token = active.sampler.sample(position)
        except UsageError as exc:
            self._end(active, Failed(active.request.session, exc.to_dict()))
            return
        if self._vocabulary.ends(token):
            self._finish(active, "stop")
            return
        active.generated += 1
        is_full = active.generated >= active.request.max_tokens or position + 1 >= self._llama.n_ctx
        # The other stages begin at once: the text is made, and told, while they compute.
        goes_on = not is_full and not active.request.stop
        if goes_on:
            self._ring.token(number, position, token)
        text = active.stream.add(token)
        ends = "stop" if active.stream.stopped else "length" if is_full else None
        if ends is None and not goes_on:
            self._ring.token(number, position, token)
        active.reply(Text(active.request.session, text, [token]))
        if ends is not None:
            self._finish(active, ends)

    def released(self) -> None:
        """Every stage has forgotten the session: the next one may begin."""
        self._active = None
        self._releasing = False
        self._next()

    def fail(self, error: AinetError) -> None:
        """Tell everybody who runs or waits that the pipeline failed."""
        active, self._active = self._active, None
        # A session that is being released was answered already.
        sessions = [active] if active is not None and not self._releasing else []
        for generation in [*sessions, *self._waiting]:
            generation.reply(Failed(generation.request.session, error.to_dict()))
            if generation.sampler is not None:
                generation.sampler.close()
        self._waiting.clear()

    def _next(self) -> None:
        while self._active is None and self._waiting:
            generation = self._waiting.popleft()
            try:
                tokens = self._prepare(generation)
            except AinetError as exc:
                generation.reply(Failed(generation.request.session, exc.to_dict()))
                continue
            except Exception as exc:  # one request, whatever is wrong with it, must not end the pipeline
                self._log.exception("A request cannot be answered.")
                msg = f"The request cannot be answered ({type(exc).__name__}: {exc}); the engine's log has the details."
                generation.reply(Failed(generation.request.session, ModelError(msg).to_dict()))
                continue
            # A neighbour that is lost here is the pipeline's failure, not the request's.
            generation.begun = time.monotonic()
            kept = self._common(tokens)
            generation.reply(Started(generation.request.session, tokens.tolist(), kept))
            if (finish := self._is_over(generation, len(tokens))) is not None:
                generation.reply(Done(generation.request.session, finish, ""))
                continue
            self._active = generation
            again = np.array(generation.request.resume.generated if generation.request.resume else (), np.int32)
            generation.prompt, self._kept = tokens, tokens[:kept]
            self._ring.prompt(generation.number, kept, tokens[kept:], logits=not len(again))
            if len(again):
                self._ring.replay(generation.number, len(tokens), again)

    def _common(self, tokens: NDArray[np.int32]) -> int:
        """Return how many tokens of a prompt are in every KV cache already: the same ones, in whole chunks.

        They were computed in the shapes in which they would be computed again, so nothing of the answer changes.
        """
        n = min(len(self._kept), len(tokens) - 1)
        differ = np.flatnonzero(self._kept[:n] != tokens[:n])
        same = int(differ[0]) if len(differ) else n
        return same - same % self._llama.n_ubatch

    def _is_over(self, generation: Generation, n_prompt: int) -> str | None:
        """Return how a resumed session had ended already, if it had; else None."""
        if generation.stream is not None and generation.stream.stopped:
            return "stop"
        is_full = generation.generated >= generation.request.max_tokens
        return "length" if is_full or n_prompt + generation.generated >= self._llama.n_ctx else None

    def _prepare(self, generation: Generation) -> NDArray[np.int32]:
        """Return the tokens of the prompt; everything that can be wrong with a request shows here."""
        request = generation.request
        resume = request.resume
        tokens = self._tokens(request) if resume is None else self._checked(resume)
        generation.stream = TextStream(self._vocabulary, request.stop)
        generation.sampler = Sampler(request.sampling, self._llama, self._vocabulary)
        if resume is not None:
            # What these tokens say was said before; penalties, grammar and half a character go on from them.
            generation.sampler.accept(resume.generated)
            for token in resume.generated:
                generation.stream.add(token)
            generation.generated = len(resume.generated)
        return tokens

    def _checked(self, resume: Resume) -> NDArray[np.int32]:
        """Return the tokens of a prompt that is resumed; raises `UsageError` for what the model cannot have said."""
        tokens = [*resume.prompt, *resume.generated]
        if not resume.prompt or not all(0 <= token < self._vocabulary.n_tokens for token in tokens):
            msg = "An answer cannot go on: its tokens are not those of this model."
            raise UsageError(msg)
        if len(tokens) > self._llama.n_ctx:
            msg = f"An answer cannot go on: it has {len(tokens)} tokens, the context window {self._llama.n_ctx}."
            raise UsageError(msg)
        return np.array(resume.prompt, np.int32)

    def _tokens(self, request: Open) -> NDArray[np.int32]:
        if not request.messages:
            msg = "There is nothing to answer: the request has no messages."
            raise UsageError(msg)
        if request.raw:
            text = request.messages[-1].content
        else:
            text = self._vocabulary.chat([msgspec.to_builtins(message) for message in request.messages])
        tokens = self._vocabulary.tokenize(text, special=True)
        if not len(tokens):
            msg = "There is nothing to answer: the prompt is empty."
            raise UsageError(msg)
        if len(tokens) >= self._llama.n_ctx:
            msg = (
                f"The prompt has {len(tokens)} tokens, but the context window holds {self._llama.n_ctx}. Shorten it, "
                "start a new conversation, or raise `context_window` in the configuration."
            )
            raise PromptTooLong(msg, prompt_tokens=len(tokens), context_window=self._llama.n_ctx)
        return tokens

    def _finish(self, active: Generation, finish: str) -> None:
        text = active.stream.finish() if active.stream is not None else ""
        self._end(active, Done(active.request.session, finish, text))

    def _end(self, active: Generation, event: Done | Failed) -> None:
        seconds = time.monotonic() - active.begun
        weight = 0.3 if self._usual_seconds else 1.0
        self._usual_seconds += weight * (seconds - self._usual_seconds)
        if active.sampler is not None:
            active.sampler.close()
        self._releasing = True
        active.reply(event)
        self._ring.release(active.number)
