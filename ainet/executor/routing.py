"""Replicas: pipelines of one model on different devices, over which sessions spread."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from ainet.errors import AinetError
from ainet.executor.affinity import Affinity
from ainet.executor.requests import DescribePipeline
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Sequence

    from ainet.config import AinetConfig
    from ainet.executor.peer_pipeline import PeerPipeline
    from ainet.executor.pipeline import Pipeline
    from ainet.executor.provided import Provided
    from ainet.models.manifest import Manifest
    from ainet.placement.survey import Planned, Survey

#: Another pipeline is used, or loaded, for a token that takes this share of the time.
WORTH = 0.9


class Candidate(NamedTuple):
    """A pipeline that can answer: its name, the time of a token in it (s), its stages, and who use it now."""

    pipeline: Provided
    name: str
    seconds: float
    stages: int
    sessions: int

    @property
    def expected(self) -> float:
        """Seconds from one token of a further session to its next: each stage works on one session at a time."""
        return self.seconds * max(1.0, (self.sessions + 1) / self.stages)


class Router:
    """Chooses who answers, and has another device load the model where all who have it are busy.

    Parameters
    ----------
    config
        `replicas` and `sessions`.
    survey
        Finds devices that can hold a whole model.
    load
        Loads a replica.
    avoid
        Told the name of a member's pipeline that cannot be asked.
    log
        For what is loaded, and what is not.
    """

    def __init__(
        self,
        config: AinetConfig,
        survey: Survey,
        *,
        load: Callable[[Planned, Manifest], Awaitable[None]],
        avoid: Callable[[str], None],
        log: logging.Logger,
        timing: Timing = TIMING,
    ) -> None:
        self._timing = timing
        self._config, self._survey = config, survey
        self._load, self._avoid = load, avoid
        self._log = log
        self._affinity = Affinity()
        self._tried: dict[str, float] = {}
        #: Tasks that load replicas, and their models.
        self._growing: dict[asyncio.Task[None], Manifest] = {}

    def note(self, model: str, text: str, pipeline: str) -> None:
        """Note which pipeline of the model with this digest knows a conversation now."""
        self._affinity.note(model + text, pipeline)

    async def choose(
        self, manifest: Manifest, text: str, own: Sequence[Pipeline], reachable: Sequence[PeerPipeline]
    ) -> Provided:
        """Return who answers `text`: who knows its beginning, else who is expected to be fastest.

        Parameters
        ----------
        own, reachable
            The pipelines of this node and of others; there must be at least one.
        """
        mine = [Candidate(one, one.name, one.plan.seconds, len(one.plan.stages), one.sessions) for one in own]
        names = [one.name for one in mine] + [one.name for one in reachable]
        known = self._affinity.find(manifest.digest + text, names)
        for one in mine:
            if one.name == known and one.sessions < self._config.sessions:
                return one.pipeline
        idle = [one for one in mine if not one.sessions]
        if idle and known in (None, *(one.name for one in mine)):
            return _soonest(idle).pipeline
        described = await asyncio.gather(*(_described(one, self._timing.load_asked) for one in reachable))
        theirs = [one for one in described if one is not None]
        for silent in [one.name for one, state in zip(reachable, described, strict=True) if state is None]:
            self._avoid(silent)
        for one in theirs:
            if one.name == known and one.sessions < self._config.sessions:
                return one.pipeline
        everybody = [*mine, *theirs]
        if not everybody:
            return reachable[0]  # nobody has said anything: whoever is asked says what is wrong
        best = _soonest(everybody)
        if best.sessions:
            self._grow(manifest, best.expected, own, reachable)
        return best.pipeline

    async def stop(self, models: set[str] | None = None) -> None:
        """Give up what is being loaded, of the models with these digests or of all."""
        stopped = [task for task, model in self._growing.items() if models is None or model.digest in models]
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)

    def _grow(
        self, manifest: Manifest, seconds: float, own: Sequence[Pipeline], reachable: Sequence[PeerPipeline]
    ) -> None:
        """Begin to load a replica, if one would answer sooner than `seconds` from token to token."""
        now = time.monotonic()
        is_due = now >= self._tried.get(manifest.digest, now)
        is_due = is_due and all(one.digest != manifest.digest for one in self._growing.values())
        if not is_due or sum(one.is_replica for one in own) >= self._config.replicas:
            return
        self._tried[manifest.digest] = now + self._timing.replica_again
        used = {stage.node for one in own for stage in one.plan.stages}
        used |= {stage.node for one in reachable for stage in one.reachable.placement.stages}
        task = asyncio.create_task(self._load_replica(manifest, seconds, used))
        self._growing[task] = manifest
        task.add_done_callback(self._growing.pop)

    async def _load_replica(self, manifest: Manifest, seconds: float, used: set[str]) -> None:
        try:
            planned = await self._survey.replica(manifest, used)
            if planned is None or planned.plan.seconds > WORTH * seconds:
                return
            where = planned.plan.stages[0].name
            self._log.info("%s is loaded on %s, too: there are several to answer.", manifest.name, where)
            await self._load(planned, manifest)
        except AinetError as exc:
            self._log.info("%s is not loaded on another device: %s", manifest.name, exc.message)
        except Exception:
            self._log.exception("%s was not loaded on another device.", manifest.name)
        else:
            self._tried.pop(manifest.digest, None)


def _soonest(candidates: Sequence[Candidate]) -> Candidate:
    """Return the first that is about as fast as any other."""
    least = min(one.expected for one in candidates)
    return next(one for one in candidates if WORTH * one.expected <= least)


async def _described(one: PeerPipeline, timeout: float) -> Candidate | None:  # noqa: ASYNC109
    """Ask how busy a member's pipeline is."""
    placed = one.reachable.placement
    try:
        async with asyncio.timeout(timeout):
            state = await one.reachable.link.request(DescribePipeline(one.name))
    except (AinetError, TimeoutError):
        return None
    return Candidate(one, one.name, placed.seconds, len(placed.stages), state.sessions)
