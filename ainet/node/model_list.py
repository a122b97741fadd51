"""``ainet models``: the models on this device, and those that members have."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from ainet.api import models
from ainet.api.models import ListedModel
from ainet.errors import AinetError, NotFound
from ainet.hosting.requests import ListModels, ModelsListed
from ainet.links.standing import Standing
from ainet.models.catalog import is_called

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

    async def all(self, model: str | None = None) -> list[ListedModel]:
        """Return the models on this device, damaged files with their error, then those that only members have.

        Parameters
        ----------
        model
            The only one that is wanted.

        Raises
        ------
        NotFound
            If that is nowhere.
        """
        own, missing = await asyncio.to_thread(self._own, model)
        if model is not None and own and own[0].path is not None:
            return [ListedModel(**vars(own[0]), members=[])]
        lists = await asyncio.gather(*(self._models_of(state) for state in self._links.members()))
        there: dict[str, tuple[ModelEntry, list[str]]] = {}
        for member, entries in lists:
            for entry in entries:
                if entry.error is None and (model is None or is_called(entry, model)):
                    there.setdefault(entry.name, (entry, []))[1].append(member)
        found = []
        for entry in own:  # of some, only tensors are here: what else belongs to them, members know
            other, members = there.pop(entry.name, (entry, []))
            settings = entry.settings or (other.settings if entry.path is None else None)
            found.append(ListedModel(**vars(entry) | {"settings": settings}, members=[] if entry.path else members))
        for entry, members in there.values():
            elsewhere = vars(entry) | {"where": f"on {', '.join(members)}", "path": None}
            found.append(ListedModel(**elsewhere, members=members))
        if missing is not None and not found:
            raise missing
        return found

    def _own(self, model: str | None) -> tuple[list[ModelEntry], NotFound | None]:
        if model is None:
            return self._catalog.list(), None
        try:
            return [self._catalog.resolve(model)], None
        except NotFound as exc:
            return [], exc

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
