"""What members may ask of a node: models, offers and stages, over real links, with the real engine where one loads."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.swarms import devices, until

from ainet.api.node import Caps
from ainet.engine.engine import Engine
from ainet.errors import (
    CannotSplit,
    LeaseLost,
    NotEnough,
    NotFound,
    PeerUnreachable,
    ProtocolError,
    Refused,
    UsageError,
)
from ainet.executor.answering import Answering
from ainet.executor.directory import PipelineDirectory
from ainet.executor.finder import ModelFinder
from ainet.executor.provider import Provider
from ainet.executor.requests import AskPipeline
from ainet.hosting.fetch import Fetcher
from ainet.hosting.handlers import PeerHandlers
from ainet.hosting.requests import (
    CloseStages,
    DescribeStages,
    FindModel,
    LoadProgress,
    LoadStage,
    ModelFound,
    ReadTensor,
    StageLoaded,
    load_lease,
)
from ainet.hosting.stages import HostedStages
from ainet.links.bandwidths import Bandwidths
from ainet.models.catalog import ModelCatalog
from ainet.models.manifest import Manifest
from ainet.models.tensors import TensorStore
from ainet.placement.requests import DescribeNode
from ainet.placement.survey import Survey
from ainet.resources.allocator import Allocator
from ainet.resources.speeds import Speeds
from ainet.stages.protocol.generation import Open
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.spec import EPOCH_BYTES, StageSpec
from ainet.swarm.feeds import Feeds
from ainet.swarm.leases import Leases
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.swarms import Device


class Host:
    """A device that answers members; its engine runs only if it is started."""

    def __init__(self, device: Device, store: TensorStore, timing: Timing) -> None:
        self.device = device
        self.store = store
        self.links = device.links
        self.allocator = Allocator(Caps(memory=10**9, threads=4, disk=10**9))
        self.catalog = ModelCatalog(device.config, store)
        self.engine = Engine(device.config, device.folder, device.log)
        self.speeds = Speeds(device.folder, device.log)
        self.service = HostedStages(
            identity=device.identity,
            links=device.links,
            engine=self.engine,
            allocator=self.allocator,
            store=store,
            fetcher=Fetcher(store, device.links),
            speeds=self.speeds,
            log=device.log,
        )
        self.logs = Feeds(device.links, device.folder / "logs.sqlite", device.log)
        self.leases = Leases(device.links, self.logs, device.log)
        survey = Survey(
            config=device.config,
            identity=device.identity,
            links=device.links,
            parked=lambda: self.service.parking.memory,
            worker_limit=lambda: self.service.worker_limit,
            allocator=self.allocator,
            store=store,
            speed=5e9,
            gpu_speed=0.0,
            speeds=self.speeds,
            bandwidths=Bandwidths(device.log),
            log=device.log,
        )
        provider = Provider(
            config=device.config,
            identity=device.identity,
            links=device.links,
            service=self.service,
            finder=ModelFinder(device.links, store, self.catalog, device.log),
            survey=survey,
            directory=PipelineDirectory(device.links, self.logs),
            leases=self.leases,
            log=device.log,
        )
        Answering(provider, device.links, device.log)
        self.handlers = PeerHandlers(
            links=device.links,
            leases=self.leases,
            service=self.service,
            store=store,
            catalog=self.catalog,
            timing=timing,
        )

    async def stop(self) -> None:
        await self.handlers.stop()
        await self.leases.stop()
        await self.logs.stop()
        await self.service.stop()
        await self.engine.stop()


@contextlib.asynccontextmanager
async def host_and_asker(
    tmp_path: Path, smollm2_path: Path, timing: Timing = TIMING
) -> AsyncIterator[tuple[Host, Device]]:
    """Yield a node that knows the small model, which it has not read yet, and a member."""
    settings = {"model_paths": [str(smollm2_path)], "discover_models": False}
    async with devices(tmp_path, "holder", "asker", **settings) as (holder, asker):
        with TensorStore(tmp_path / "store") as store:
            host = Host(holder, store, timing)
            await until(lambda: asker.links.open_link(holder.id))
            try:
                yield host, asker
            finally:
                await host.stop()


def spec_for(manifest: Manifest, owner: str, first: int = 3, last: int = 3) -> StageSpec:
    return StageSpec(
        pipeline=secrets.token_hex(8),
        epoch=secrets.token_bytes(EPOCH_BYTES),
        owner=owner,
        model=manifest.digest,
        first_layer=first,
        last_layer=last,
        n_stages=3,
        n_ctx=256,
        n_ubatch=64,
        threads=1,
        gpu=False,
        sessions=1,
        queue=1,
    )


async def test_a_model_is_found_by_name_and_what_is_not_here_is_empty(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        found = await link.request(FindModel(smollm2_path.stem))
        assert Manifest.decode(found.manifest).digest == smollm2_manifest.digest
        for name in ("other", str(smollm2_path), "hf:org/repo/file.gguf", "../x.gguf"):
            assert await link.request(FindModel(name)) == ModelFound(b"")


async def test_whoever_waits_for_a_file_to_be_read_is_told_so(tmp_path, smollm2_path):
    async with host_and_asker(tmp_path, smollm2_path, Timing(reading_told=0.01)) as (host, asker):
        link = await asker.links.connect(host.device.id)
        items = [item async for item in link.stream(FindModel(smollm2_path.stem))]
        looking = [item for item in items[:-1] if isinstance(item, LoadProgress)]
        assert {item.text for item in looking} == {f"holder looks for {smollm2_path.stem} in its files"}
        assert 0 < looking[-1].done <= looking[-1].total
        assert [item.done for item in looking] == sorted(item.done for item in looking)
        assert isinstance(items[-1], ModelFound)
        assert items[-1].manifest


async def test_many_who_ask_for_a_model_take_one_thread(tmp_path, smollm2_path):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        with host.store._registering:  # as if a huge file were being read
            asking = [asyncio.create_task(link.request(FindModel(smollm2_path.stem))) for _ in range(40)]
            await until(lambda: len(link._calls) == 40)
            with pytest.raises(NotFound):  # more than the threads that everything else shares would wait
                await link.request(ReadTensor("0" * 64, 0, 1), timeout=5)
            assert sum(thread.name.startswith("finding a model") for thread in threading.enumerate()) == 1
            for task in asking[20:]:
                task.cancel()
        found = await asyncio.gather(*asking[:20])
        assert len({one.manifest for one in found}) == 1


async def test_a_node_says_what_it_gives_while_the_loop_goes_on(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        offer = await link.request(DescribeNode(smollm2_manifest.digest))
        assert (offer.node, offer.memory, offer.models) == (host.device.id, 10**9, [])
        await link.request(FindModel(smollm2_path.stem))
        offer = await link.request(DescribeNode(smollm2_manifest.digest))
        assert offer.models == [smollm2_manifest.digest]


async def test_files_are_read_beside_the_event_loop(tmp_path, smollm2_path, smollm2_manifest, monkeypatch):
    """Reading manifests takes long for large models: links must not stand still meanwhile."""
    threads: dict[str, set[threading.Thread]] = {"missing": set(), "decode": set(), "save": set()}
    missing, decode, save = TensorStore.missing, Manifest.decode, TensorStore.save_manifest

    def noted(name, work):
        def call(*arguments):
            threads[name].add(threading.current_thread())
            return work(*arguments)

        return call

    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        await link.request(FindModel(smollm2_path.stem))
        monkeypatch.setattr(TensorStore, "missing", noted("missing", missing))
        monkeypatch.setattr(TensorStore, "save_manifest", noted("save", save))
        monkeypatch.setattr(Manifest, "decode", noted("decode", decode))
        await link.request(DescribeNode(smollm2_manifest.digest))
        host.allocator.caps = Caps(memory=1, threads=1, disk=10**9)  # so that nothing is loaded
        with pytest.raises(NotEnough, match="smollm2 layers 3–3 needs"):
            await link.request(LoadStage(spec_for(smollm2_manifest, asker.id), smollm2_manifest.encode(), []))
    assert all(threads.values())
    assert threading.main_thread() not in set().union(*threads.values())


async def test_nothing_is_kept_of_a_stage_that_is_not_admitted(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        data, spec = smollm2_manifest.encode(), spec_for(smollm2_manifest, asker.id)
        with pytest.raises(Refused, match="A stage is loaded for the node that asks, not for another one"):
            await link.request(LoadStage(msgspec.structs.replace(spec, owner=host.device.id), data, []))
        with pytest.raises(ProtocolError, match="The manifest is not that of the model"):
            await link.request(LoadStage(msgspec.structs.replace(spec, model="0" * 64), data, []))
        with pytest.raises(CannotSplit):
            await link.request(LoadStage(msgspec.structs.replace(spec, last_layer=99), data, []))
        with pytest.raises(UsageError, match="1 tokens cannot be taken back out of the states"):
            await link.request(LoadStage(msgspec.structs.replace(spec, rollback=1), data, []))
        assert list(host.store.manifests.iterdir()) == []


async def test_stages_of_an_older_lease_are_refused(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        data, spec = smollm2_manifest.encode(), spec_for(smollm2_manifest, asker.id)
        host.leases.check(load_lease(spec.model), 7, "somebody else")
        with pytest.raises(LeaseLost, match=r"later lease for this \(number 7, not 6\)"):
            await link.request(LoadStage(spec, data, [], 6))
        host.allocator.caps = Caps(memory=1, threads=1, disk=10**9)
        with pytest.raises(NotEnough):  # the lease is not in the way
            await link.request(LoadStage(spec, data, [], 8))


async def test_a_pipeline_that_is_not_there_is_not_asked(tmp_path, smollm2_path):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        link = await asker.links.connect(host.device.id)
        question = Open(session=1, messages=[], raw=True, sampling=SamplingParams(), max_tokens=1)
        with pytest.raises(NotFound, match="not loaded any more"):
            await link.request(AskPipeline("0" * 16, question))


async def test_what_was_unloaded_makes_room_on_a_small_disk(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path) as (host, asker):
        await host.engine.start()
        link = await asker.links.connect(host.device.id)
        await link.request(FindModel(smollm2_path.stem))
        data = smollm2_manifest.encode()

        async def load(layer: int) -> StageSpec:
            spec = spec_for(smollm2_manifest, asker.id, layer, layer)
            await link.request(LoadStage(spec, data, []))
            return spec

        first = await load(3)
        host.store.disk = host.store.used() * 3 // 2
        with pytest.raises(NotEnough, match="Allow more with --disk, or unload a model"):
            await load(4)
        await link.request(CloseStages(first.pipeline))
        await load(4)
        assert host.store.used() <= host.store.disk


async def test_stages_of_an_owner_that_stays_away_are_unloaded(tmp_path, smollm2_path, smollm2_manifest):
    async with host_and_asker(tmp_path, smollm2_path, Timing(owner_grace=3.0)) as (host, asker):
        await host.engine.start()
        link = await asker.links.connect(host.device.id)
        await link.request(FindModel(smollm2_path.stem))
        spec = spec_for(smollm2_manifest, asker.id)
        items = [item async for item in link.stream(LoadStage(spec, smollm2_manifest.encode(), []))]
        assert isinstance(items[-1], StageLoaded)
        assert all(isinstance(item, LoadProgress) for item in items[:-1])

        asker.links.table.close_all(PeerUnreachable("the cable was pulled"))
        await until(lambda: host.links.open_link(asker.id) is None)
        link = await asker.links.connect(host.device.id)  # within the grace time
        await until(lambda: host.links.open_link(asker.id))
        assert len((await link.request(DescribeStages(spec.pipeline))).stages) == 1

        await asker.stop()
        await until(lambda: host.service.stages() == [], 30)
        assert host.allocator.reserved.memory == 0
