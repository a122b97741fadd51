"""The answers of a node to verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.api.verb import P, R, Verb


class Answers:
    """Knows the coroutine that answers each verb in a node."""

    def __init__(self) -> None:
        self._answers: dict[Verb[Any, Any], Callable[..., Awaitable[Any]]] = {}

    def add(self, verb: Verb[P, R], answer: Callable[P, Awaitable[R]]) -> None:
        """Let `answer` answer `verb`, with the fields of its request as arguments."""
        if verb in self._answers:
            raise ValueError(f"{verb.name} is answered already.")
        self._answers[verb] = answer

    def __contains__(self, verb: Verb[Any, Any]) -> bool:
        return verb in self._answers

    def find(self, verb: Verb[P, R]) -> Callable[P, Awaitable[R]]:
        """Return what answers `verb`.

        Raises
        ------
        AinetError
            Nothing does yet: the node is starting.
        """
        if verb not in self._answers:
            raise AinetError("The node is still starting. Ask again in a few seconds.")
        return self._answers[verb]
