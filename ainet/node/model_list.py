"""``ainet models``: the models on this device, and those that members have."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from ainet.api import models
from ainet.api.models import ListedModel
from ainet.errors import AinetError
from ainet.hosting.requests import ListModels, ModelsListed
from ainet.links.standing import Standing

if TYPE_CHECKING:
    import logging

    from ainet.api.answers import Answers
    from ainet.api.models import ModelEntry
    from ainet.api.swarm import MemberState
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.models.catalog import ModelCatalog

LIST_SECONDS = 3.0  # a member that does not say in this time which models it has is left out


class ModelList:
    """Lists models for the owner, and for members.

    Parameters
    ----------
    links
        To members.
    catalog
        The models on this device.
    answers
        The registry of answers to the owner's verbs.
    log
        For members that do not say what they have.
    """

    def __init__(self, links: Links, catalog: ModelCatalog, answers: Answers, log: logging.Logger) -> None:
        self._links, self._catalog, self._log = links, catalog, log
        links.handle(ListModels, self._answer)
        answers.add(models.models, self.all)

    async def all(self) -> list[ListedModel]:
        """Return the models on this device, damaged files with their error, then those that only members have."""
        own = await asyncio.to_thread(self._catalog.list)
        lists = await asyncio.gather(*(self._models_of(state) for state in self._links.members()))
        known = {entry.name for entry in own}
        there: dict[str, tuple[ModelEntry, list[str]]] = {}
        for member, entries in lists:
            for entry in entries:
                if entry.name not in known and entry.error is None:
                    there.setdefault(entry.name, (entry, []))[1].append(member)
        found = [ListedModel(**vars(entry), members=[]) for entry in own]
        for entry, members in there.values():
            elsewhere = vars(entry) | {"where": f"on {', '.join(members)}", "path": None}
            found.append(ListedModel(**elsewhere, members=members))
        return found

    async def _models_of(self, state: MemberState) -> tuple[str, list[ModelEntry]]:
        link = self._links.open_link(state.id, Standing.MEMBER)
        if link is None:
            return state.name, []
        try:
            return state.name, (await link.request(ListModels(), timeout=LIST_SECONDS)).models
        except AinetError as exc:
            self._log.info("%s does not say which models it has: %s", state.name, exc)
            return state.name, []

    async def _answer(self, _link: PeerLink, _request: ListModels) -> ModelsListed:
        entries = await asyncio.to_thread(self._catalog.list)
        # Where a file lies is this owner's own business.
        return ModelsListed([dataclasses.replace(entry, path=None) for entry in entries if entry.error is None])
