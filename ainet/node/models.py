"""The owner's wishes for models: plans, answers, and an end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ainet.api import models
from ainet.api.models import Plan, Unloaded
from ainet.placement.what_if import described

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.answers import Answers
    from ainet.api.generate import Event, GenerateRequest
    from ainet.executor.answering import Answering
    from ainet.executor.provider import Provider
    from ainet.swarm.settings import SwarmSettings


class Models:
    """Plans, answers with and unloads models. Where none is named, the swarm's setting counts, then the node's own.

    Parameters
    ----------
    provider, answering
        The source of pipelines, and the part that asks them.
    settings
        The settings of all members.
    answers
        The registry of answers to the owner's verbs.
    """

    def __init__(self, provider: Provider, answering: Answering, settings: SwarmSettings, answers: Answers) -> None:
        self._provider, self._answering, self._settings = provider, answering, settings
        answers.add(models.plan, self.plan)
        answers.add(models.plan_for, self.plan_for)
        answers.add(models.unload, self.unload)
        answers.add(models.unload_all, self.unload_all)

    async def plan(self, model: str | None = None, stages: int | None = None, private: bool = False) -> Plan:
        """Return where the layers of a model would go, and why, without loading anything."""
        manifest = await self._provider.manifest(model or self._settings.get("model"))
        return (await self._provider.plan(manifest, stages, private=private)).plan

    async def plan_for(
        self, devices: Any, model: str | None = None, stages: int | None = None, private: bool = False
    ) -> Plan:
        """Return the same for described devices in place of those that are there."""
        capacities = described({"devices": devices}).capacities()
        manifest = await self._provider.manifest(model or self._settings.get("model"))
        return await self._provider.plan_for(manifest, stages, capacities, private=private)

    async def unload(self, model: str | None) -> Unloaded:
        """Unload the pipelines of a model."""
        return Unloaded(await self._provider.unload(model))

    async def unload_all(self) -> Unloaded:
        return Unloaded(await self._provider.unload())

    async def size(self, model: str | None = None) -> int:
        """Return the bytes of a model."""
        return (await self._provider.manifest(model or self._settings.get("model"))).nbytes

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; see `Answering.generate`."""
        if request.model is None:
            request = dataclasses.replace(request, model=self._settings.get("model"))
        return self._answering.generate(request)
