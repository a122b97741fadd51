"""The node: one device's ainet, put together from its layers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ainet.api.answers import Answers
from ainet.context.context import Context
from ainet.documents.exchange import Documents
from ainet.documents.kinds import Fetch
from ainet.economy.economy import Economy
from ainet.economy.usage import open_book
from ainet.engine.engine import Engine
from ainet.errors import UsageError
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
from ainet.models.catalog import ModelCatalog
from ainet.models.tensors import TensorStore
from ainet.node.access_keys import AccessKeys
from ainet.node.advertiser import Advertiser
from ainet.node.closing import Closing
from ainet.node.grounded import Grounded
from ainet.node.kept_prompts import KeptPrompts
from ainet.node.membership import Membership
from ainet.node.model_list import ModelList
from ainet.node.models import Models
from ainet.node.news import NewsDesk
from ainet.node.news_sources import NewsSources
from ainet.node.peers import Peers
from ainet.node.status import Status
from ainet.node.trading import Trading
from ainet.pairing.pairing import Pairing
from ainet.placement.survey import Survey
from ainet.quantising.quantiser import Quantiser
from ainet.resources import monitor
from ainet.resources.allocator import Allocator, caps_of
from ainet.resources.gpus import find_gpu
from ainet.resources.speeds import Speeds
from ainet.sharing.notebooks import Notebooks
from ainet.sharing.shares import NOTEBOOK, Shares
from ainet.swarm.feeds import Feeds
from ainet.swarm.leases import Leases
from ainet.swarm.settings import SwarmSettings
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing
from ainet.units import parse_bytes

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable, Collection
    from pathlib import Path

    from ainet.api.generate import Event, GenerateRequest
    from ainet.api.news import News
    from ainet.api.verb import P, R, Verb
    from ainet.config import AinetConfig
    from ainet.resources.gpus import Gpu


class Node:
    """One device. It works alone, and with members when they are there.

    Parameters
    ----------
    config
        The owner's decisions.
    log
        For everything that happens without anybody asking.
    url
        The node's address for this device's own processes.
    timing
        The times that it waits for others.
    """

    def __init__(self, config: AinetConfig, *, log: logging.Logger, url: str = "", timing: Timing = TIMING) -> None:
        self._timing = timing
        self._config = config
        self._log = log
        self._url = url
        #: The answers to the owner's verbs.
        self.answers = Answers()
        self._data_dir = config.make_data_dir()
        self.identity = Identity.open(self._data_dir, config.name)
        self._stack = Closing(log, timing.stop_steps)
        self._news = NewsDesk(log)
        self._cutting = Tasks("A removed member was not cut off cleanly", log)

    @property
    def name(self) -> str:
        """Name of this device in the swarm."""
        return self.identity.name

    @property
    def data_dir(self) -> Path:
        return self._data_dir

    @property
    def id(self) -> str:
        """Node id of this device."""
        return self.identity.id

    async def start(self) -> None:
        """Start the engine, open the ports for members, and be ready for questions."""
        config, log, stack, timing = self._config, self._log, self._stack, self._timing
        for warning in self.identity.warnings:
            log.warning("%s", warning)
        stack.push_async_callback(self._cutting.stop)
        self.gpu = await self._find_gpu()
        self.access_keys = AccessKeys(self._data_dir / "access_keys.sqlite", self.answers, log)
        await self.access_keys.start()
        stack.push_async_callback(self.access_keys.stop)
        book = await asyncio.to_thread(open_book, self._data_dir / "usage.sqlite", self.id, log)
        stack.push_async_callback(book.stop)
        self.allocator = Allocator(caps_of(config, self.gpu))
        self.store = TensorStore(self._data_dir / "store", disk=self.allocator.caps.disk)
        stack.callback(self.store.close)
        self.catalog = ModelCatalog(config, self.store)
        speed = await asyncio.to_thread(monitor.memory_speed, self._data_dir)
        speeds = Speeds(self._data_dir, log)
        self.engine = await stack.enter_async_context(Engine(config, self._data_dir, log))
        self.links = Links(self.identity, config, log, timing=timing)
        self.feeds = Feeds(self.links, self._data_dir / "logs.sqlite", log)
        stack.push_async_callback(self.feeds.stop)
        #: The documents of the swarm.
        self.documents = Documents(self.links, self._data_dir / "documents.sqlite", log)
        stack.push_async_callback(self.documents.stop)
        #: The shares of notebooks.
        self.shares = Shares(self.links, self.feeds, self._data_dir / "contact_shares.json", log)
        stack.push_async_callback(self.shares.stop)
        self.documents.register(NOTEBOOK, self.shares, Fetch.ONCE_OPENED)
        #: The settings of all members.
        self.settings = SwarmSettings(self.documents, self.answers)
        fetcher = Fetcher(self.store, self.links, timing=timing)
        self.stages = HostedStages(
            identity=self.identity,
            links=self.links,
            engine=self.engine,
            allocator=self.allocator,
            store=self.store,
            fetcher=fetcher,
            speeds=speeds,
            log=log,
            note_work=book.note,
            timing=timing,
        )
        stack.push_async_callback(self.stages.stop)
        leases = Leases(self.links, self.feeds, log, timing=timing)
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
            gpu_speed=self.gpu.speed if self.gpu is not None else 0.0,
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
            timing=timing,
        )
        answering = Answering(self.provider, self.links, log, note_work=book.note)
        models = Models(self.provider, answering, self.settings, self.answers)
        self._prompts = KeptPrompts(self.provider, self.stages, answering, self.links, data_dir=self._data_dir, log=log)
        stack.push_async_callback(self._prompts.stop)
        handlers = PeerHandlers(
            links=self.links,
            leases=leases,
            service=self.stages,
            store=self.store,
            catalog=self.catalog,
            note_work=book.note,
            timing=timing,
        )
        stack.push_async_callback(handlers.stop)
        Peers(self.links, self.feeds, directory, bandwidths, self.answers)
        self.lender = Lender(
            config=config,
            identity=self.identity,
            links=self.links,
            allocator=self.allocator,
            make_room=self.stages.parking.clear,
            answers=self.answers,
            data_dir=self._data_dir,
            log=log,
            timing=timing,
        )
        stack.push_async_callback(self.lender.stop)
        quantiser = Quantiser(
            identity=self.identity,
            links=self.links,
            catalog=self.catalog,
            store=self.store,
            survey=survey,
            allocator=self.allocator,
            answers=self.answers,
            data_dir=self._data_dir,
            threads=config.stage_threads or self.allocator.caps.threads,
            log=log,
        )
        stack.push_async_callback(quantiser.stop)
        context = Context(
            data_dir=self._data_dir,
            better=lambda: self.catalog.path(config.embedding_model) if config.embedding_model else "",
            disk=parse_bytes(config.context_disk),
            links=self.links,
            feeds=self.feeds,
            engine=self.engine,
            workers=self.stages.worker_pool,
            answers=self.answers,
            log=log,
            note_work=book.note,
            timing=timing,
        )
        stack.push_async_callback(context.stop)
        economy = Economy(
            book=book,
            links=self.links,
            look=self.stages.meter.look,
            kept=context.kept,
            answers=self.answers,
            log=log,
            timing=timing,
        )
        stack.push_async_callback(economy.stop)
        trading = Trading(
            provider=self.provider,
            answering=answering,
            catalog=self.catalog,
            store=self.store,
            settings=self.settings,
            links=self.links,
            feeds=self.feeds,
            engine=self.engine,
            workers=self.stages.worker_pool,
            window=config.context_window,
            data_dir=self._data_dir,
            answers=self.answers,
            log=log,
            note_work=book.note,
            timing=timing,
        )
        stack.push_async_callback(trading.stop)
        self._grounded = Grounded(
            context, models, config.context_window, bought=trading.bought, prompts=self._prompts, log=log
        )
        stack.push_async_callback(self._grounded.stop)
        context.start()
        sources = NewsSources(
            self._news,
            links=self.links,
            provider=self.provider,
            running=answering.running,
            context=context,
            trading=trading,
        )
        stack.push_async_callback(sources.stop)
        ModelList(self.links, self.catalog, self.answers, log)
        Status(
            links=self.links,
            engine=self.engine,
            allocator=self.allocator,
            store=self.store,
            stages=self.stages,
            pipelines=self.provider.pipelines,
            data_dir=self._data_dir,
            url=self._url,
            gpu=self.gpu.description if self.gpu is not None else None,
            answers=self.answers,
            log=log,
        )
        self.links.on_revoked(self._revoked)
        await stack.enter_async_context(self.links)
        pairing = Pairing(self.identity, self.links, log)
        stack.push_async_callback(pairing.stop)
        Membership(
            links=self.links,
            pairing=pairing,
            leave=self._leave,
            data_dir=self._data_dir,
            answers=self.answers,
        )
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
        await trading.start()

    async def _find_gpu(self) -> Gpu | None:
        """Return the GPU that layers may go to; raises `UsageError` for one that is wanted and cannot be used."""
        if not self._config.gpu:
            return None
        if self._config.exact:
            raise UsageError(
                "`exact` and --gpu exclude each other: on a GPU a row's result depends on those beside it. Start the "
                "node with --no-gpu, or switch `exact` off."
            )
        return await find_gpu(self._log)

    async def open_notebooks(self, contents: Any, live: Callable[[str], Any]) -> None:
        """Share notebooks from now on: those of a Jupyter server, from its contents manager and live documents."""
        notebooks = Notebooks(
            identity=self.identity,
            links=self.links,
            documents=self.documents,
            shares=self.shares,
            data_dir=self._data_dir,
            contents=contents,
            live=live,
            answers=self.answers,
            log=self._log,
        )
        self._stack.push_async_callback(notebooks.stop)
        await notebooks.start()

    async def stop(self) -> None:
        """Unload everything, say goodbye, end every process."""
        await self._stack.aclose()

    async def call(self, verb: Verb[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do something for the owner; the arguments are the fields of the verb's request.

        Raises
        ------
        AinetError
            The verb's answer raises it.
        """
        return await self.answers.find(verb)(*args, **kwargs)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; see `Answering.generate`."""
        return self._grounded.generate(request)

    def watch(self, kinds: Collection[str] = ()) -> AsyncGenerator[News, None]:
        """Tell all there is of some kinds, or of all, and then what changes; see `NewsDesk.listen`."""
        return self._news.listen(kinds)

    async def _leave(self) -> None:
        """End what must not follow this device into another swarm."""
        await self._prompts.forget()  # what is kept is linked with the certificate of the swarm before

    def _revoked(self, node_id: str) -> None:
        self.provider.pipelines.revoke(node_id)
        self._cutting.spawn(self.stages.close_all(node_id))
        self._cutting.spawn(self.lender.revoke(node_id))
