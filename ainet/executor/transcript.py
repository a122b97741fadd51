"""One answer as it comes into being: the events that a notebook shows, and the figures at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ainet.executor.stages.generation import Done, Event, Started, Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.executor.borrowed import BorrowedPipeline
    from ainet.executor.pipeline import Pipeline
    from ainet.executor.stages.generation import Open


class Transcript:
    """Turns what a pipeline says into events (dictionaries), and measures.

    Parameters
    ----------
    pipeline
        Who answers.
    request
        What was asked.
    begun
        When it was asked, on the monotonic clock (s): loading the model counts towards the first token.
    """

    def __init__(self, pipeline: Pipeline | BorrowedPipeline, request: Open, begun: float) -> None:
        self._pipeline = pipeline
        self._seed = request.sampling.seed
        self._begun = begun
        self._first = self._last = 0.0
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._at_first = 0  # tokens that came with the first text
        self._prompt_tokens = 0

    def take(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the event in the form in which it travels to the notebook."""
        match event:
            case Started():
                self._prompt_tokens = event.prompt_tokens
                yield {
                    "event": "start",
                    "model": self._pipeline.model,
                    "placement": self._pipeline.placement,
                    "prompt_tokens": event.prompt_tokens,
                }
            case Text():
                self._last = time.monotonic()
                if not self._tokens:
                    self._first, self._at_first = self._last, len(event.tokens)
                self._text.append(event.text)
                self._tokens += event.tokens
                yield {"event": "text", "text": event.text, "tokens": event.tokens}
            case Done():
                if event.text:
                    self._text.append(event.text)
                    yield {"event": "text", "text": event.text, "tokens": []}
                yield self._done(event.finish)

    def _done(self, finish: str) -> dict[str, Any]:
        n = len(self._tokens)
        seconds = self._last - self._first
        return {
            "event": "done",
            "finish": finish,
            "text": "".join(self._text),
            "tokens": self._tokens,
            "model": self._pipeline.model,
            "seed": self._seed,
            "placement": self._pipeline.placement,
            "received": self._pipeline.received,
            "timings": {
                "prompt_tokens": self._prompt_tokens,
                "generated_tokens": n,
                "first_token_s": round((self._first or time.monotonic()) - self._begun, 4),
                "tokens_per_s": round((n - self._at_first) / seconds, 2) if seconds > 0 else 0.0,
            },
        }
