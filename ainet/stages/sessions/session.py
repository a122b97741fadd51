"""One session of a pipeline, as its last stage keeps it: the request, its tokens, and how the next ones are drawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.errors import PromptTooLong, UsageError
from ainet.stages.llama.logprobs import token_logprob
from ainet.stages.llama.prompts import Prompt, between, chat, given, plain
from ainet.stages.llama.sampling import Sampler
from ainet.stages.llama.vocabulary import TextStream, Vocabulary
from ainet.stages.protocol.generation import Lap
from ainet.stages.sessions.drafts import MAX_DRAFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ainet.api.logprobs import TokenLogprob
    from ainet.stages.llama.llama import Llama
    from ainet.stages.protocol.generation import Event, Open, Resume
    from ainet.stages.protocol.segments import Segment
    from ainet.stages.ring.ring import Next
    from ainet.stages.sessions.drafts import Drafter


class Drawn(NamedTuple):
    """Tokens that were drawn, the position of the last one, how the answer ended with them, and the draft, if any.

    `error`: the grammar leaves no token to choose from. `scored`: tokens of the prompt; where none was drawn, the last
    one is at `position`.
    """

    tokens: list[int]
    position: int
    finish: str | None
    laps: list[Lap]
    error: UsageError | None = None
    margins: list[float] = []  # noqa: RUF012 - nobody changes it
    logprobs: list[TokenLogprob] = []  # noqa: RUF012
    scored: list[TokenLogprob] = []  # noqa: RUF012


class Session:
    """A session that waits, or is answered.

    Parameters
    ----------
    request
        The request.
    reply
        Hears what is answered.
    """

    def __init__(self, request: Open, reply: Callable[[Event], None]) -> None:
        self.request = request
        self.reply = reply
        self.begun = time.monotonic()
        #: Place in the KV caches and cells that are reserved there, once it is answered.
        self.slot, self.cells = -1, 0
        #: Whether stages know a part of it from a lost pipeline.
        self.is_continued = False
        #: Whether it has ended, and the stages are about to forget it.
        self.is_over = False
        self.prompt: NDArray[np.int32] = np.empty(0, np.int32)
        #: What whoever asked must know of how the prompt came about.
        self.notes: list[str] = []
        self.generated: list[int] = []
        #: Tokens that are tried after the last one, before anybody knows whether they follow.
        self.draft: list[int] = []
        #: Whether there are cells of tokens that were tried for nothing: they come free with the next lap.
        self.has_leftovers = False
        #: Makes the drafts, where there shall be any, and when the last tokens were sent on their way.
        self.drafter: Drafter | None = None
        self.sent = 0.0
        #: Tokens of the answer that may be said so far, and what is computed next as soon as there may be more.
        self.allowed = request.max_tokens if request.allowed is None else request.allowed
        self.paused: Next | None = None
        #: The number of generated tokens that were drawn elsewhere, and the key under which stages know it, if they do.
        self.resumed = len(request.resume.generated) if request.resume is not None else 0
        self.key = request.resume.key if request.resume is not None else 0
        self._laps: list[Lap] = []
        self._sampler: Sampler | None = None
        self._stream: TextStream | None = None

    def prepare(self, llama: Llama, vocabulary: Vocabulary) -> None:
        """Make the tokens of the prompt, and what draws the next ones; a second time does nothing.

        Raises
        ------
        AinetError
            Everything that can be wrong with a request shows here.
        """
        if self._sampler is not None:
            return
        request, resume = self.request, self.request.resume
        if resume is None:
            self.prompt, self.notes = _prompt(request, vocabulary, llama.n_ctx)
        else:
            self.prompt = _checked(resume, vocabulary, llama.n_ctx, request.max_tokens)
        if not all(0 <= token < vocabulary.n_tokens for token in request.expected):
            raise UsageError("An answer cannot be judged: its tokens are not those of this model.")
        self._n_ctx, self._ends = llama.n_ctx, vocabulary.ends
        self._llama, self._vocabulary = llama, vocabulary
        self._stream = TextStream(vocabulary, request.stop)
        self._sampler = Sampler(request.sampling, llama, vocabulary)
        if resume is not None:
            # What these tokens say was said before; penalties, grammar and half a character go on from them.
            self._sampler.accept(resume.generated)
            for token in resume.generated:
                self._stream.add(token)
            self.generated = list(resume.generated)
            self._laps = resume.laps

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The prompt and what was generated."""
        return np.concatenate([self.prompt, np.array(self.generated, np.int32)])

    @property
    def plain_steps(self) -> list[tuple[int, list[int], int]]:
        """The generated tokens but the last, as if there had been no drafts."""
        return [(len(self.prompt), self.generated[:-1], 1)] if len(self.generated) > 1 else []

    @property
    def steps(self) -> list[tuple[int, list[int], int]]:
        """The steps in which all generated tokens but the last were computed: position, tokens, tokens at once."""
        steps: list[tuple[int, list[int], int]] = []
        begin, first = 0, len(self.prompt)
        for lap in [*self._laps, Lap(len(self.generated) - 1, 0, 0)]:
            if begin < lap.index:
                steps.append((first + begin, self.generated[begin : lap.index], 1))
            if lap.rows:
                # What was tried for nothing made the batch as large as it was, whatever it was.
                tokens = self.generated[lap.index : lap.index + lap.drawn]
                steps.append((first + lap.index, [*tokens, *[0] * (lap.rows - lap.drawn)], lap.rows))
            begin = lap.index + lap.drawn
        return steps

    @property
    def finish(self) -> str | None:
        """The end of a resumed session that had ended already; else None."""
        if self._stream is not None and self._stream.stopped:
            return "stop"
        return self._fullness(len(self.prompt) + len(self.generated) - 1)

    def draw(self, segment: Segment, row: int) -> Drawn:
        """Draw the tokens after the rows of `segment` that have logits, as long as they are those of the draft.

        Parameters
        ----------
        row
            The first of these rows in the batch.
        """
        assert self._sampler is not None  # noqa: S101 - it was prepared before it was answered
        if self.request.is_judging:
            return self._judge(segment, row)
        drawn: list[int] = []
        logprobs: list[TokenLogprob] = []
        scored: list[TokenLogprob] = []
        if self.scores_prompt and segment.position == 0:
            scored.append(self._logprob(int(self.prompt[0]), None))
        finish, error = None, None
        draft, self.draft = self.draft, []
        index = len(self.generated) - 1
        position = segment.end - segment.outputs
        for i in range(segment.outputs):
            position += 1
            if position < len(self.prompt):
                scored.append(self._logprob(int(self.prompt[position]), row + i))
                continue
            try:
                token = self._sampler.sample(position, row + i)
            except UsageError as exc:
                error = exc
                break
            if self._ends(token):
                finish = "stop"
                if self.scores_prompt:  # whoever adds up a text's tokens counts on one behind it
                    logprobs.append(self._logprob(token, row + i))
                break
            drawn.append(token)
            if self.request.logprobs is not None:
                logprobs.append(self._logprob(token, row + i))
            self.generated.append(token)
            if (finish := self._fullness(position)) is not None:
                break
            if i >= len(draft) or draft[i] != token:
                break
        self.has_leftovers = bool(drawn or error) and len(drawn) + len(scored) < segment.outputs
        laps = [Lap(index, segment.rows, len(drawn))] if draft else []
        return Drawn(drawn, position, finish, laps, error, logprobs=logprobs, scored=scored)

    def _logprob(self, token: int, row: int | None) -> TokenLogprob:
        """Return how probable a token was by the logits of a row; None: nothing precedes it."""
        logits = self._llama.logits(row) if row is not None else None
        return token_logprob(token, logits, self.request.logprobs or 0, self._vocabulary)

    def _judge(self, segment: Segment, row: int) -> Drawn:
        """Judge the expected tokens after the rows of `segment` that have logits."""
        assert self._sampler is not None  # noqa: S101 - see `draw`
        expected, judged, margins = self.request.expected, [], []
        position = segment.end - segment.outputs
        finish = None
        for i in range(segment.outputs):
            position += 1
            at = len(self.generated)
            if at == len(expected):
                margins.append(self._sampler.end_margin(position, row + i))
                finish = "stop"
                break
            margin = self._sampler.margin(position, expected[at], row + i)
            # A token that ends answers is never said: whoever says it goes on where it should have ended.
            margins.append(1.0 if self._ends(expected[at]) else margin)
            judged.append(expected[at])
            self.generated.append(expected[at])
            if at + 1 == len(expected) and not self.request.expects_end:
                finish = "length"
                break
            if (finish := self._fullness(position)) is not None:
                break
        return Drawn(judged, position, finish, [], margins=margins)

    def certain_next(self, position: int, most: int) -> list[int] | None:
        """Return the tokens after the one at `position`, at most this many, where they are known already; else None."""
        if self.request.is_judging:
            at = len(self.generated)
            self.draft = self.request.expected[at : at + most]
            return self.draft
        if position < len(self.prompt):
            return [int(token) for token in self.prompt[position + 1 : position + 1 + most]]
        return None

    @property
    def scores_prompt(self) -> bool:
        """Whether somebody wants to hear how probable the tokens of its prompt are."""
        return self.request.scores_prompt and not self.request.is_judging and not self.resumed

    @property
    def first_rows(self) -> NDArray[np.int32]:
        """The tokens of which only the last one is followed by a token that is not known, or has to be scored."""
        return self.tokens[:1] if self.scores_prompt else self.tokens

    @property
    def is_sold(self) -> bool:
        """Whether its asker pays for it as it comes, and others come first."""
        return self.request.allowed is not None

    @property
    def may_go_on(self) -> bool:
        """Whether another token may be said. What was tried for nothing has to leave the cells before a pause."""
        return len(self.generated) < self.allowed or self.has_leftovers

    @property
    def has_begun(self) -> bool:
        """Whether a token was drawn here."""
        return len(self.generated) > self.resumed

    def propose(self, most: int) -> list[int]:
        """Return the tokens that are tried after the last one: at most this many, and none that could not be said."""
        if self.drafter is None:
            return []
        left = min(self.request.max_tokens, self.allowed) - len(self.generated)
        room = self._n_ctx - len(self.prompt) - len(self.generated)
        self.draft = self.drafter.draft(min(most, left - 1, room - 1))
        return self.draft

    def say(self, drawn: Drawn) -> tuple[Drawn, str]:
        """Return the text that became certain with what was drawn, which ends where a stop string does."""
        assert self._stream is not None  # noqa: S101 - see `draw`
        text = ""
        for i, token in enumerate(drawn.tokens):
            text += self._stream.add(token)
            if self._stream.stopped:
                kept = drawn._replace(tokens=drawn.tokens[: i + 1], logprobs=drawn.logprobs[: i + 1], finish="stop")
                return kept, text
        return drawn, text

    def held(self) -> str:
        """Return the text that was held back."""
        return self._stream.finish() if self._stream is not None else ""

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()

    def _fullness(self, position: int) -> str | None:
        """Return why no token may follow the one at `position`: `length`, `context`, or None where one may."""
        if len(self.generated) >= self.request.max_tokens:
            return "length"
        return "context" if position + 1 >= self._n_ctx else None


