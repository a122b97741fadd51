"""The words between a requester and the last stage of a pipeline."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainet.api.generate import Message
from ainet.api.logprobs import MOST_ALTERNATIVES, TokenLogprob
from ainet.stages.protocol.sampling_params import SamplingParams

MAX_MESSAGE = 4 << 20  # bytes: a prompt of a million tokens, and nothing larger
MAX_GUESS = 32  # tokens that are guessed at once
MAX_PROMPT = 4_000_000  # bytes of all turns together; the rest of a message is for grammar and stop strings


KEY_BITS = 63
#: Random, and known to the requester and the stages only: whoever has it goes on with a session. 0: none.
Key = Annotated[int, msgspec.Meta(ge=0, le=(1 << KEY_BITS) - 1)]


class Lap(msgspec.Struct, frozen=True, array_like=True):
    """A lap round the ring with a draft: `rows` from the generated token `index` on brought `drawn` new tokens."""

    index: int
    rows: int
    drawn: int


class Resume(msgspec.Struct, frozen=True):
    """The part of a session that another pipeline had done before it was lost.

    Attributes
    ----------
    prompt, generated
        The tokens.
    laps
        The laps in which tokens were not computed one by one: they are computed again in the same shapes.
    key
        The session's, by which stages that are left know it.
    """

    prompt: list[int]
    generated: list[int]
    laps: list[Lap] = []
    key: Key = 0


class Open(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Start a session.

    Attributes
    ----------
    session
        Number chosen by the requester, unique on its connection.
    messages
        The conversation so far; with `raw`, the last content alone is the prompt.
    raw
        Whether the chat template is left out.
    sampling
        Parameters for drawing tokens.
    max_tokens
        Most tokens to generate.
    stop
        Texts that end the answer and are not part of it.
    resume
        The part that was said before, and is not said again. `messages` are then passed over.
    tells
        Whether whoever asks wants to hear how much of the prompt is read.
    template
        Chat template in Go's language, in place of the model's own; empty for that.
    user
        The user, as the owner of the pipeline knows it: users are treated alike.
    allowed
        Tokens of the answer that may be said before an `Allow` lets more follow; None: all.
    expected
        Tokens of an answer that was given elsewhere: instead of drawing others, it is judged how well each of them
        would have been drawn. `expects_end`: whether it ended by itself.
    prompt
        The tokens of the prompt, in place of `messages`.
    suffix
        With `raw`: a text that the answer leads up to.
    logprobs
        How many alternatives are told of each token of the answer, with how probable it was; None: none of that.
    scores_prompt
        Whether that is told of the prompt's tokens, too.
    """

    session: int
    messages: list[Message]
    raw: bool
    sampling: SamplingParams
    max_tokens: int
    stop: list[str] = []
    resume: Resume | None = None
    user: str = ""
    template: str = ""
    tells: bool = False
    allowed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    expected: list[int] = []
    expects_end: bool = False
    prompt: list[int] = []
    suffix: str | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_ALTERNATIVES)] | None = None
    scores_prompt: bool = False

    @property
    def is_judging(self) -> bool:
        """Whether an answer is judged; it may be an empty one."""
        return bool(self.expected) or self.expects_end


class Allow(msgspec.Struct, tag=True, frozen=True):
    """Let a session say this number of tokens in all, and pause there; fewer than it has said pause it now."""

    session: int
    most: Annotated[int, msgspec.Meta(ge=0)]


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """End a session now."""

    session: int


class Suggest(msgspec.Struct, tag=True, frozen=True):
    """Tokens that may follow the first `begin` ones of prompt and answer: a smaller model guesses so."""

    session: int
    begin: int
    tokens: Annotated[list[int], msgspec.Meta(max_length=MAX_GUESS)]


class Guess(msgspec.Struct, tag=True, frozen=True):
    """Ask what follows: `tokens` take the place of what was asked before from `begin` on; at most `most` are wanted.

    Not a session: the pipeline answers once, and nobody else may use it meanwhile.
    """

    session: int
    begin: int
    tokens: list[int]
    most: int


class Guessed(msgspec.Struct, tag=True, frozen=True):
    """The most likely tokens to follow."""

    session: int
    tokens: list[int]


class Started(msgspec.Struct, tag=True, frozen=True):
    """The prompt was accepted: its tokens, how many of them need not be computed again, and the session's key.

    `notes` says what whoever asked must know of how the prompt came about.
    """

    session: int
    prompt: list[int]
    reused: int = 0
    key: Key = 0
    notes: list[str] = []


class PromptRead(msgspec.Struct, tag=True, frozen=True):
    """How many tokens of the prompt are read; told to those who want to hear it."""

    session: int
    done: int


class PromptScored(msgspec.Struct, tag=True, frozen=True):
    """How probable the prompt's tokens were, from number `begin` on; told to those who want to hear it."""

    session: int
    begin: int
    logprobs: list[TokenLogprob]


class Text(msgspec.Struct, tag=True, frozen=True):
    """A piece of the answer, the tokens it came with, and the laps that brought several.

    `margins`: where tokens are judged, how much better each of them could have been, from 0 to 1. `logprobs`: how
    probable each of them was, where somebody wants to hear that.
    """

    session: int
    text: str
    tokens: list[int]
    laps: list[Lap] = []
    margins: list[float] = []
    logprobs: list[TokenLogprob] = []


class Done(msgspec.Struct, tag=True, frozen=True):
    """The session ended: ``stop``, ``length``, ``context`` or ``cancelled``; `text` is what was held back."""

    session: int
    finish: str
    text: str


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The session failed; `error` is the form of `AinetError.to_dict`."""

    session: int
    error: dict[str, object]


class Alive(msgspec.Struct, tag=True, frozen=True):
    """Nothing but a sign of life; `session` is 0."""

    session: int = 0


Command = Open | Allow | Cancel | Suggest | Guess
Event = Started | PromptRead | PromptScored | Text | Done | Failed | Alive | Guessed
