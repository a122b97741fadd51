"""The vocabulary of a loaded model: text to tokens, tokens to text, and the chat template."""

from __future__ import annotations

import codecs
import ctypes
import functools
import re
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError
from ainet.stages.llama.chat_template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLTokenizer
    from numpy.typing import NDArray

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data

#: Tokens that a byte of text becomes at most.
MOST_TOKENS = 8


class LoadedModel(Protocol):
    """A model that llama.cpp has loaded, or its vocabulary alone."""

    @property
    def model(self) -> Any:
        """The pointer to it."""


class Vocabulary:
    """Tokenizer and chat template of a model that carries them (the last stage always does)."""

    def __init__(self, llama: LoadedModel) -> None:
        self._model = llama.model
        self.pointer = C.llama_model_get_vocab(llama.model)
        self.n_tokens = int(C.llama_vocab_n_tokens(self.pointer))
        self._unsorted = np.zeros(self.n_tokens, CANDIDATE)
        self._unsorted["id"] = np.arange(self.n_tokens)
        self._candidates = self._unsorted.copy()

    def tokenize(self, text: str, *, special: bool) -> NDArray[np.int32]:
        """Return the tokens of `text`, int32 of shape (n,).

        Parameters
        ----------
        text
            Any text.
        special
            Whether control tokens written in the text (such as a template's turn marks) count as such, and the
            model's own beginning-of-sequence token is put in front.
        """
        raw = text.encode(errors="replace")  # a template can make half a surrogate pair
        room = len(raw) + 8
        for _ in range(2):
            tokens = np.empty(room, np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(C.llama_token))
            n = C.llama_tokenize(self.pointer, raw, len(raw), pointer, room, special, special)
            if n >= 0:
                return tokens[:n].copy()
            room = min(-n, MOST_TOKENS * room)  # a space may take as many tokens as it has bytes
        raise UsageError("The model's tokenizer cannot represent this text.")

    def piece(self, token: int, *, shown: bool = False) -> bytes:
        """Return the bytes that `token` stands for; control tokens stand for none, or, `shown`, for their spelling."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = C.llama_token_to_piece(self.pointer, token, buffer, room, 0, shown)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def candidates(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Return all tokens with their logits, for llama.cpp's samplers, which sort them: valid until the next call."""
        self._candidates[:] = self._unsorted
        self._candidates["logit"] = logits
        return self._candidates

    @functools.cached_property
    def for_schemas(self) -> LLTokenizer:
        """The vocabulary in the form that JSON schemas are matched with; making it takes some tenths of a second."""
        from llguidance import LLTokenizer

        # A first byte that no text has marks what is no text. What a token ends with is shown, so it is text here, too.
        pieces = [self.piece(token) or b"\xff" + self._spelling(token).encode() for token in range(self.n_tokens)]
        ends = [token for token in range(self.n_tokens) if self.ends(token)]
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined] # its stubs lack it
            tokens=pieces,
            vocab_ptr=self.pointer,
            tokenize_fptr=ctypes.cast(C._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=ends or C.llama_vocab_eos(self.pointer),
            slices=None,
        )

    def ends(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return bool(C.llama_vocab_is_eog(self.pointer, token))

    @functools.cached_property
    def fill_in_marks(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, a suffix and what is between them; None for a model that has none."""
        marks = (C.llama_vocab_fim_pre(self.pointer), C.llama_vocab_fim_suf(self.pointer))
        found = (*marks, C.llama_vocab_fim_mid(self.pointer))
        return found if min(found) >= 0 else None

    @functools.cached_property
    def template(self) -> ChatTemplate | None:
        """The model's own chat template; raises `ModelError` when it cannot be read."""
        source = self._metadata(b"tokenizer.chat_template")
        return ChatTemplate(source) if source is not None else None

    @functools.cached_property
    def bos(self) -> str:
        """The spelling of the token that begins a sequence; empty where there is none."""
        return self._spelling(C.llama_vocab_bos(self.pointer))

    @functools.cached_property
    def eos(self) -> str:
        """The spelling of the token that ends a sequence; empty where there is none."""
        return self._spelling(C.llama_vocab_eos(self.pointer))

    @functools.cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself begins a text with that token."""
        return bool(C.llama_vocab_get_add_bos(self.pointer))

    @functools.cached_property
    def controls(self) -> dict[str, int]:
        """The tokens that are no text, by their spellings; those of one letter cannot be told from text."""
        kinds = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        tokens = (one for one in range(self.n_tokens) if C.llama_vocab_get_attr(self.pointer, one) & kinds)
        return {text: token for token in tokens if len(text := self._spelling(token)) > 1}

    @functools.cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """What finds spellings of such tokens, the longer ones first."""
        spellings = sorted(self.controls, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def takes_space(self, token: int, *, behind: bool) -> bool:
        """Whether spaces behind (or before) a control token are part of it."""
        attribute = C.LLAMA_TOKEN_ATTR_RSTRIP if behind else C.LLAMA_TOKEN_ATTR_LSTRIP
        return bool(C.llama_vocab_get_attr(self.pointer, token) & attribute)

    def _spelling(self, token: int) -> str:
        return "" if token < 0 else C.llama_vocab_get_text(self.pointer, token).decode(errors="replace")

    def _metadata(self, key: bytes) -> str | None:
        n = C.llama_model_meta_val_str(self._model, key, None, 0)
        if n < 0:
            return None
        buffer = ctypes.create_string_buffer(n + 1)
        C.llama_model_meta_val_str(self._model, key, buffer, n + 1)
        return buffer.value.decode(errors="replace")


class TextStream:
    """Turns tokens into text that is never cut inside a character, and stops at stop strings."""

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Return the text that became certain with `token`."""
        return self._release(self._held + self._decoder.decode(self._vocabulary.piece(token)))

    def finish(self) -> str:
        """Return what was held back."""
        if self.stopped:
            return ""
        text = self._release(self._held + self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, text: str) -> str:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            self._held = ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
