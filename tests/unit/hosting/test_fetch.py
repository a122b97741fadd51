"""Fetching tensors between real links: only what is missing, resumed after a cut, never wrong bytes."""

from __future__ import annotations

import asyncio
import contextlib
import random

import psutil
import pytest
from support.swarms import devices, until

from ainet.errors import Busy, ModelError, NotEnough, NotFound, PeerUnreachable, ProtocolError, Refused
from ainet.hosting.fetch import Fetcher
from ainet.hosting.pieces import FIRST_PIECE, WINDOW
from ainet.hosting.requests import Piece, ReadTensor
from ainet.models.tensors import TensorStore
from ainet.timing import Timing

#: Sources that failed are tried again at once.
HASTY = Timing(fetch_pause=0.01)


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


def parts_open() -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.endswith(".part")]


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
                holder.links.table.close_all(PeerUnreachable("the cable was pulled"))
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
        await until(lambda: asker.links.open_link(liar.id))
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


async def test_a_source_that_is_gone_is_said(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        serve(holder, smollm2_store)
        await holder.stop()
        with pytest.raises(PeerUnreachable, match="What arrived is kept: ask again to go on"):
            await Fetcher(empty_store, asker.links, timing=HASTY).fetch(smollm2_manifest, (5, 5), [holder.id], ignore)


async def test_a_small_disk_cap_is_refused_before_anything_is_fetched(tmp_path, smollm2_store, smollm2_manifest):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        asked = serve(holder, smollm2_store)
        with TensorStore(tmp_path / "small", disk=1_000_000) as store:
            with pytest.raises(NotEnough, match="1 MB"):
                await Fetcher(store, asker.links).fetch(smollm2_manifest, (5, 9), [holder.id], ignore)
            assert sum(request.length for request in asked) <= 1_000_000


async def test_after_many_interrupts_at_any_moment_the_next_fetch_works(
    tmp_path, smollm2_store, smollm2_manifest, empty_store
):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        last = max(smollm2_manifest.shard_tensors(29, 29), key=lambda tensor: tensor.nbytes)
        interrupted = asyncio.Event()

        async def read(_link, request: ReadTensor) -> Piece:
            if request.hash == last.hash:  # it comes at the end only: however quick the others are, this one is missing
                await interrupted.wait()
            return Piece(await asyncio.to_thread(smollm2_store.read, request.hash, request.offset, request.length))

        holder.links.handle(ReadTensor, read)
        fetcher = Fetcher(empty_store, asker.links)
        chance = random.Random(1)
        for _ in range(60):
            fetching = asyncio.create_task(fetcher.fetch(smollm2_manifest, (0, 29), [holder.id], ignore))
            await asyncio.wait([fetching], timeout=chance.uniform(0, 0.03))
            fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await fetching
            assert parts_open() == []
        assert empty_store.missing(smollm2_manifest, 0, 29)  # so it was interrupted
        interrupted.set()
        await fetcher.fetch(smollm2_manifest, (0, 29), [holder.id], ignore)
        assert empty_store.missing(smollm2_manifest, 0, 29) == []
        assert empty_store.bytes_received == size_of(smollm2_manifest, 0, 29)  # nothing twice


async def test_a_source_that_says_nothing_holds_up_nobody_else(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        silent, wanted = ({tensor.hash for tensor in smollm2_manifest.shard_tensors(n, n)} for n in (5, 7))
        silent -= wanted  # some small tensors are alike
        waits = asyncio.Event()

        async def read(_link, request: ReadTensor) -> Piece:
            if request.hash in silent:
                waits.set()
                await asyncio.Event().wait()
            return Piece(smollm2_store.read(request.hash, request.offset, request.length))

        holder.links.handle(ReadTensor, read)
        fetcher = Fetcher(empty_store, asker.links)
        stuck = asyncio.create_task(fetcher.fetch(smollm2_manifest, (5, 5), [holder.id], ignore))
        await waits.wait()
        async with asyncio.timeout(10):
            await fetcher.fetch(smollm2_manifest, (7, 7), [holder.id], ignore)
        assert not stuck.done()
        stuck.cancel()
        await asyncio.wait([stuck])


async def test_stages_that_load_at_once_fetch_what_both_need_once(
    tmp_path, smollm2_store, smollm2_manifest, empty_store
):
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        serve(holder, smollm2_store)
        fetcher = Fetcher(empty_store, asker.links)
        ends: list[tuple[int, int]] = [(0, 0), (29, 29)]  # both have the embedding table
        both = {tensor.hash: tensor.nbytes for layers in ends for tensor in smollm2_manifest.shard_tensors(*layers)}
        told: dict[tuple[int, int], tuple[int, int]] = {}
        received = await asyncio.gather(
            *(
                fetcher.fetch(
                    smollm2_manifest, layers, [holder.id], lambda *now, layers=layers: told.update({layers: now})
                )
                for layers in ends
            )
        )
        assert sum(received) == empty_store.bytes_received == sum(both.values())
        assert all(told[layers] == (size_of(smollm2_manifest, *layers),) * 2 for layers in ends)


@pytest.mark.parametrize(
    "error",
    [
        Refused("Not for you."),
        Busy("Later.", retry_after=1.0),
        ProtocolError("What?"),
        NotFound("Not here."),
        NotEnough("My disk is full."),
    ],
)
async def test_whatever_a_source_says_the_next_one_is_asked(
    tmp_path, smollm2_store, smollm2_manifest, empty_store, error
):
    async with devices(tmp_path, "holder", "other", "asker") as (holder, other, asker):

        def refuse(_n, _data):
            raise error

        serve(holder, smollm2_store)
        refusals = serve(other, smollm2_store, change=refuse)
        await until(lambda: asker.links.open_link(other.id))
        await Fetcher(empty_store, asker.links).fetch(smollm2_manifest, (5, 5), [other.id, holder.id], ignore)
        assert empty_store.missing(smollm2_manifest, 5, 5) == []
        # Once it failed, it comes last.
        assert len({request.hash for request in refusals}) == 1


async def test_a_source_that_trickles_is_left_for_one_that_does_not(
    tmp_path, smollm2_store, smollm2_manifest, empty_store
):
    async with devices(tmp_path, "holder", "slow", "asker") as (holder, slow, asker):

        async def read(_link, request: ReadTensor) -> Piece:
            await asyncio.Event().wait()
            raise NotFound(request.hash)

        slow.links.handle(ReadTensor, read)
        await until(lambda: asker.links.open_link(slow.id))
        fetcher = Fetcher(empty_store, asker.links, rounds=1, timing=Timing(piece_rate=2.0))
        with pytest.raises(PeerUnreachable, match="slow sends less than 10 kB a second"):
            await fetcher.fetch(smollm2_manifest, (5, 5), [slow.id], ignore)
        serve(holder, smollm2_store)
        await fetcher.fetch(smollm2_manifest, (5, 5), [slow.id, holder.id], ignore)
        assert empty_store.missing(smollm2_manifest, 5, 5) == []


async def test_a_slow_source_is_kept_while_it_sends_enough(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "slow", "asker") as (slow, asker):

        async def read(_link, request: ReadTensor) -> Piece:
            await asyncio.sleep(0.4)
            return Piece(smollm2_store.read(request.hash, request.offset, request.length))

        slow.links.handle(ReadTensor, read)
        largest = max(smollm2_manifest.shard_tensors(5, 5), key=lambda tensor: tensor.nbytes)
        begun = asyncio.get_running_loop().time()
        timing = Timing(piece_rate=1.5, piece_quick=0.0)  # pieces stay small
        await Fetcher(empty_store, asker.links, rounds=1, timing=timing).fetch(
            smollm2_manifest, (5, 5), [slow.id], ignore
        )
        # Otherwise this shows nothing.
        assert asyncio.get_running_loop().time() - begun > 3.0
        assert largest.nbytes / FIRST_PIECE / WINDOW * 0.4 > 1.5


async def test_bytes_of_failed_tries_are_counted(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "holder", "liar", "asker") as (holder, liar, asker):
        serve(holder, smollm2_store)
        lies = serve(liar, smollm2_store, change=lambda _n, data: bytes(len(data)))
        await until(lambda: asker.links.open_link(liar.id))
        received = await Fetcher(empty_store, asker.links).fetch(smollm2_manifest, (5, 5), [liar.id, holder.id], ignore)
        useless = sum(request.length for request in lies)
        assert received == empty_store.bytes_received == size_of(smollm2_manifest, 5, 5) + useless
        assert useless


async def test_wrong_bytes_of_an_earlier_source_are_not_held_against_the_next(
    tmp_path, smollm2_store, smollm2_manifest, empty_store
):
    tensor = smollm2_manifest.shard_tensors(5, 5)[0]
    with empty_store.writer(tensor) as writer:
        writer.write(bytes(16))
    async with devices(tmp_path, "holder", "asker") as (holder, asker):
        serve(holder, smollm2_store)
        received = await Fetcher(empty_store, asker.links, timing=HASTY).fetch(
            smollm2_manifest, (5, 5), [holder.id], ignore
        )
        assert received == size_of(smollm2_manifest, 5, 5) + tensor.nbytes - 16
        assert empty_store.missing(smollm2_manifest, 5, 5) == []


async def test_a_piece_of_another_length_is_refused(tmp_path, smollm2_store, smollm2_manifest, empty_store):
    async with devices(tmp_path, "liar", "asker") as (liar, asker):
        serve(liar, smollm2_store, change=lambda _n, data: data[:10])
        with pytest.raises(PeerUnreachable, match=r"liar sent 10 bytes of blk\.5\S+ where [0-9,]+ were asked for"):
            await Fetcher(empty_store, asker.links, timing=HASTY).fetch(smollm2_manifest, (5, 5), [liar.id], ignore)
        assert empty_store.bytes_received == 0
