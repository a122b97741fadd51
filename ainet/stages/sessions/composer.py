"""The decision of the first stage: which rows of which sessions go through the stages together.

Tokens of running answers go first, spread over as many micro-batches as there are stages that compute at the same time,
so that each works on different sessions. A prompt fills what is left, in chunks that are small while somebody waits for
tokens; several prompts take turns, and those of sessions that are sold come after all others. (The idea of chunked
prefills that ride along with decodes: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with
Sarathi-Serve", OSDI 2024.)
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows of a prompt in a micro-batch while answers run: each row delays their next tokens.
SHARED_ROWS = 16


class Work(NamedTuple):
    """Tokens from `position` on, at most `step` at once; logits after the last one, if wanted."""

    position: int
    tokens: NDArray[np.int32]
    step: int
    logits: bool


class MicroBatch(NamedTuple):
    """Tokens, int32 of shape (n,), and to whom they belong."""

    segments: list[Segment]
    tokens: NDArray[np.int32]


class Composer:
    """Composes micro-batches from what the sessions have to compute.

    Parameters
    ----------
    n_ubatch
        Most rows of a micro-batch.
    n_groups
        Micro-batches that can be computed at the same time.
    most_outputs
        Most tokens of running answers in a micro-batch: each of them has logits.
    equal_rows
        Whether each session of a micro-batch has as many rows as the others, as llama.cpp's recurrent states want it:
        a prompt then goes alone.
    """

    def __init__(self, n_ubatch: int, n_groups: int, most_outputs: int, *, equal_rows: bool = False) -> None:
        self._n_ubatch, self._n_groups, self._equal_rows = n_ubatch, n_groups, equal_rows
        self._most_outputs = most_outputs
        #: Whether the last micro-batch had tokens of running answers.
        self._had_tokens = False
        #: By session, in the order of their turns: the prompt, and what follows it.
        self._prompts: dict[int, deque[Work]] = {}
        #: By session, in the order of arrival: tokens that are computed at once.
        self._ready: dict[int, Work] = {}
        #: Sessions whose prompt is on its way: they wait for tokens.
        self._running: set[int] = set()
        #: Sessions whose prompts come after those of all others.
        self._last: set[int] = set()

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._prompts or self._ready)

    def prompt(
        self,
        slot: int,
        position: int,
        tokens: NDArray[np.int32],
        *,
        step: int = 0,
        logits: bool,
        is_last: bool = False,
    ) -> None:
        """Take a prompt, or tokens that were generated before: they come after what the session has here already.

        Parameters
        ----------
        step
            The number that is computed at once; 0: as many as fit.
        logits
            Whether they are wanted after the last token.
        is_last
            Whether the prompts of other sessions come first.
        """
        if is_last:
            self._last.add(slot)
        work = Work(position, tokens, step or self._n_ubatch, logits)
        self._prompts.setdefault(slot, deque()).append(work)

    def tokens(self, slot: int, position: int, tokens: NDArray[np.int32]) -> None:
        """Take the next tokens of an answer: they are computed together, with logits for each of them."""
        self._ready[slot] = Work(position, tokens, len(tokens), logits=True)
        self._running.add(slot)

    def release(self, slot: int) -> None:
        """Forget what is left of a session."""
        self._prompts.pop(slot, None)
        self._ready.pop(slot, None)
        self._running.discard(slot)
        self._last.discard(slot)

    def compose(self) -> MicroBatch:
        """Return the next micro-batch; there must be something to compute."""
        segments: list[Segment] = []
        parts: list[NDArray[np.int32]] = []
        room, outputs = self._n_ubatch, self._most_outputs
        most = -(-len(self._running) // self._n_groups)
        # Where a prompt goes alone, it takes turns with what goes on.
        is_prompts_turn = self._equal_rows and self._prompts and self._had_tokens
        for slot, work in [] if is_prompts_turn else list(self._ready.items())[:most]:
            n = len(work.tokens)
            if segments and (n > min(room, outputs) or (self._equal_rows and n != segments[0].rows)):
                break
            del self._ready[slot]
            segments.append(Segment(slot, work.position, n, n))
            parts.append(work.tokens)
            room, outputs = room - n, outputs - n
        self._had_tokens = bool(segments)
        if self._prompts and room > 0 and not (self._equal_rows and segments):
            segment, tokens = self._chunk(room)
            segments.append(segment)
            parts.append(tokens)
        return MicroBatch(segments, parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _chunk(self, room: int) -> tuple[Segment, NDArray[np.int32]]:
        """Return the next rows of the prompt whose turn it is."""
        first = next(iter(self._prompts))
        slot = next((one for one in self._prompts if one not in self._last), first)
        # Whoever waits for tokens, and does not come last, waits for each chunk of it.
        is_shared = bool(self._running if slot in self._last else self._running - self._last)
        room = min(room, SHARED_ROWS) if is_shared else room
        works = self._prompts.pop(slot)
        work = works.popleft()
        n = min(room, work.step)
        tokens, rest = work.tokens[:n], work.tokens[n:]
        if len(rest):
            works.appendleft(work._replace(position=work.position + n, tokens=rest))
        elif work.logits:
            self._running.add(slot)
        if works:
            self._prompts[slot] = works  # behind the others
        return Segment(slot, work.position, len(tokens), int(work.logits and not len(rest))), tokens
