"""The owner's wishes for formats: which one is best, one piece of work at a time, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ainet.api import quantise
from ainet.api.quantise import FormatEstimate, QuantiseRequest, QuantiseState
from ainet.errors import AinetError, Busy, NotFound, UsageError
from ainet.models.gguf import open_model
from ainet.models.gguf_values import Kind, Value
from ainet.models.manifest import Manifest
from ainet.quantising.advice import bits, converted, kinds_of, mixed_speed, recommend
from ainet.quantising.formats import USUAL, find_format
from ainet.quantising.job import QuantiseJob
from ainet.quantising.process import QuantisingProcess
from ainet.quantising.requests import MeasureSpeeds, SpeedsMeasured
from ainet.quantising.speeds import TypeSpeeds

if TYPE_CHECKING:
    import logging

    from ainet.api.answers import Answers
    from ainet.api.quantise import FormatAdvice
    from ainet.identity.identity import Identity
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.models.catalog import ModelCatalog
    from ainet.models.tensors import TensorStore
    from ainet.placement.capacity import NodeCapacity
    from ainet.placement.survey import Survey
    from ainet.resources.allocator import Allocator

#: Seconds that a member has to measure types that it has not measured before.
MEASURED = 300.0


class Quantiser:
    """Recommends formats, makes models in them, and measures for members.

    Parameters
    ----------
    identity, links
        This node and the way to members.
    catalog, store
        The models on this device.
    survey
        What devices can give.
    allocator
        The memory of this node.
    answers
        The registry of answers to the owner's verbs.
    data_dir
        The node's data directory.
    threads
        The threads of a stage.
    log
        For what goes wrong unasked.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        links: Links,
        catalog: ModelCatalog,
        store: TensorStore,
        survey: Survey,
        allocator: Allocator,
        answers: Answers,
        data_dir: Path,
        threads: int,
        log: logging.Logger,
    ) -> None:
        self._identity, self._links, self._survey = identity, links, survey
        self._catalog, self._store, self._allocator = catalog, store, allocator
        self._data_dir, self._threads, self._log = data_dir, threads, log
        self._speeds = TypeSpeeds(data_dir, allocator, threads, log)
        self._job: QuantiseJob | None = None
        self._running: asyncio.Task[None] | None = None
        links.handle(MeasureSpeeds, self._measure_for)
        answers.add(quantise.formats, self.formats)
        answers.add(quantise.quantise, self.quantise)
        answers.add(quantise.quantisation, self.state)
        answers.add(quantise.cancel_quantisation, self.cancel)

    async def stop(self) -> None:
        """End what is being done."""
        await self._end()
        await self._speeds.flush()

    # --- recommending ----------------------------------------------------------------------------

    async def formats(self, model: str, device: str | None = None, formats: list[str] | None = None) -> FormatAdvice:
        """Recommend a format of a model for a device; see `recommend`.

        Raises
        ------
        NotFound
            There is no such model or device.
        UsageError
            There is no such format, or the model's file is not here.
        AinetError
            The device cannot be asked.
        """
        wanted = [find_format(name).name for name in formats or USUAL]
        path, source = await asyncio.to_thread(self._draft, model)
        async with QuantisingProcess(self._data_dir, self._log, 1) as process:
            types = await process.ask("types", source=str(path), formats=wanted, importance=False)
        made = [(name, _as_format(converted(source, types[name]), name)) for name in wanted]
        if formats is None:
            made = [(name, one) for name, one in made if one.nbytes < source.nbytes and name != source.quantisation]
        kinds = sorted(set().union(kinds_of(source), *(kinds_of(one) for _, one in made)))
        capacity, speeds = await self._ask(device, kinds)
        rows = [(source.quantisation, source, True), *((name, one, False) for name, one in made)]
        estimates = [self._estimate(*row, capacity, speeds) for row in rows]
        return recommend(source.name, capacity, [one for one in estimates if one is not None])

    def _draft(self, model: str) -> tuple[Path, Manifest]:
        entry = self._catalog.resolve(model)
        if entry.path is None:
            raise UsageError(f"Only tensors of {entry.name} are on this device. Its file is needed here.")
        files = open_model(Path(entry.path))
        return files[0].path, Manifest.draft(entry.name, files)

    async def _ask(self, device: str | None, kinds: list[str]) -> tuple[NodeCapacity, dict[str, float]]:
        """Return what a device can give, and the speeds of types of weights there."""
        if device is None or device.casefold() in (self._identity.name.casefold(), self._identity.id):
            return await self._survey.capacity(""), await self._speeds.get(kinds)
        states = [state for state in self._links.members() if not state.is_self]
        state = next((one for one in states if device.casefold() in (one.name.casefold(), one.id)), None)
        if state is None:
            names = ", ".join(one.name for one in states) or "nobody else"
            raise NotFound(f"No member is called {device!r}. Members are: {names}.")
        link = await self._links.connect(state.id)
        capacity = await self._survey.member(state)
        found = await link.request(MeasureSpeeds(kinds), timeout=MEASURED)
        return capacity, {name: speed for name, speed in found.speeds.items() if speed > 0}

    def _estimate(
        self, name: str, manifest: Manifest, is_source: bool, capacity: NodeCapacity, speeds: dict[str, float]
    ) -> FormatEstimate | None:
        """Return what a format would be; None where the owner wants exact answers, which it cannot give."""
        speed = mixed_speed(manifest, speeds)
        able = msgspec.structs.replace(capacity, speed=speed or capacity.speed)
        try:
            planner = self._survey.planner(manifest, [able])
        except UsageError:
            return None
        return FormatEstimate(
            format=name,
            size=manifest.nbytes,
            bits=bits(manifest),
            memory=planner.whole_memory,
            seconds=planner.seconds(able) if speed is not None else None,
            fits=planner.fits(able),
            is_source=is_source,
        )

    async def _measure_for(self, _link: PeerLink, request: MeasureSpeeds) -> SpeedsMeasured:
        return SpeedsMeasured(await self._speeds.get(request.kinds))

    # --- making ----------------------------------------------------------------------------------

    async def quantise(
        self,
        *,
        model: str,
        formats: list[str],
        text: str | None = None,
        chunks: int = 8,
        importance: bool = False,
        name: str | None = None,
    ) -> QuantiseState:
        """Begin to make models.

        Raises
        ------
        Busy
            Others are being made.
        UsageError
            The request makes no sense.
        """
        if self._running is not None and not self._running.done() and self._job is not None:
            raise Busy(
                f"{self._job.state.model} is being quantised: {self._job.state.step}. Wait, or interrupt it.",
                retry_after=60,
            )
        await asyncio.to_thread(self._catalog.resolve, model)
        request = QuantiseRequest(
            model=model, formats=formats, text=text, chunks=chunks, importance=importance, name=name
        )
        self._job = job = QuantiseJob(
            request,
            catalog=self._catalog,
            store=self._store,
            allocator=self._allocator,
            data_dir=self._data_dir,
            threads=self._threads,
            log=self._log,
        )
        self._running = asyncio.create_task(self._run(job), name=f"quantise {model}")
        return job.state

    async def state(self) -> QuantiseState:
        """Return where the work is, or how the last one ended.

        Raises
        ------
        NotFound
            There was none.
        """
        if self._job is None:
            raise NotFound("Nothing was quantised since the node was started.")
        return self._job.state

    async def cancel(self) -> QuantiseState:
        """End the work; models that are complete are kept, and what was measured."""
        state = await self.state()
        if state.running:
            await self._end()
        return await self.state()

    async def _end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._running)

    async def _run(self, job: QuantiseJob) -> None:
        cancelled, failed = False, None
        try:
            await job.run()
        except asyncio.CancelledError:
            cancelled = True
        except AinetError as exc:
            failed = exc.to_dict()
        except Exception as exc:
            self._log.exception("Quantising %s failed.", job.state.model)
            failed = AinetError(f"Quantising failed: {exc!r}. The log has the details.").to_dict()
        job.state = dataclasses.replace(job.state, running=False, cancelled=cancelled, failed=failed)


def _as_format(manifest: Manifest, name: str) -> Manifest:
    """Return a manifest that says which format it has."""
    number = Value.of(Kind.UINT32, find_format(name).number)
    return Manifest(
        manifest.name, manifest.metadata | {"general.file_type": number}, manifest.tokenizer, manifest.tensors
    )
