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
    answer: AsyncGenerator[Event, None],
    pipeline: Provided,
    request: Open,
    requester: str,
    note: NoteWork,
    *,
    is_new: bool | None = None,
) -> AsyncGenerator[Event, None]:
    """Pass on what a pipeline answers, and take note of the tokens; that of another device is counted there.

    The prompt counts once, also where the answer goes on on another pipeline.

    Parameters
    ----------
    requester
        Node id of the device that asks; empty for this one.
    is_new
        Whether all that was said before counts as prompt; None: where nothing was.
    """
    counts = request.resume is None if is_new is None else is_new
    before = len(request.resume.generated) if request.resume is not None else 0
    async with contextlib.aclosing(answer) as events:
        async for event in events:
            if pipeline.is_own and isinstance(event, Text) and event.tokens:
                note(Work("answer", requester, pipeline.model, generated=len(event.tokens)))
            elif pipeline.is_own and isinstance(event, Started) and counts:
                note(Work("answer", requester, pipeline.model, answers=1, prompt=len(event.prompt) + before))
            yield event
