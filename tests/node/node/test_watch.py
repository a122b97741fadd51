"""What a listener hears of a whole node: of devices, answers, loads, documents, and what is bought."""

from __future__ import annotations

import asyncio
import contextlib

from support.local_nodes import ask, nodes, owners
from support.trade import QUICK, SEA

from ainet.api import context, ledger, market, models, swarm


class Listener:
    """Applies the news that it hears."""

    def __init__(self, node, *kinds):
        self.known = {}
        self.all = []
        self._node, self._kinds = node, kinds

    async def __aenter__(self):
        self._task = asyncio.create_task(self._listen())
        await self.until(lambda known: set(self._kinds) <= set(known))
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self):
        async with contextlib.aclosing(self._node.watch(self._kinds)) as listening:
            async for news in listening:
                self.all.append(news)
                for kind in self._kinds:
                    changes = getattr(news, kind)
                    if changes is not None:
                        before = {} if changes.is_whole else self.known[kind]
                        kept = {key: value for key, value in before.items() if key not in changes.gone}
                        self.known[kind] = kept | changes.changed

    async def until(self, condition, seconds=30):
        async with asyncio.timeout(seconds):
            while not condition(self.known):
                await asyncio.sleep(0.01)

    def heard(self, kind):
        return [
            one for news in self.all if (changes := getattr(news, kind)) is not None for one in changes.changed.values()
        ]


async def test_answers_loads_and_placements_are_told_while_they_last(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        desk = found["desk"]
        async with Listener(desk, "placements", "sessions", "downloads") as listener:
            assert listener.known == {"placements": {}, "sessions": {}, "downloads": {}}
            assert (await ask(desk, text=SEA, stages=2, max_tokens=120, temperature=1.0, seed=1)).tokens
            await listener.until(lambda known: not known["sessions"])
            (placed,) = listener.known["placements"].values()
            assert (placed.model, [one.node for one in placed.stages]) == ("smollm2", ["desk", "desk"])
            loads = listener.heard("downloads")
            assert loads
            assert {one.model for one in loads} == {"smollm2"}
            assert listener.known["downloads"] == {}
            told = listener.heard("sessions")
            assert [one.generated_tokens for one in told] == sorted(one.generated_tokens for one in told)
            assert max(one.generated_tokens for one in told) > 20
            last = told[-1]
            assert (last.model, last.asked_by, last.placement) == (
                "smollm2",
                "desk",
                next(iter(listener.known["placements"])),
            )
            assert last.prompt_tokens > 20
            assert last.tokens_per_s > 1
            stages = next(one.stages for one in reversed(told) if one.stages)
            assert [one.first_layer for one in stages] == [0, placed.stages[1].first_layer]
            assert all(one.compute_s >= 0 for one in stages)
            assert [one.sessions for one in listener.heard("placements")][-1] == 0
            await desk.call(models.unload, "smollm2")
            await listener.until(lambda known: not known["placements"])


async def test_devices_that_come_and_go_and_documents_are_told(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "garden.md").write_text("# Garden\n\nThe roses stand beside the pond.\n")
    async with nodes(tmp_path, anna={}, bert={}) as found:
        anna, bert = found["anna"], found["bert"]
        async with Listener(anna, "members", "links", "context") as listener:
            assert {one.name for one in listener.known["members"].values()} == {"anna", "bert"}
            assert [one.name for one in listener.known["links"].values()] == ["bert"]
            await listener.until(lambda known: known["links"][bert.id].latency_s is not None)
            await anna.call(context.context_add, str(tmp_path / "notes"))
            await listener.until(lambda known: any(one.passages for one in known["context"].values()))
            await listener.until(lambda known: not any(one.is_reading for one in known["context"].values()))
            await bert.stop()
            await listener.until(lambda known: not known["links"] and not known["members"][bert.id].connected)
            await anna.call(swarm.remove, "bert")
            await listener.until(lambda known: set(known["members"]) == {anna.id})
            found.pop("bert")


async def test_what_is_bought_and_sold_is_told_to_both(tmp_path):
    async with owners(tmp_path, QUICK, ana={}, ben={"discover_models": False}) as found:
        ana, ben = found.values()
        async with Listener(ana, "offers", "ledger", "sessions") as at_ana, Listener(ben, "ledger") as at_ben:
            await ana.call(market.sell, [])
            await at_ana.until(lambda known: "smollm2" in known["offers"])
            done = await ask(ben, text=SEA, max_tokens=40, seller="ana")
            (what,) = done.bought
            await at_ben.until(lambda known: "ana" in known["ledger"] and known["ledger"]["ana"].had == what.credits)
            await at_ana.until(lambda known: known["ledger"]["ben"].gave == what.credits)
            assert {one.asked_by for one in at_ana.heard("sessions")} == {"ben"}
            await ana.call(ledger.give, "ben", "2m")
            await at_ana.until(lambda known: known["ledger"]["ben"].gifts_given > 0)
            await ana.call(market.stop_selling)
            await at_ana.until(lambda known: not known["offers"])
