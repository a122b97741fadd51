"""The node: one device's ainet, put together from its layers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.daemon.options import keep_options
from ainet.documents.exchange import Documents
from ainet.documents.kinds import Fetch
from ainet.engine.engine import Engine
from ainet.errors import AinetError, UsageError
from ainet.executor.answering import Answering
from ainet.executor.directory import PipelineDirectory
from ainet.executor.finder import ModelFinder
from ainet.executor.provider import Provider
from ainet.hosting.fetch import Fetcher
from ainet.hosting.handlers import PeerHandlers
from ainet.hosting.stages import HostedStages
from ainet.identity.identity import Identity
from ainet.lending.lender import Lender
from ainet.links.bandwidths import Bandwidths
from ainet.links.links import Links
from ainet.links.standing import Standing
from ainet.models.catalog import ModelCatalog
from ainet.models.tensors import TensorStore
from ainet.node.advertiser import Advertiser
from ainet.node.model_list import ModelList
from ainet.node.peers import Peers
from ainet.node.status import Status
from ainet.pairing.pairing import Pairing
from ainet.placement.survey import Survey
from ainet.resources import monitor
from ainet.resources.allocator import Allocator, Caps
from ainet.resources.speeds import Speeds
from ainet.sharing.notebooks import Notebooks
from ainet.sharing.shares import NOTEBOOK, Shares
from ainet.swarm.feeds import Feeds
from ainet.swarm.leases import Leases
from ainet.swarm.settings import SwarmSettings
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from ainet.config import AinetConfig
    from ainet.executor.request import GenerateRequest
    from ainet.identity.contacts import Contact
    from ainet.placement.what_if import WhatIf


class Node:
    """One device. It works alone, and with members when they are there.

    Parameters
    ----------
    config
        What the owner decides.
    log
        For everything that happens without anybody asking.
    """

    def __init__(self, config: AinetConfig, *, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self._data_dir = config.make_data_dir()
        self.identity = Identity.open(self._data_dir, config.name)
        self._stack = contextlib.AsyncExitStack()
        self._cutting = Tasks("A removed member was not cut off cleanly", log)
        self._notebooks: Notebooks | None = None

    @property
    def name(self) -> str:
        """Name of this device in the swarm."""
        return self.identity.name

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return self._data_dir

    @property
    def id(self) -> str:
        """Node id of this device."""
        return self.identity.id

    async def start(self) -> None:
        """Start the engine, open the ports for members, and be ready for questions."""
        config, log, stack = self._config, self._log, self._stack
        stack.push_async_callback(self._cutting.stop)
        self.allocator = Allocator(Caps.from_config(config))
        self.store = TensorStore(self._data_dir / "store", disk=self.allocator.caps.disk)
        stack.callback(self.store.close)
        self.catalog = ModelCatalog(config, self.store)
        speed = await asyncio.to_thread(monitor.memory_speed, self._data_dir)
        speeds = Speeds(self._data_dir, log)
        self.engine = await stack.enter_async_context(Engine(config, self._data_dir, log))
        self.links = Links(self.identity, config, log)
        self.feeds = Feeds(self.links, self._data_dir / "logs.sqlite", log)
        stack.push_async_callback(self.feeds.stop)
        #: What all members may read and edit.
        self.documents = Documents(self.links, self._data_dir / "documents.sqlite", log)
        stack.push_async_callback(self.documents.stop)
        #: Who may have which notebook.
        self.shares = Shares(self.links, self.feeds, self._data_dir / "contact_shares.json", log)
        stack.push_async_callback(self.shares.stop)
        self.documents.register(NOTEBOOK, self.shares, Fetch.ONCE_OPENED)
        #: What all members have agreed on.
        self.settings = SwarmSettings(self.documents)
        fetcher = Fetcher(self.store, self.links)
        self.stages = HostedStages(
            identity=self.identity,
            links=self.links,
            engine=self.engine,
            allocator=self.allocator,
            store=self.store,
            fetcher=fetcher,
            speeds=speeds,
            log=log,
        )
        stack.push_async_callback(self.stages.stop)
        leases = Leases(self.links, self.feeds, log)
        stack.push_async_callback(leases.stop)
        bandwidths = Bandwidths(log)
        survey = Survey(
            config=config,
            identity=self.identity,
            links=self.links,
            parked=lambda: self.stages.parking.memory,
            worker_limit=lambda: self.stages.worker_limit,
            allocator=self.allocator,
            store=self.store,
            speed=speed,
            speeds=speeds,
            bandwidths=bandwidths,
            log=log,
        )
        directory = PipelineDirectory(self.links, self.feeds)
        self.provider = Provider(
            config=config,
            identity=self.identity,
            links=self.links,
            service=self.stages,
            finder=ModelFinder(self.links, self.store, self.catalog, log),
            survey=survey,
            directory=directory,
            leases=leases,
            log=log,
        )
        self._answering = Answering(self.provider, self.links, log)
        handlers = PeerHandlers(
            links=self.links,
            leases=leases,
            service=self.stages,
            store=self.store,
            catalog=self.catalog,
        )
        stack.push_async_callback(handlers.stop)
        self._peers = Peers(self.links, self.feeds, directory, bandwidths)
        self.lender = Lender(
            config=config,
            identity=self.identity,
            links=self.links,
            allocator=self.allocator,
            make_room=self.stages.parking.clear,
            data_dir=self._data_dir,
            log=log,
        )
        stack.push_async_callback(self.lender.stop)
        self._models = ModelList(self.links, self.catalog, log)
        self._status = Status(
            links=self.links,
            engine=self.engine,
            allocator=self.allocator,
            store=self.store,
            stages=self.stages,
            pipelines=self.provider.pipelines,
            log=log,
        )
        self.links.on_revoked(self._revoked)
        await stack.enter_async_context(self.links)
        self.pairing = Pairing(self.identity, self.links, log)
        stack.push_async_callback(self.pairing.stop)
        advertiser = Advertiser(
            config=config,
            allocator=self.allocator,
            catalog=self.catalog,
            stages=self.stages,
            feeds=self.feeds,
            speed=speed,
            log=log,
        )
        await advertiser.start()
        stack.push_async_callback(advertiser.stop)
        await self.provider.start()
        stack.push_async_callback(self.provider.stop)

    async def open_notebooks(self, contents: Any, live: Callable[[str], Any]) -> None:
        """Share notebooks from now on: those of a Jupyter server, from its contents manager and live documents."""
        self._notebooks = Notebooks(
            identity=self.identity,
            links=self.links,
            documents=self.documents,
            shares=self.shares,
            data_dir=self._data_dir,
            contents=contents,
            live=live,
            log=self._log,
        )
        self._stack.push_async_callback(self._notebooks.stop)
        await self._notebooks.start()

    @property
    def notebooks(self) -> Notebooks:
        """The notebooks that are shared.

        Raises
        ------
        AinetError
            They are not there yet.
        """
        if self._notebooks is None:
            raise AinetError("The node is still starting. Ask again in a few seconds.")
        return self._notebooks

    async def stop(self) -> None:
        """Unload everything, say goodbye, end every process."""
        await self._stack.aclose()

    async def status(self) -> dict[str, Any]:
        """Return what there is to know at a glance: this node, its members, their workers, the pipelines."""
        return await self._status.describe(str(self._data_dir))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models on this device, then those that only members have; see `ModelList.all`."""
        return await self._models.all()

    async def plan(
        self, model: str | None = None, stages: int | None = None, what_if: WhatIf | None = None
    ) -> dict[str, Any]:
        """Return where the layers of a model would go, and why, without loading anything.

        Parameters
        ----------
        what_if
            Devices to plan for in place of those that are there.
        """
        manifest = await self.provider.manifest(model or self.settings.get("model"))
        if what_if is not None:
            return msgspec.to_builtins(await self.provider.plan_for(manifest, stages, what_if.offers()))
        return msgspec.to_builtins((await self.provider.plan(manifest, stages)).plan)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Answer `request`; see `Answering.generate`."""
        if request.model is None:
            request = msgspec.structs.replace(request, model=self.settings.get("model"))
        return self._answering.generate(request)

    async def unload(self, model: str | None = None) -> list[str]:
        """Unload the pipelines of `model`, or all; returns the models' names."""
        return await self.provider.unload(model)

    async def peers(self) -> list[dict[str, Any]]:
        """Return the other devices; see `Peers.describe`."""
        return await self._peers.describe()

    async def connect(self, address: str) -> dict[str, Any]:
        """Connect to the member at `address` and remember it."""
        link = await self.links.connect_address(address)
        return {"id": link.peer_id, "name": link.peer_name, "path": link.path}

    async def open_lan(self) -> None:
        """Accept members from the local networks and look for them there, now and at each start."""
        await self.links.open_lan()
        await asyncio.to_thread(keep_options, self._data_dir, {"lan": True})

    async def invite(self, listen: str | None, minutes: float, *, lan: bool = False) -> dict[str, Any]:
        """Return a new ticket, when it expires (Unix seconds), and the address that it waits on."""
        if lan:
            await self.open_lan()
        return msgspec.to_builtins(await self.pairing.invite(listen, minutes))

    async def join(self, ticket: str, name: str | None = None, *, lan: bool = False) -> dict[str, Any]:
        """Become a member of the swarm that the ticket is for."""
        if lan:
            await self.open_lan()
        await self.provider.unload()
        await self.stages.parking.clear()  # what is kept is linked with the certificate of the swarm before
        joined = await self.pairing.join(ticket, name)
        return {"swarm": joined.swarm, "name": self.name, "warning": joined.warning, "members": await self.members()}

    async def members(self) -> list[dict[str, Any]]:
        """Return the members of the swarm, this node included."""
        return [msgspec.to_builtins(state) for state in self.links.members()]

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove a member from the swarm; every connection to it is cut at once."""
        if name in (self.name, self.id):
            raise UsageError("A device cannot remove itself. Remove it from the device that holds the swarm's key.")
        return msgspec.to_builtins(self.links.trust.remove(name))

    async def introduce(self, listen: str | None, minutes: float, *, lan: bool = False) -> dict[str, Any]:
        """Return a ticket with which a device of another owner becomes a contact; as `invite`."""
        if lan:
            await self.open_lan()
        return msgspec.to_builtins(await self.pairing.invite(listen, minutes, "introduce"))

    async def accept(self, ticket: str, *, lan: bool = False) -> dict[str, Any]:
        """Become contacts with the device that gave out the ticket."""
        if lan:
            await self.open_lan()
        return _contact(await self.pairing.accept(ticket), connected=False)

    async def contacts(self) -> list[dict[str, Any]]:
        """Return the devices of other owners that were introduced."""
        known = self.identity.contacts.all()
        return [_contact(one, connected=self.links.open_link(one.id, Standing.CONTACT) is not None) for one in known]

    async def forget(self, name: str) -> dict[str, Any]:
        """Forget a contact; every connection to it is cut at once."""
        return _contact(self.links.trust.forget(name), connected=False)

    async def swarm_settings(self, key: str | None = None, value: str | None = None) -> dict[str, str]:
        """Return the settings that all members share, after setting `key` (None as value takes it back)."""
        if key is not None:
            self.settings.set(key, value)
        return self.settings.all()

    async def export_key(self, passphrase: str) -> str:
        """Return the swarm's key, encrypted."""
        return await self.pairing.export_key(passphrase)

    async def import_key(self, blob: str, passphrase: str) -> dict[str, Any]:
        """Take over the swarm's key, so that this device may invite, renew and remove as well."""
        await self.pairing.import_key(blob, passphrase)
        return {"swarm": self.identity.swarm, "holds_ca": self.identity.holds_ca}

    async def open_client(self, workers: int | None = None) -> dict[str, Any]:
        """Start a Dask cluster of lent workers for the owner's code; see `Lender.open`."""
        return await self.lender.open(workers)

    async def close_client(self, id: str) -> None:  # noqa: A002 - the word of the interface
        """End such a cluster."""
        await self.lender.close(id)

    def _revoked(self, node_id: str) -> None:
        self.provider.pipelines.revoke(node_id)
        self._cutting.spawn(self.stages.close_all(node_id))
        self._cutting.spawn(self.lender.revoke(node_id))


def _contact(contact: Contact, *, connected: bool) -> dict[str, Any]:
    return {"id": contact.id, "name": contact.name, "added": contact.added, "connected": connected}
