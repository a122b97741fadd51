"""Fetching tensors between real links: only what is missing, resumed after a cut, never wrong bytes."""

from __future__ import annotations

import asyncio

import pytest
from swarms import devices, until

from ainet.errors import ModelError, NotEnough, NotFound, PeerUnreachable
from ainet.executor.fetch import Fetcher
from ainet.executor.messages import Piece, ReadTensor
from ainet.executor.models.tensors import TensorStore


def ignore(done: int, total: int) -> None:
    """Take no notice."""


def serve(device, store, *, change=None):
    """Have `device` answer with its store's tensors; `change` may alter or refuse a piece."""
    asked: list[ReadTensor] = []

    async def read(_link, request: ReadTensor) -> Piece:
        asked.append(request)
        data = await asyncio.to_thread(store.read, request.hash, request.offset, request.length)
        return Piece(change(len(asked), data) if change else data)

    device.links.handle(ReadTensor, read)
    return asked


@pytest.fixture
def empty_store(tmp_path):
    with TensorStore(tmp_path / "empty") as store:
        yield store


def size_of(manifest, first, last) -> int:
    return sum(tensor.nbytes for tensor in manifest.shard_tensors(first, last))


async def test_only_the_layers_of_the_range_are_fetched_and_only_once(
    tmp_path, smollm2_store, smollm2_manifest, empty_store
):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        asked = serve(holder, smollm2_store)
        fetcher = Fetcher(empty_store, asker.links)
        told: list[tuple[int, int]] = []
        received = await fetcher.fetch(
            smollm2_manifest, (10, 14), [holder.id], lambda done, total: told.append((done, total))
        )
        size = size_of(smollm2_manifest, 10, 14)
        assert received == empty_store.bytes_received == size
        assert told[-1] == (size, size)
        assert empty_store.missing(smollm2_manifest, 10, 14) == []
        asked.clear()
        # A wider range fetches only what it adds; the same range nothing.
        added = await fetcher.fetch(smollm2_manifest, (10, 15), [holder.id], ignore)
        assert added == pytest.approx(size_of(smollm2_manifest, 15, 15), rel=0.01)  # some small tensors are alike
        asked.clear()
        assert await fetcher.fetch(smollm2_manifest, (10, 14), [holder.id], ignore) == 0
        assert asked == []


async def test_a_cut_fetch_goes_on_where_it_stopped(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):

        def cut(n: int, data: bytes) -> bytes:
            if n == 20:  # the cable is pulled, once
                holder.links.close_all(PeerUnreachable("the cable was pulled"))
            return data

        serve(holder, smollm2_store, change=cut)
        fetcher = Fetcher(empty_store, asker.links)
        await fetcher.fetch(smollm2_manifest, (0, 2), [holder.id], ignore)
        size = size_of(smollm2_manifest, 0, 2)
        assert size <= empty_store.bytes_received <= size * 1.02
        assert empty_store.missing(smollm2_manifest, 0, 2) == []


async def test_a_source_that_sends_wrong_bytes_is_passed_over(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "holder", "liar", "asker") as (holder, liar, asker):
        serve(holder, smollm2_store)
        lies = serve(liar, smollm2_store, change=lambda _n, data: bytes(len(data)))
        fetcher = Fetcher(empty_store, asker.links)
        await until(lambda: asker.links.linked(liar.id))
        await fetcher.fetch(smollm2_manifest, (5, 5), [liar.id, holder.id], ignore)
        assert lies
        assert empty_store.missing(smollm2_manifest, 5, 5) == []


async def test_when_all_sources_lie_nothing_is_kept(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "liar", "asker") as (liar, asker):
        serve(liar, smollm2_store, change=lambda _n, data: bytes(len(data)))
        with pytest.raises(ModelError, match="do not have its hash"):
            await Fetcher(empty_store, asker.links).fetch(smollm2_manifest, (5, 5), [liar.id], ignore)
        assert not [file for file in empty_store.tensors.rglob("*") if file.is_file() and file.stat().st_size]


async def test_nobody_who_has_it_is_said_with_the_size(tmp_path, smollm2_manifest, empty_store):
    async with devices(tmp_path, "asker") as (asker,):
        with pytest.raises(NotFound, match=r"No member that can be reached has smollm2 \(2\.\d+ MB are missing here\)"):
            await Fetcher(empty_store, asker.links).fetch(smollm2_manifest, (5, 5), [], ignore)


async def test_a_source_that_is_gone_is_said(tmp_path, smollm2_store, smollm2_manifest, empty_store, monkeypatch):
    monkeypatch.setattr("ainet.executor.fetch.PAUSE", 0.01)
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        serve(holder, smollm2_store)
        await holder.stop()
        with pytest.raises(PeerUnreachable, match="What arrived is kept: ask again to go on"):
            await Fetcher(empty_store, asker.links).fetch(smollm2_manifest, (5, 5), [holder.id], ignore)


async def test_a_small_disk_cap_is_refused_before_anything_is_fetched(tmp_path, smollm2_store, smollm2_manifest):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        asked = serve(holder, smollm2_store)
        with TensorStore(tmp_path / "small", disk=1_000_000) as store:
            with pytest.raises(NotEnough, match="1 MB"):
                await Fetcher(store, asker.links).fetch(smollm2_manifest, (5, 9), [holder.id], ignore)
            assert sum(request.length for request in asked) <= 1_000_000
