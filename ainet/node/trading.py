"""Trading with the devices of other owners, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.economy.accounts import Accounts
from ainet.economy.balance import Allowance
from ainet.economy.bookkeeping import Bookkeeping
from ainet.economy.buying import Buying
from ainet.economy.checking import Checking
from ainet.economy.demand import Demand
from ainet.economy.examiner import Examiner
from ainet.economy.incentives import IncentiveManager
from ainet.economy.market import Market
from ainet.economy.quotes import Quotes
from ainet.economy.selling import Selling
from ainet.economy.tokenizing import Tokenizing
from ainet.economy.wants import Wants
from ainet.node.bought import Bought
from ainet.node.judging import Judging
from ainet.node.sold_models import SoldModels

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.executor.answering import Answering
    from ainet.executor.provider import Provider
    from ainet.links.links import Links
    from ainet.models.catalog import ModelCatalog
    from ainet.models.tensors import TensorStore
    from ainet.resources.work import NoteWork
    from ainet.swarm.feeds import Feeds
    from ainet.swarm.settings import SwarmSettings
    from ainet.timing import Timing


class Trading:
    """Buys and sells answers for this node.

    Parameters
    ----------
    provider, answering
        The pipelines of this node, and the part that answers its owner: bought sessions wait for that.
    window
        The context window, in tokens.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        answering: Answering,
        catalog: ModelCatalog,
        store: TensorStore,
        settings: SwarmSettings,
        links: Links,
        feeds: Feeds,
        engine: Engine,
        workers: WorkerPool,
        window: int,
        data_dir: Path,
        answers: Answers,
        log: logging.Logger,
        note_work: NoteWork,
        timing: Timing,
    ) -> None:
        works = SoldModels(provider, settings, store, window, note_work=note_work, running=answering.running)
        self.accounts = Accounts(
            data_dir / "ledger.sqlite",
            links,
            feeds,
            log,
            allowance=self._allowance,
            shared=self._shared_allowance,
            timing=timing,
        )
        wants, demand = Wants(data_dir / "wants.json", log), Demand(data_dir / "demand.json", log)
        self.selling = Selling(self.accounts, works, links, demand=demand, wants=wants, log=log, timing=timing)
        self._tokenizing = Tokenizing(
            data_dir / "vocabularies", works, engine=engine, workers=workers, log=log, timing=timing
        )
        quotes = Quotes(links, self.accounts, wants, timing)
        #: Answers the questions for which a seller is named.
        self._checking = Checking(
            Judging(provider, catalog), self.accounts, data_dir / "calibrations.json", log=log, timing=timing
        )
        examiner = Examiner(quotes, self._tokenizing, self._checking, self.accounts, log=log, timing=timing)
        buying = Buying(quotes, self._tokenizing, examiner, self.accounts, log=log, timing=timing)
        self.bought = Bought(buying, provider, catalog)
        self.market = Market(
            data_dir / "selling.json",
            selling=self.selling,
            quotes=quotes,
            accounts=self.accounts,
            links=links,
            answers=answers,
            log=log,
        )
        self.books = Bookkeeping(self.accounts, self.selling, links, answers, log)
        self._incentives = IncentiveManager(
            wants=wants,
            demand=demand,
            selling=self.selling,
            books=self.books,
            links=links,
            answers=answers,
            log=log,
        )
        examiner.answered.connect(self._incentives.answered)
        answering.first = self.selling.resources.waiting

    async def start(self) -> None:
        """Sell on the terms that were kept."""
        await self.market.open()

    async def stop(self) -> None:
        """End all sessions, and close the ledger."""
        await self.selling.stop()
        await self._checking.stop()
        await self._incentives.stop()
        await self._tokenizing.stop()
        await self.accounts.stop()

    def _allowance(self) -> Allowance:
        terms, pace = self.selling.terms, self.selling.pace
        return terms.allowance(pace) if terms is not None else Allowance(0, 0, 0)

    def _shared_allowance(self) -> Allowance:
        terms, pace = self.selling.terms, self.selling.pace
        return terms.shared_allowance(pace) if terms is not None else Allowance(0, 0, 0)
