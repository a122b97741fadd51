from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.tiny_models import write_model

from ainet.errors import CannotSplit, ModelError, NotEnough, NotFound
from ainet.models.gguf import GGUFFile
from ainet.models.manifest import Manifest
from ainet.models.shards import Shard, ShardStore
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.gguf", "llama", 6, tied=False)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[TensorStore]:
    with TensorStore(tmp_path / "source") as store:
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TensorStore]:
    with TensorStore(tmp_path / "store") as store:
        yield store


def fetch(source: TensorStore, target: TensorStore, manifest: Manifest, first: int, last: int) -> int:
    """Copy what a stage lacks, as a peer would send it; return the bytes."""
    before = target.bytes_received
    for tensor in target.missing(manifest, first, last):
        with target.writer(tensor) as writer:
            while data := source.read(tensor.hash, writer.position, 100_000):
                writer.write(data)
            writer.finish()
    return target.bytes_received - before


def files(store: TensorStore) -> list[str]:
    return sorted(path.suffix for folder in (store.tensors, store.shards) for path in folder.rglob("*.*"))


def same_tensors(shard: Shard, manifest: Manifest, store: TensorStore) -> None:
    """Check every tensor of a shard against the model's."""
    data = Path(shard.path).read_bytes()
    names = {tensor.name: tensor for tensor in manifest.tensors}
    untied = manifest.tensor("output.weight") is not None
    for info in GGUFFile.open(Path(shard.path)).tensors:
        name = info.name
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            name = f"blk.{int(layer) + shard.first_layer}.{rest}"
        elif name == "token_embd.weight" and not shard.is_last:
            assert info.shape == (manifest.n_embd, 1)
            continue
        elif name == "token_embd.weight" and untied and not shard.is_first:
            name = "output.weight"
        assert data[info.offset : info.offset + info.nbytes] == store.read(names[name].hash, 0, info.nbytes)


def test_a_device_without_the_file_gets_only_its_layers(
    smollm2_store: TensorStore, smollm2_manifest: Manifest, tmp_path: Path
) -> None:
    received = 0
    for index, (first, last) in enumerate([(0, 9), (10, 19), (20, 29)]):
        with TensorStore(tmp_path / str(index)) as store:
            manifest = Manifest.decode(smollm2_manifest.encode())
            store.save_manifest(manifest)
            announced = {tensor.hash: tensor.nbytes for tensor in manifest.shard_tensors(first, last)}
            assert fetch(smollm2_store, store, manifest, first, last) == sum(announced.values())
            received += sum(announced.values())
            shard = ShardStore(store).assemble(manifest, first, last)
            assert (shard.first_layer, shard.last_layer) == (first, last)
            assert (shard.is_first, shard.is_last) == (first == 0, last == 29)
            assert (shard.n_embd, shard.input_scale) == (576, 1.0)
            assert shard.nbytes == Path(shard.path).stat().st_size
            same_tensors(shard, manifest, smollm2_store)
            assert store.missing(manifest, first, last) == []
            # Nothing lies there twice. Beside the shard: only what is not in it.
            table = manifest.tensor("token_embd.weight")
            assert table is not None
            beside = {0: table.nbytes, 10: 0, 20: manifest.tokenizer.nbytes}[first]
            assert store.used() == shard.nbytes + beside
            assert store.file_of(manifest.digest) is None
            if first == 0:
                assert shard.embedding is not None
                assert (shard.embedding.shape, shard.embedding.type) == (table.shape, table.type)
                assert shard.embedding.nbytes == table.nbytes
            else:
                assert shard.embedding is None
    # The table, which the first and the last stage need, is all that went over twice.
    assert received == pytest.approx(smollm2_manifest.nbytes + table.nbytes, rel=0.02)