def _checked(resume: Resume, vocabulary: Vocabulary, n_ctx: int, max_tokens: int) -> NDArray[np.int32]:
    """Return the tokens of a prompt that is resumed; raises `UsageError` for what the model cannot have said."""
    tokens = [*resume.prompt, *resume.generated]
    if not resume.prompt or not all(0 <= token < vocabulary.n_tokens for token in tokens):
        raise UsageError("An answer cannot go on: its tokens are not those of this model.")
    laps, begin = resume.laps, 0
    most = min(max_tokens, n_ctx - len(resume.prompt))
    for lap in laps:
        is_possible = 0 < lap.drawn <= lap.rows <= MAX_DRAFT + 1 and lap.index + lap.rows <= most
        if not (begin <= lap.index and is_possible):
            raise UsageError("An answer cannot go on: its tokens were not computed like that.")
        begin = lap.index + lap.drawn
    if laps and begin >= len(resume.generated):
        raise UsageError("An answer cannot go on: some of its tokens are missing.")
    if len(tokens) > n_ctx:
        raise UsageError(f"An answer cannot go on: it has {len(tokens)} tokens, the context window {n_ctx}.")
    return np.array(resume.prompt, np.int32)


def _prompt(request: Open, vocabulary: Vocabulary, n_ctx: int) -> Prompt:
    if not request.messages and not request.prompt:
        raise UsageError("There is nothing to answer: the request has no messages.")
    if request.prompt:
        prompt = given(request.prompt, vocabulary)
    elif request.raw and request.suffix is not None:
        prompt = between(request.messages[-1].content, request.suffix, vocabulary)
    elif request.raw:
        prompt = plain(request.messages[-1].content, vocabulary)
    else:
        prompt = chat(request.messages, vocabulary, request.template)
    tokens = prompt.tokens
    if not len(tokens):
        raise UsageError("There is nothing to answer: the prompt is empty.")
    if len(tokens) >= n_ctx:
        raise PromptTooLong(
            f"The prompt has {len(tokens)} tokens, but the context window holds {n_ctx}. Shorten it, "
            "start a new conversation, or raise `context_window` in the configuration.",
            prompt_tokens=len(tokens),
            context_window=n_ctx,
        )
    return prompt
