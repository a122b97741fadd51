"""Answers that know the owner's files: passages go along with a question, and the answer is compared with them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from ainet.api.context import unasked_words
from ainet.api.generate import Done, Grounds, Message, Progress
from ainet.context import grounds
from ainet.context.places import whole_name
from ainet.errors import UsageError
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator

    from ainet.api.generate import Event, GenerateRequest
    from ainet.context.context import Context
    from ainet.node.bought import Bought
    from ainet.node.kept_prompts import KeptPrompts
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
    bought
        Answers what is asked of other owners' devices.
    prompts
        Has nothing kept of earlier prompts.
    log
        For what goes wrong in that.
    """

    def __init__(
        self,
        context: Context,
        models: Models,
        window: int,
        *,
        bought: Bought,
        prompts: KeptPrompts,
        log: logging.Logger,
    ) -> None:
        self._context, self._models, self._window = context, models, window
        self._bought, self._prompts = bought, prompts
        #: The files of which passages stand in prompts that may still be kept.
        self._in_prompts: set[str] = set()
        #: Members may have been asked before this node was started.
        self._is_fresh = True
        self._tasks = Tasks("Prompts with what was forgotten are still kept", log)
        context.removed.connect(lambda: self._tasks.spawn(self._forget()))

    async def stop(self) -> None:
        """End what is being done."""
        await self._tasks.stop()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; yields events. See `Answering.generate`."""
        if request.seller is not None:
            return self._bought.generate(request)
        return self._models.generate(request) if request.context in NO_CONTEXT else self._answer(request)

    async def _answer(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        if request.raw or request.prompt or not request.messages:
            raise UsageError("Passages go along with a question, not with a text that is to be continued: no --raw.")
        *before, question = request.messages
        yield Progress(text="looking through your documents")
        size = await self._models.size(request.model)
        n = grounds.number_for(size)
        found = await self._context.quote(
            question.content, None if request.context == AUTO else request.context, most=n, alone=request.private
        )
        passages = grounds.fitting(found.results, self._window)
        note = "; ".join([*([found.note] if found.note else []), *unasked_words(found.unasked)])
        asked = grounds.prompt(question.content, passages, named=n > grounds.BY_SIZE[0][1])
        self._in_prompts.update(whole_name(one) for one in passages)
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

    async def _forget(self) -> None:
        """Have no prompt kept in which something stands that is not known any more."""
        is_kept = bool(self._in_prompts - await self._context.known(self._in_prompts))
        if is_kept:
            self._in_prompts.clear()
            await self._prompts.forget()
        if is_kept or self._is_fresh:
            self._is_fresh = False
            await self._prompts.forget_on_members()