def test_a_whole_model_whose_file_is_here_is_used_as_it_is(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    shard = ShardStore(source).assemble(manifest, 0, 5)
    assert shard.path == str(tiny)
    assert (shard.is_first, shard.is_last, shard.embedding) == (True, True, None)
    assert shard.nbytes == tiny.stat().st_size
    assert files(source) == [".bin"]  # the vocabulary


def test_a_whole_model_can_be_put_together_from_tensors(source: TensorStore, store: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    fetch(source, store, manifest, 0, 5)
    shard = ShardStore(store).assemble(manifest, 0, 5)
    assert (shard.is_first, shard.is_last, shard.embedding) == (True, True, None)
    same_tensors(shard, manifest, source)
    again = source.register(Path(shard.path))
    assert again.digest == manifest.digest  # the same model, in a file of another name
    assert GGUFFile.open(Path(shard.path)).metadata == GGUFFile.open(tiny).metadata


def test_a_device_can_pass_on_what_is_in_its_shards(
    source: TensorStore, store: TensorStore, tiny: Path, tmp_path: Path
) -> None:
    manifest = source.register(tiny)
    fetch(source, store, manifest, 0, 2)
    fetch(source, store, manifest, 3, 5)
    shards = ShardStore(store)
    shards.assemble(manifest, 0, 2)
    shards.assemble(manifest, 3, 5)
    with TensorStore(tmp_path / "third") as third:
        fetch(store, third, manifest, 0, 5)
        same_tensors(ShardStore(third).assemble(manifest, 0, 5), manifest, source)


def test_a_new_placement_moves_only_what_is_missing(source: TensorStore, store: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    fetch(source, store, manifest, 0, 2)
    ShardStore(store).assemble(manifest, 0, 2)
    new = [tensor for tensor in manifest.tensors if tensor.layer == 3]
    assert fetch(source, store, manifest, 1, 3) == sum(tensor.nbytes for tensor in new)
    same_tensors(ShardStore(store).assemble(manifest, 1, 3), manifest, source)


def test_a_shard_is_written_once(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    shards = ShardStore(source)
    progress: list[tuple[int, int]] = []
    shard = shards.assemble(manifest, 0, 2, progress=lambda done, total: progress.append((done, total)))
    assert progress[-1][0] == progress[-1][1]
    progress.clear()
    inode = Path(shard.path).stat().st_ino
    assert shards.assemble(manifest, 0, 2, progress=lambda done, total: progress.append((done, total))) == shard
    with TensorStore(source.root) as again:
        assert ShardStore(again).assemble(manifest, 0, 2) == shard
    assert (Path(shard.path).stat().st_ino, progress) == (inode, [])


def test_a_shard_that_was_changed_is_written_again(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    shards = ShardStore(source)
    path = Path(shards.assemble(manifest, 2, 3).path)
    intact = path.read_bytes()
    path.write_bytes(intact[:-5000] + bytes(5000))
    assert Path(shards.assemble(manifest, 2, 3).path).read_bytes() == intact


def test_missing_tensors_are_counted(source: TensorStore, store: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    with pytest.raises(NotFound, match=r"19 tensors of tiny are not on this device yet\."):
        ShardStore(store).assemble(manifest, 1, 2)
    fetch(source, store, manifest, 3, 5)
    with pytest.raises(NotFound, match="tensors of tiny are not on this device yet"):
        ShardStore(store).assemble(manifest, 0, 2)
    assert not list(store.shards.rglob("*.*"))


def test_a_range_that_is_none_is_refused(source: TensorStore, tiny: Path) -> None:
    with pytest.raises(CannotSplit, match="has the layers 0 to 5; 3 to 6 is not a range of them"):
        ShardStore(source).assemble(source.register(tiny), 3, 6)


def test_a_vocabulary_that_does_not_fit_is_refused(source: TensorStore, store: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    fetch(source, store, manifest, 3, 5)
    blob = store.locate(manifest.tokenizer.hash)
    assert blob is not None
    Path(blob.path).write_bytes(b"nonsense" * (blob.nbytes // 8 + 1))
    with pytest.raises(ModelError, match="vocabulary cannot be unpacked"):
        ShardStore(store).assemble(manifest, 3, 5)
    assert not list(store.shards.rglob("*.*"))


def test_a_full_disk_leaves_no_shard(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    shards = ShardStore(source)
    target = shards.path(manifest, 1, 4)
    target.parent.mkdir(parents=True)
    target.with_suffix(".tmp").symlink_to("/dev/full")  # a write to it fails as on a full disk
    with pytest.raises(NotEnough) as full:
        shards.assemble(manifest, 1, 4)
    assert full.value.message == (
        f"The disk is full: The shard 1-4 of tiny could not be written to {target.parent}. "
        "Free some space and try again."
    )
    assert not list(source.shards.rglob("*.*"))
    assert Path(shards.assemble(manifest, 1, 4).path).exists()


def test_the_disk_allowance_holds_for_shards(tiny: Path, tmp_path: Path) -> None:
    with TensorStore(tmp_path / "store", disk=60_000) as store:
        manifest = store.register(tiny)
        shards = ShardStore(store)
        with pytest.raises(NotEnough, match=r"The shard 0-4 of tiny needs .* kB on disk, but .* of the allowed 60 kB"):
            shards.assemble(manifest, 0, 4)
        assert not list(store.shards.rglob("*.*"))
        shards.assemble(manifest, 0, 0)
        assert store.used() < 60_000


def test_fetched_tensors_and_their_shard_are_not_counted_twice(source: TensorStore, tiny: Path, tmp_path: Path) -> None:
    manifest = source.register(tiny)
    needed = sum(tensor.nbytes for tensor in manifest.shard_tensors(1, 4))
    with TensorStore(tmp_path / "store", disk=needed + 20_000) as store:
        fetch(source, store, manifest, 1, 4)
        ShardStore(store).assemble(manifest, 1, 4)
        assert store.used() < needed + 20_000


@pytest.mark.node
def test_the_death_of_the_process_leaves_no_partial_shard(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    source.close()
    program = (
        "import sys, os, pathlib, signal\n"
        "from ainet.models.shards import ShardStore\n"
        "from ainet.models.tensors import TensorStore\n"
        "store = TensorStore(pathlib.Path(sys.argv[1]))\n"
        "def die(done, total):\n"
        "    if done * 2 > total: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ShardStore(store).assemble(store.manifest(sys.argv[2]), 1, 4, progress=die)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(source.root), manifest.digest], check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert [path.suffix for path in source.shards.rglob("*.*")] == [".tmp"]
    with TensorStore(source.root) as store:
        assert not list(store.shards.rglob("*.*"))
        same_tensors(ShardStore(store).assemble(manifest, 1, 4), manifest, store)


def test_the_embedding_table_of_a_first_stage_stays_where_it_is(
    source: TensorStore, store: TensorStore, tmp_path: Path
) -> None:
    manifest = source.register(write_model(tmp_path / "tied.gguf", "llama", 6))
    fetch(source, store, manifest, 0, 5)
    shards = ShardStore(store)
    embedding = shards.assemble(manifest, 0, 2).embedding
    assert embedding is not None
    shards.assemble(manifest, 3, 5)  # holds the table as well: input and output share it
    with Path(embedding.path).open("rb") as file:
        file.seek(embedding.offset)
        table = manifest.tensor("token_embd.weight")
        assert table is not None
        assert file.read(embedding.nbytes) == source.read(table.hash, 0, table.nbytes)


def test_threads_that_want_the_same_shard_share_it(source: TensorStore, tiny: Path) -> None:
    manifest = source.register(tiny)
    shards = ShardStore(source)
    found: list[tuple[Shard, int]] = []

    def work() -> None:
        shard = shards.assemble(manifest, 1, 3)
        found.append((shard, Path(shard.path).stat().st_ino))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({inode for _, inode in found}) == 1


def test_shards_that_nobody_uses_make_room_the_least_recently_used_first(
    source: TensorStore, store: TensorStore, tiny: Path
) -> None:
    manifest = source.register(tiny)
    shards = ShardStore(store)
    fetch(source, store, manifest, 0, 5)
    for layers in ((1, 2), (2, 3), (3, 4), (1, 2)):
        shards.assemble(manifest, *layers)
    store.disk = store.used()
    shards.assemble(manifest, 4, 5)
    assert {path.stem for path in store.shards.rglob("*.gguf")} == {"1-2", "3-4", "4-5"}
    assert store.used() <= store.disk
    assert store.missing(manifest, 0, 5) == []  # what the deleted one held is elsewhere


def test_a_used_shard_does_not_make_room_for_what_must_be_fetched(
    source: TensorStore, store: TensorStore, tiny: Path, tmp_path: Path
) -> None:
    manifest, other = source.register(tiny), source.register(write_model(tmp_path / "other.gguf", "qwen2", 4))
    in_use = [(manifest, 1, 2)]
    shards = ShardStore(store, lambda: in_use)
    fetch(source, store, manifest, 1, 4)
    used, _ = shards.assemble(manifest, 1, 2), shards.assemble(manifest, 3, 4)
    store.disk = store.used() + shards.nbytes(other, 1, 2) - 1
    shards.make_room(other, 1, 2)
    assert list(store.shards.rglob("*.gguf")) == [Path(used.path)]
    fetch(source, store, other, 1, 2)
    in_use.append((other, 1, 2))
    shards.assemble(other, 1, 2)
    store.disk = store.used()
    shards.make_room(manifest, 3, 4)
    assert len(list(store.shards.rglob("*.gguf"))) == 2
    assert Path(used.path).is_file()
    with pytest.raises(NotEnough, match="Allow more with --disk, or unload a model"):
        fetch(source, store, manifest, 3, 4)
    in_use.clear()
    shards.make_room(manifest, 3, 4)
    fetch(source, store, manifest, 3, 4)
    assert len(list(store.shards.rglob("*.gguf"))) == 1
