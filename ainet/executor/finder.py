"""Finding a model: on this device, or with a member that knows it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ainet.api.models import ModelSettings
from ainet.errors import AinetError, ModelError, NotFound
from ainet.hosting.fetch import REPORT_SECONDS
from ainet.hosting.requests import FindModel, ListModels, LoadProgress, ModelFound
from ainet.links.standing import Standing
from ainet.models.catalog import is_called
from ainet.models.manifest import Manifest
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from ainet.api.models import ModelEntry
    from ainet.api.swarm import MemberState
    from ainet.links.links import Links
    from ainet.models.catalog import ModelCatalog
    from ainet.models.tensors import TensorStore

    Progress = Callable[[LoadProgress], None]

LIST_SECONDS = 3.0  # a member that does not say in this time which models it has is left out
#: A model that guesses for another one has at most this share of its size; this many are tried.
DRAFT_SHARE = 1 / 8
MOST_DRAFTS = 5
#: Metadata that make tokens the same.
TOKEN_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.tokens")


class ModelFinder:
    """Finds manifests of models.

    Parameters
    ----------
    links
        To the members.
    store, catalog
        Tensors and models of this node.
    log
        For members that do not answer.
    """

    def __init__(self, links: Links, store: TensorStore, catalog: ModelCatalog, log: logging.Logger) -> None:
        self._links = links
        self._store = store
        self._catalog = catalog
        self._log = log
        #: What models that only members have are asked with.
        self._settings: dict[str, ModelSettings] = {}

    async def manifest(self, name: str, progress: Progress = lambda _: None) -> Manifest:
        """Return the model with this name, path or digest, from this node or from a member.

        Raises
        ------
        NotFound
            If nobody has it.
        ModelError
            If its file is damaged.
        """
        told = 0.0

        def report(done: int, total: int) -> None:  # called by the reading thread
            nonlocal told
            now = time.monotonic()
            if now - told >= REPORT_SECONDS:
                told = now
                loop.call_soon_threadsafe(progress, LoadProgress(f"reading {name}", done, total))

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.to_thread(self._catalog.manifest, name, progress=report)
        except (NotFound, ModelError) as exc:  # what is damaged here may be whole elsewhere
            members = [state for state in self._links.members() if state.connected and not state.is_self]
            found = await asyncio.gather(*(self._ask_for(state, name, progress) for state in members))
            for manifest in found:
                if manifest is not None:
                    await asyncio.to_thread(self._store.save_manifest, manifest)
                    return manifest
            if found and isinstance(exc, NotFound):
                raise NotFound(f"{exc.message} None of the {len(found)} members that can be reached has it.") from None
            raise

    async def settings(self, name: str) -> ModelSettings:
        """Return what the model with this name is asked with, as this device, or a member that has it, knows it."""
        try:
            entry = await asyncio.to_thread(self._catalog.resolve, name)
        except AinetError:
            entry = None
        if entry is not None and entry.path is not None:
            return entry.settings or ModelSettings()
        if name not in self._settings:
            lists = await asyncio.gather(*(self._list_of(state) for state in self._links.members()))
            self._settings[name] = next(
                (one.settings for entries in lists for one in entries if one.settings and is_called(one, name)),
                ModelSettings(),
            )
        return self._settings[name]

    async def _list_of(self, state: MemberState) -> list[ModelEntry]:
        link = self._links.open_link(state.id, Standing.MEMBER)
        if link is None:
            return []
        try:
            return (await link.request(ListModels(), timeout=LIST_SECONDS)).models
        except AinetError as exc:
            self._log.info("%s does not say which models it has: %s", state.name, exc)
            return []

    async def draft_of(self, manifest: Manifest, wanted: str) -> Manifest | None:
        """Return a model on this device that can guess what another one says, as it has the same tokens.

        Parameters
        ----------
        wanted
            Its name; ``auto`` for the largest that is much smaller, ``none`` for none.
        """
        return None if wanted == "none" else await asyncio.to_thread(self._draft_of, manifest, wanted)

    def _draft_of(self, manifest: Manifest, wanted: str) -> Manifest | None:
        if wanted != "auto":
            found = self._catalog.known(wanted)
            if self._same_tokens(manifest, found):
                return found if found.digest != manifest.digest else None
            self._log.warning("%s cannot guess for %s: their tokens are not the same.", wanted, manifest.name)
            return None
        small = [entry for entry in self._catalog.list() if not entry.error and entry.size]
        small = [entry for entry in small if (entry.size or 0) <= DRAFT_SHARE * manifest.nbytes]
        for entry in sorted(small, key=lambda entry: entry.size or 0, reverse=True)[:MOST_DRAFTS]:
            try:
                found = self._catalog.known(entry.name)
                whole = not self._store.missing(found, 0, found.n_layers - 1)
                if whole and self._same_tokens(manifest, found):
                    return found
            except AinetError as exc:
                self._log.info("%s does not guess for %s: %s", entry.name, manifest.name, exc.message)
        return None

    def _same_tokens(self, one: Manifest, other: Manifest) -> bool:
        if one.tokenizer.content == other.tokenizer.content:
            return True
        mine, others = self._store.vocabulary(one), self._store.vocabulary(other)
        return all(mine.get(key) == others.get(key) for key in TOKEN_KEYS)

    async def _ask_for(self, state: MemberState, name: str, progress: Progress) -> Manifest | None:
        """Return the model if the member has it; as long as it says that it still looks, it is waited for."""
        found = ModelFound(b"")
        try:
            async with asyncio.timeout(TIMING.finder_patience) as patience:
                link = await self._links.connect(state.id)
                async with contextlib.aclosing(link.stream(FindModel(name))) as items:
                    async for item in items:
                        patience.reschedule(asyncio.get_running_loop().time() + TIMING.finder_patience)
                        if isinstance(item, LoadProgress):
                            progress(item)
                        else:
                            found = item
            return await asyncio.to_thread(Manifest.decode, found.manifest) if found.manifest else None
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s does not say whether it has %s: %s", state.name, name, exc or "no answer")
            return None
