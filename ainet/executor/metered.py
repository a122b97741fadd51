"""Answers of this node's pipelines, counted while they come: also those that are interrupted, or lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ainet.resources.work import Work
from ainet.stages.protocol.generation import Started, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.executor.provided import Provided
    from ainet.resources.work import NoteWork
    from ainet.stages.protocol.generation import Event, Open


async def metered(
    answer: AsyncGenerator[Event, None], pipeline: Provided, request: Open, requester: str, note: NoteWork
) -> AsyncGenerator[Event, None]:
    """Pass on what a pipeline answers, and take note of the tokens; that of another device is counted there.

    The prompt counts once, also where the answer goes on on another pipeline.

    Parameters
    ----------
    requester
        Node id of the device that asks; empty for this one.
    """
    async with contextlib.aclosing(answer) as events:
        async for event in events:
            if pipeline.is_own and isinstance(event, Text) and event.tokens:
                note(Work("answer", requester, pipeline.model, generated=len(event.tokens)))
            elif pipeline.is_own and isinstance(event, Started) and request.resume is None:
                note(Work("answer", requester, pipeline.model, answers=1, prompt=len(event.prompt)))
            yield event
