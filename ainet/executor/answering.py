"""Answers: one question is answered on whatever pipeline there is, and goes on on another one when that is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from typing import TYPE_CHECKING

import msgspec

from ainet.api import generate as shown
from ainet.errors import AinetError, NotEnough, NotFound, PeerUnreachable, StageLost
from ainet.executor.metered import metered
from ainet.executor.peer_pipeline import PeerPipelineGone
from ainet.executor.request import conversation, to_open, turn
from ainet.executor.requests import AskPipeline, DescribePipeline, PipelineState, Said
from ainet.executor.running import RunningAnswers
from ainet.executor.transcript import Transcript
from ainet.resources.work import NoteWork, unmetered
from ainet.stages.protocol.generation import Started
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractContextManager

    from ainet.executor.pipeline import Pipeline
    from ainet.executor.provider import Provider
    from ainet.hosting.requests import LoadProgress
    from ainet.links.link import PeerLink
    from ainet.links.links import Links

#: An answer is given up when its pipeline is lost this often without one more token: it may be what ends the workers.
LOST_ATTEMPTS = 10
#: The same for a model that is lost while it is loaded.
LOAD_ATTEMPTS = 3


def begins(event: shown.Event) -> bool | None:
    """Whether an answer has begun with this event, or must begin anew elsewhere; None where it says neither."""
    if isinstance(event, shown.Start | shown.Text):
        return True
    return False if isinstance(event, shown.Progress) and event.notice else None


def _nobody_waits() -> AbstractContextManager[Callable[[bool], None]]:
    return contextlib.nullcontext(lambda _: None)


class _LostInQueue(StageLost):
    """The pipeline was lost before it came to this request: by no fault of it."""


class Answering:
    """Answers the owner's questions, and those of members on what this node has loaded.

    Parameters
    ----------
    provider
        The source of pipelines.
    links
        To members, who may ask.
    log
        For pipelines that are lost.
    note_work
        Takes note of the tokens of questions and answers.
    """

    def __init__(
        self, provider: Provider, links: Links, log: logging.Logger, *, note_work: NoteWork = unmetered
    ) -> None:
        #: The answers that grow.
        self.running = RunningAnswers(log)
        self._provider = provider
        self._log = log
        self._note_work = note_work
        #: Entered while somebody is answered who comes before all others; gives what is told whether that has begun.
        self.first: Callable[[], AbstractContextManager[Callable[[bool], None]]] = _nobody_waits
        #: The members (node ids) that have asked a pipeline.
        self._askers: weakref.WeakKeyDictionary[Pipeline, set[str]] = weakref.WeakKeyDictionary()
        links.handle(AskPipeline, self._answer_member)
        links.handle(DescribePipeline, self._describe)

    async def generate(self, request: shown.GenerateRequest) -> AsyncGenerator[shown.Event, None]:
        """Answer `request`; yields events. Closing the generator cancels the session on every stage.

        Raises
        ------
        AinetError
            Whatever prevents an answer.
        """
        begun = time.monotonic()
        opened, notes = to_open(request, await self._provider.settings(request.model))
        transcript = Transcript(opened, notes, begun)
        with self.first() as tell:
            async with contextlib.aclosing(self._until_answered(request, transcript)) as events:
                async for event in events:
                    if (has_begun := begins(event)) is not None:
                        tell(has_begun)
                    yield event

    async def _until_answered(
        self, request: shown.GenerateRequest, transcript: Transcript
    ) -> AsyncGenerator[shown.Event, None]:
        """Try until there is an answer, or no way to one."""
        failures, is_lost, missing_since = 0, False, None
        while True:
            said = transcript.said
            try:
                async with contextlib.aclosing(self._attempt(request, transcript)) as events:
                    async for event in events:
                        yield event
            except PeerPipelineGone as exc:
                self._log.info("A member's pipeline is not asked: %s", exc.message)
            except StageLost as exc:
                if transcript.said > said:
                    failures = 0
                is_lost = True
                failures += not isinstance(exc, _LostInQueue)
                if failures >= (LOST_ATTEMPTS if transcript.accepted else LOAD_ATTEMPTS):
                    raise
                goes_on = "The answer goes on where it stopped" if transcript.said else "It is tried once more"
                self._log.warning("%s %s.", exc.message, goes_on)
                yield shown.Progress(text=f"{exc.message} {goes_on}", notice=True)
            except (NotEnough, NotFound, PeerUnreachable) as exc:
                # What is left does not suffice: a device that went may come back.
                missing_since = missing_since or time.monotonic()
                if not is_lost or time.monotonic() - missing_since > TIMING.devices_awaited:
                    raise
                words = f"waiting for devices to come back: {exc.message}"
                yield shown.Progress(text=words, notice=True)
                await asyncio.sleep(TIMING.devices_looked_for)
                continue
            else:
                return
            missing_since = None

    async def forget(self, member: str) -> None:
        """Unload the pipelines that a member (node id) has asked: they keep keys and values of its prompts."""
        asked = [pipeline for pipeline, askers in self._askers.items() if member in askers]
        await asyncio.gather(*(self._provider.pipelines.drop(pipeline) for pipeline in asked))

    async def _attempt(
        self, request: shown.GenerateRequest, transcript: Transcript
    ) -> AsyncGenerator[shown.Event, None]:
        """Answer, or go on answering, on what is loaded or can be.

        Raises
        ------
        PeerPipelineGone
            A member's pipeline is not there any more; it has said nothing.
        StageLost
            The pipeline was lost; another one can go on.
        AinetError
            Whatever prevents an answer.
        """
        text = conversation(request)
        reports: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        loading = self._provider.obtain(request, text, reports.put_nowait)
        loading.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield shown.Progress(text=report.text, done=report.done, total=report.total, unit=report.unit)
            if loading.cancelled():
                raise AinetError("The model was unloaded while it was being loaded.")
            pipeline = loading.result()
            self._provider.note(pipeline, text)
            started = False
            try:
                rest = transcript.rest
                answer = metered(pipeline.ask(rest), pipeline, rest, "", self._note_work)
                answer = self.running.follow(answer, pipeline, "")
                async with contextlib.aclosing(answer) as events:
                    async for event in events:
                        started = True
                        for told in transcript.receive(pipeline, event):
                            yield told
                self._provider.note(pipeline, text + turn("assistant", transcript.text))
            except StageLost as exc:
                if pipeline.unwanted:
                    raise AinetError(f"The model {pipeline.model} was unloaded while it answered.") from exc
                pipeline.abandon()  # it is placed again
                if started or isinstance(exc, PeerPipelineGone):
                    raise
                raise _LostInQueue(exc.message) from exc
        finally:
            await self._provider.finish(loading)

    async def _answer_member(self, link: PeerLink, request: AskPipeline) -> AsyncGenerator[Said, None]:
        """Answer a member's question on a pipeline of this node."""
        pipeline = self._provider.announced(request.pipeline)
        pipeline.claim(pipeline.model)
        self._askers.setdefault(pipeline, set()).add(link.peer_id)
        asked = msgspec.structs.replace(request.request, user=link.peer_id)
        try:
            answer = metered(pipeline.ask(asked), pipeline, asked, link.peer_id, self._note_work)
            answer = self.running.follow(answer, pipeline, link.peer_id)
            with self.first() as tell:
                async with contextlib.aclosing(answer) as events:
                    async for event in events:
                        if isinstance(event, Started):
                            tell(True)
                        yield Said(event)
        except StageLost:
            pipeline.abandon()
            raise
        finally:
            pipeline.release()

    async def _describe(self, _link: PeerLink, request: DescribePipeline) -> PipelineState:
        return PipelineState(self._provider.announced(request.pipeline).sessions)
