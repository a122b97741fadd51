"""One answer as it comes into being: the events that a notebook shows, and the figures at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from ainet.api import generate as shown
from ainet.stages.protocol.generation import Done, Event, PromptRead, PromptScored, Resume, Started, Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.api.logprobs import TokenLogprob
    from ainet.executor.provided import Provided
    from ainet.stages.protocol.generation import Lap, Open

#: Seconds from the first text to the last one that tell a speed: a short answer may come as a whole.
LEAST_TIMED = 0.02


class Transcript:
    """Turns what pipelines say, one after the other, into the events of the answer, and measures.

    Parameters
    ----------
    request
        The request.
    notes
        What the reader must know of how the request was read.
    begun
        The time of the question on the monotonic clock (s): loading the model counts towards the first token.
    """

    def __init__(self, request: Open, notes: list[str], begun: float) -> None:
        self._request = request
        self._notes = notes
        self._seed = request.sampling.seed
        self._begun = begun
        self._first = self._last = 0.0
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._at_first = 0  # tokens that came with the first text
        self._laps: list[Lap] = []
        self._logprobs: list[TokenLogprob] = []
        self._scored: list[TokenLogprob] = []
        self._prompt: list[int] = []
        self._reused = self._key = 0

    @property
    def said(self) -> int:
        """The number of tokens that the answer has so far."""
        return len(self._tokens)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    @property
    def accepted(self) -> bool:
        """Whether a pipeline has accepted the prompt."""
        return bool(self._prompt)

    @property
    def rest(self) -> Open:
        """The request for what is still to come: the whole at first, later with what was said before."""
        if not self.accepted:
            return self._request
        resume = Resume(self._prompt, self._tokens, self._laps, self._key)
        scores = self._request.scores_prompt and not self._tokens
        return msgspec.structs.replace(
            self._request, messages=[], prompt=[], suffix=None, scores_prompt=scores, resume=resume
        )

    def receive(self, pipeline: Provided, event: Event) -> Iterator[shown.Event]:
        """Yield what the pipeline said in the form in which it travels to the notebook."""
        match event:
            case Started():
                if not self.accepted:
                    self._notes = [*self._notes, *event.notes]
                self._prompt, self._reused, self._key = event.prompt, event.reused, event.key
                yield shown.Start(
                    model=pipeline.model,
                    placement=pipeline.placement,
                    prompt_tokens=len(event.prompt),
                    notes=self._notes,
                )
            case PromptRead():
                if not self._tokens:
                    n_tokens = len(self._prompt)
                    yield shown.Progress(text="reading the question", done=event.done, total=n_tokens, unit="tokens")
            case PromptScored():
                # Another pipeline may begin anew.
                self._scored[event.begin :] = event.logprobs
                yield shown.PromptScored(begin=event.begin, logprobs=event.logprobs)
            case Text():
                self._last = time.monotonic()
                if not self._tokens:
                    self._first, self._at_first = self._last, len(event.tokens)
                self._text.append(event.text)
                self._tokens += event.tokens
                self._laps += event.laps
                self._logprobs += event.logprobs
                yield shown.Text(text=event.text, tokens=event.tokens, logprobs=event.logprobs)
            case Done():
                if event.text:
                    self._text.append(event.text)
                    yield shown.Text(text=event.text, tokens=[])
                yield self._done(pipeline, event.finish)

    def _done(self, pipeline: Provided, finish: str) -> shown.Done:
        n = len(self._tokens)
        seconds = self._last - self._first
        return shown.Done(
            finish=finish,
            text="".join(self._text),
            tokens=self._tokens,
            model=pipeline.model,
            seed=self._seed,
            placement=pipeline.placement,
            received=pipeline.received,
            notes=self._notes,
            logprobs=self._logprobs,
            prompt_logprobs=self._scored,
            timings=shown.Timings(
                prompt_tokens=len(self._prompt),
                reused_tokens=self._reused,
                generated_tokens=n,
                first_token_s=round((self._first or time.monotonic()) - self._begun, 4),
                tokens_per_s=round((n - self._at_first) / seconds, 2) if seconds > LEAST_TIMED else 0.0,
            ),
        )
