"""A generation: what is asked, and the events of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ainet.api.context import FoundPassage
from ainet.api.logprobs import TokenLogprob
from ainet.errors import AinetError

#: The route that streams a generation.
PATH = "generate"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A question, and wishes for its answer; None leaves the choice to the node.

    Attributes
    ----------
    messages
        The conversation, its last turn the question.
    model
        Name, path or digest of a model.
    stages
        Number of stages to force.
    raw
        Whether the last message is completed as plain text, without chat template.
    temperature, top_k, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty, logit_bias, seed
        Parameters for drawing tokens; see `SamplingParams`.
    max_tokens
        Most tokens to generate.
    stop
        Texts that end the answer.
    grammar
        GBNF grammar that the answer follows.
    json_schema
        JSON schema that the answer follows.
    json_schema_loose
        Whether what no grammar can promise of the schema is passed over, and said, instead of refused.
    context
        Whose passages go along with the question: ``auto`` for all files that the node knows, or the path of a folder
        or file; None or ``none`` for no passages.
    private
        Whether no other device sees the question or the answer: the first and last layers stay on this one, and no
        other one is asked for passages.
    seller
        The contact from whom the answer is bought, or ``anyone``; None: none of them sees the question.
    budget
        The most that it may cost, in seconds of the device that works; None: half an hour.
    strangers
        Whether it may be bought of devices of which nothing is known: those on the local network, or the one at the
        address that `seller` names.
    prompt
        Tokens that are continued, in place of `messages`.
    suffix
        With `raw`, a text that the answer leads up to: the model fills in what is between.
    logprobs
        How many alternatives are told of each token of the answer, with how probable it was; None: none of that.
    scores_prompt
        Whether that is told of the prompt's tokens, too.
    """

    messages: list[Message]
    model: str | None = None
    stages: int | None = None
    raw: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    grammar: str | None = None
    json_schema: dict[str, object] | None = None
    json_schema_loose: bool = False
    context: str | None = None
    private: bool = False
    seller: str | None = None
    budget: float | None = None
    strangers: bool = False
    prompt: list[int] = field(default_factory=list)
    suffix: str | None = None
    logprobs: int | None = None
    scores_prompt: bool = False


@dataclass(frozen=True)
class PlacedStage:
    """Layers (0-based, inclusive) in the process `pid` on the device called `node`."""

    node: str
    pid: int
    first_layer: int
    last_layer: int

    @property
    def device(self) -> str:
        return self.node


@dataclass(frozen=True)
class Timings:
    """The times of an answer.

    Attributes
    ----------
    prompt_tokens, reused_tokens
        Tokens of the prompt, and those of them that were computed for an earlier question.
    generated_tokens
        Tokens of the answer.
    first_token_s
        Seconds from the question to the first text, with loading.
    tokens_per_s
        Tokens a second from then on; 0 where the rest came at once.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: float = 0.0
    tokens_per_s: float = 0.0


#: What progress is counted in.
Unit = Literal["bytes", "layers", "tokens", "tensors", "chunks", "files"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of what comes before the answer, in words.

    Attributes
    ----------
    done, total
        How much is done, of how much in all; 0 when that is not known.
    unit
        What is counted.
    notice
        Whether the reader must know of it, also in the middle of an answer.
    """

    event: Literal["progress"] = "progress"
    text: str
    done: int = 0
    total: int = 0
    notice: bool = False
    unit: Unit = "bytes"


@dataclass(frozen=True, kw_only=True)
class Start:
    """The prompt was accepted; said again where another pipeline goes on.

    `notes` says what the reader must know of how the prompt came about.
    """

    event: Literal["start"] = "start"
    model: str
    placement: list[PlacedStage]
    prompt_tokens: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """The passages that go along with a question.

    Attributes
    ----------
    passages
        The best one first; none where none is about the question.
    prompt
        The question with them, as the model is asked.
    note
        Why there are none.
    """

    event: Literal["grounds"] = "grounds"
    passages: list[FoundPassage]
    prompt: str
    note: str = ""


@dataclass(frozen=True)
class Citation:
    """A sentence of an answer, and the passage that says the same.

    Attributes
    ----------
    begin, end
        Its characters in the answer.
    passage
        Which of the passages that went along, from 0; None where none of them says it.
    line
        The line of the passage's file, or cell, on which its sentence begins; 0 where there are no lines.
    quote
        That sentence.
    """

    begin: int
    end: int
    passage: int | None
    line: int = 0
    quote: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The next piece of the answer, its tokens, and how probable they were, where that was asked for."""

    event: Literal["text"] = "text"
    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PromptScored:
    """How probable the prompt's tokens were, from number `begin` on."""

    event: Literal["prompt scored"] = "prompt scored"
    begin: int
    logprobs: list[TokenLogprob]


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What was bought of another owner's device.

    Attributes
    ----------
    seller
        Its name here.
    session
        Under which both sides keep it, in hex.
    tokens
        Of the answer.
    credits, price
        What it cost, and by what the work was multiplied.
    checked, check_limit
        What a check of the answer has found, and up to where that is what the model would have said; None: not checked.
    wrong
        What is wrong with the answer; empty for nothing that is known.
    is_check
        Whether it is the check of what was bought before.
    seconds, left_s, daily_s
        The same in the device's time: what it cost, what is left now, and what may be had in a day; 0 where the
        device does not say how fast it is.
    """

    seller: str
    session: str
    tokens: int
    credits: int
    price: float
    seconds: float
    left_s: float
    daily_s: float
    checked: float | None = None
    check_limit: float | None = None
    wrong: str = ""
    is_check: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """The whole answer.

    Attributes
    ----------
    finish
        ``stop``, ``length`` (as many tokens as were asked for) or ``context`` (the context window is full).
    seed
        With which the same tokens are drawn again.
    received
        Bytes that each device fetched to load the model, by name.
    notes
        What the reader must know of how the answer came about.
    citations
        Its sentences, where passages went along with the question.
    bought
        What was bought, where it was: of several sellers, in their order.
    logprobs, prompt_logprobs
        How probable its tokens were, and those of the prompt, where that was asked for.
    """

    event: Literal["done"] = "done"
    finish: str
    text: str
    tokens: list[int]
    model: str
    seed: int | None
    placement: list[PlacedStage]
    received: dict[str, int]
    timings: Timings
    notes: list[str] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    bought: list[Bought] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no (more) answer: an error in the form in which it travels."""

    event: Literal["error"] = "error"
    error: dict[str, Any]


#: The events that `generate` yields.
Event = Progress | Grounds | Start | PromptScored | Text | Done
_KINDS: dict[str, type[Event | Failed]] = {
    "progress": Progress,
    "grounds": Grounds,
    "start": Start,
    "prompt scored": PromptScored,
    "text": Text,
    "done": Done,
    "error": Failed,
}


class _Kind(msgspec.Struct):
    event: str


def decode_event(line: str | bytes) -> Event | None:
    """Return the event in a line of a streamed generation; None for one that only a newer node knows.

    Raises
    ------
    AinetError
        The line says what went wrong, or cannot be read.
    """
    try:
        kind = _KINDS.get(msgspec.json.decode(line, type=_Kind).event)
        event = msgspec.json.decode(line, type=kind) if kind is not None else None
    except msgspec.DecodeError as exc:
        raise AinetError(f"The node's answer is not understood ({exc}). Restart the node and this kernel.") from exc
    if isinstance(event, Failed):
        raise AinetError.from_dict(event.error)
    return event
