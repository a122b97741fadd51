"""A Dask actor that turns conversations into tokens, and tokens into text, for models whose weights are elsewhere."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError
from ainet.stages.llama.prompts import chat, plain
from ainet.stages.llama.vocabulary import TextStream, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.api.generate import Message

#: Vocabularies that stay loaded.
MOST_LOADED = 4


_SILENT = C.llama_log_callback(lambda _level, _text, _data: None)


class _Loaded:
    """A model of which only the vocabulary is loaded."""

    def __init__(self, path: str) -> None:
        C.llama_log_set(_SILENT, ctypes.c_void_p(0))
        params = C.llama_model_default_params()
        params.vocab_only = True
        self.model: Any = C.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ModelError("llama.cpp cannot read the model's vocabulary.")

    def close(self) -> None:
        C.llama_model_free(self.model)


class TokenizerActor:
    """Vocabularies by the paths of GGUF files that hold nothing else."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, tuple[_Loaded, Vocabulary]] = OrderedDict()

    def prompt(
        self, path: str, messages: Sequence[Message], template: str, raw: bool
    ) -> tuple[list[int], list[str], int]:
        """Return the tokens of a conversation up to the answer, what the asker must know, and the vocabulary's size."""
        vocabulary = self._vocabulary(path)
        made = plain(messages[-1].content, vocabulary) if raw else chat(messages, vocabulary, template)
        return made.tokens.tolist(), made.notes, vocabulary.n_tokens

    def text(self, path: str, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """Return the text of an answer's tokens, up to a text that ends it."""
        vocabulary = self._vocabulary(path)
        stream, said = TextStream(vocabulary, stop), []
        for token in tokens:
            if not 0 <= token < vocabulary.n_tokens:
                raise ModelError(f"{token} is no token of this model.")
            said.append(stream.add(token))
        return "".join(said) + stream.finish()

    def count(self, path: str, text: str) -> int:
        """Return how many tokens a text has when it is read, not written."""
        return len(self._vocabulary(path).tokenize(text, special=False))

    def _vocabulary(self, path: str) -> Vocabulary:
        if path not in self._loaded:
            loaded = _Loaded(path)
            self._loaded[path] = loaded, Vocabulary(loaded)
            if len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)[1][0].close()
        self._loaded.move_to_end(path)
        return self._loaded[path][1]
