"""Answers that know the owner's files: passages go along with a question, and the answer is compared with them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from ainet.api.context import unasked_words
from ainet.api.generate import Done, Grounds, Message, Progress
from ainet.context import grounds
from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.generate import Event, GenerateRequest
    from ainet.context.context import Context
    from ainet.node.models import Models

NO_CONTEXT = (None, "none")
AUTO = "auto"


class Grounded:
    """Answers questions, with passages where that is wished.

    Parameters
    ----------
    context
        Knows the owner's files.
    models
        Answers.
    window
        The context window, in tokens.
    """

    def __init__(self, context: Context, models: Models, window: int) -> None:
        self._context, self._models, self._window = context, models, window

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; yields events. See `Answering.generate`."""
        return self._models.generate(request) if request.context in NO_CONTEXT else self._answer(request)

    async def _answer(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        if request.raw or not request.messages:
            raise UsageError("Passages go along with a question, not with a text that is to be continued: no --raw.")
        *before, question = request.messages
        yield Progress(text="looking through your documents")
        size = await self._models.size(request.model)
        n = grounds.number_for(size)
        found = await self._context.quote(
            question.content, None if request.context == AUTO else request.context, most=n
        )
        passages = grounds.fitting(found.results, self._window)
        note = "; ".join([*([found.note] if found.note else []), *unasked_words(found.unasked)])
        asked = grounds.prompt(question.content, passages, named=n > grounds.BY_SIZE[0][1])
        yield Grounds(passages=passages, prompt=asked, note=note)
        request = dataclasses.replace(request, messages=[*before, Message(question.role, asked)], context=None)
        async with contextlib.aclosing(self._models.generate(request)) as events:
            async for event in events:
                if isinstance(event, Done):
                    cited = await self._context.cite(question.content, event.text, passages) if passages else []
                    notes = [*event.notes, *([note] if note else [])]
                    yield dataclasses.replace(event, citations=cited, notes=notes)
                else:
                    yield event
