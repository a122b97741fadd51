"""The vocabulary of a loaded model: text to tokens, tokens to text, and the chat template."""

from __future__ import annotations

import codecs
import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError
from ainet.stages.llama.chat_template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ainet.stages.llama.llama import Llama

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Vocabulary:
    """Tokenizer and chat template of a model that carries them (the last stage always does)."""

    def __init__(self, llama: Llama) -> None:
        self._model = llama.model
        self.pointer = C.llama_model_get_vocab(llama.model)
        self.n_tokens = int(C.llama_vocab_n_tokens(self.pointer))
        self._template: ChatTemplate | None = None
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
        tokens = np.empty(room, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(C.llama_token))
        n = C.llama_tokenize(self.pointer, raw, len(raw), pointer, room, special, special)
        if n < 0:
            raise UsageError("The model's tokenizer cannot represent this text.")
        return tokens[:n].copy()

    def piece(self, token: int) -> bytes:
        """Return the bytes that `token` stands for; control tokens stand for none."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = C.llama_token_to_piece(self.pointer, token, buffer, room, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def candidates(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Return all tokens with their logits, for llama.cpp's samplers, which sort them: valid until the next call."""
        self._candidates[:] = self._unsorted
        self._candidates["logit"] = logits
        return self._candidates

    def ends(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return bool(C.llama_vocab_is_eog(self.pointer, token))

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Render `messages` (role, content) with the model's own template, up to the assistant's turn.

        Raises
        ------
        UsageError
            If the model has no template, or its template refuses the conversation.
        ModelError
            If its template fails.
        """
        if self._template is None:
            source = self._metadata(b"tokenizer.chat_template")
            if source is None:
                raise UsageError("This model has no chat template. Ask with raw=True (--raw) to complete plain text.")
            self._template = ChatTemplate(source)
        bos, eos = self._text(C.llama_vocab_bos), self._text(C.llama_vocab_eos)
        text = self._template.render(messages, bos=bos, eos=eos)
        # The tokenizer adds this token by itself: a template that writes it too would double it.
        return text.removeprefix(bos) if C.llama_vocab_get_add_bos(self.pointer) else text

    def _text(self, which: Any) -> str:
        token = which(self.pointer)
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
