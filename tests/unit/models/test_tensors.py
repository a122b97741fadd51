from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.tiny_models import write_model

from ainet.errors import Busy, ModelError, NotEnough, NotFound
from ainet.models.description import Tensor
from ainet.models.gguf import GGUFFile
from ainet.models.gguf_values import Kind, Value
from ainet.models.manifest import Manifest
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(256)) * 20_000
TENSOR = Tensor("blk.0.x", (len(DATA),), 24, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TensorStore]:
    with TensorStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.gguf", "llama", 2)


def loose_files(store: TensorStore) -> list[Path]:
    return [path for path in store.tensors.rglob("*") if not path.is_dir()]


# --- registering -----------------------------------------------------------------------------------------------------


def test_every_tensor_is_known_by_the_hash_of_its_bytes(store: TensorStore, tiny: Path) -> None:
    manifest = store.register(tiny)
    data = tiny.read_bytes()
    infos = {info.name: info for info in GGUFFile.open(tiny).tensors}
    assert len(manifest.tensors) == len(infos)
    for tensor in manifest.tensors:
        info = infos[tensor.name]
        expected = data[info.offset : info.offset + info.nbytes]
        assert tensor.hash == hashlib.sha256(expected).hexdigest()
        assert store.has(tensor.hash)
        assert store.read(tensor.hash, 0, tensor.nbytes) == expected
        assert store.read(tensor.hash, 5, 9) == expected[5:14]
        assert store.read(tensor.hash, tensor.nbytes - 3, 99) == expected[-3:]
        with pytest.raises(NotFound, match="bytes; 1 from -1 on are none of them"):
            store.read(tensor.hash, -1, 1)
        assert b"".join(store.chunks(tensor.hash)) == expected
    assert store.missing(manifest, 0, 1) == []
    assert store.file_of(manifest.digest) == tiny


def test_a_file_is_hashed_once_also_after_a_restart(store: TensorStore, tiny: Path) -> None:
    progress: list[tuple[int, int]] = []
    manifest = store.register(tiny, progress=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (manifest.nbytes, manifest.nbytes)
    assert progress == sorted(progress)
    progress.clear()
    assert store.register(tiny, progress=lambda done, total: progress.append((done, total))) == manifest
    with TensorStore(store.root) as again:
        assert again.register(tiny, progress=lambda done, total: progress.append((done, total))) == manifest
    assert progress == []


def test_a_changed_file_is_hashed_again(store: TensorStore, tiny: Path) -> None:
    before = store.register(tiny)
    tensor = before.tensors[0]
    write_model(tiny, "llama", 2, seed=1)
    assert not store.has(tensor.hash)
    assert store.file_of(before.digest) is None
    with pytest.raises(NotFound, match=f"The tensor {tensor.hash[:12]}… is not on this device"):
        store.read(tensor.hash, 0, 10)
    assert store.register(tiny).digest != before.digest


def test_a_file_that_changes_while_it_is_hashed_is_refused(store: TensorStore, tiny: Path) -> None:
    def touch(_done: int, _total: int) -> None:
        os.utime(tiny, ns=(1, 1))

    with pytest.raises(ModelError, match=r"tiny\.gguf changed while it was read\. Try again when it is complete\."):
        store.register(tiny, progress=touch)
    assert list(store.known_manifests()) == []
    assert loose_files(store) == []


def test_a_file_that_is_cut_while_it_is_hashed_is_refused(store: TensorStore, tiny: Path) -> None:
    def cut(_done: int, _total: int) -> None:
        os.truncate(tiny, GGUFFile.open(tiny).tensors[0].offset + 10) if tiny.stat().st_size > 50_000 else None

    with pytest.raises(ModelError, match=r"tiny\.gguf became shorter while it was read"):
        store.register(tiny, progress=cut)


def test_a_copy_with_another_name_is_the_same_model(store: TensorStore, tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tiny, tmp_path / "other.gguf"))
    first, second = store.register(tiny), store.register(copy)
    assert (first.name, second.name) == ("tiny", "other")
    assert first.digest == second.digest
    assert store.register(copy, name="mine").name == "mine"


def test_other_metadata_or_another_vocabulary_is_another_model(store: TensorStore, tiny: Path, tmp_path: Path) -> None:
    manifest = store.register(tiny)
    renamed = store.register(write_model(tmp_path / "b.gguf", "llama", 2, name="Another"))
    assert [t.hash for t in renamed.tensors] == [t.hash for t in manifest.tensors]
    assert renamed.digest != manifest.digest
    tokenizer = msgspec.structs.replace(manifest.tokenizer, content="ab" * 32)
    assert msgspec.structs.replace(manifest, tokenizer=tokenizer).digest != manifest.digest


def test_the_vocabulary_is_kept_as_a_blob(store: TensorStore, tiny: Path) -> None:
    manifest = store.register(tiny)
    file = GGUFFile.open(tiny)
    assert store.vocabulary(manifest) == {k: v for k, v in file.metadata.items() if k.startswith("tokenizer.")}
    assert manifest.shard_tensors(0, 0)[-1].name != "tokenizer"
    assert manifest.shard_tensors(1, 1)[-1] == manifest.tokenizer_tensor
    assert not [key for key in manifest.metadata if key.startswith("tokenizer.")]


def test_many_threads_may_use_the_store(store: TensorStore, tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"{i}.gguf", "llama", 2, seed=i % 2) for i in range(4)]
    found: list[Manifest] = []

    def work(path: Path) -> None:
        for _ in range(5):
            manifest = store.register(path)
            assert store.missing(manifest, 0, 1) == []
        found.append(manifest)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({manifest.digest for manifest in found}) == 2


@pytest.mark.parametrize("damage", ["removed", "nonsense", "newer"])
def test_a_lost_index_is_built_again(tmp_path: Path, tiny: Path, damage: str) -> None:
    with TensorStore(tmp_path / "store") as store:
        digest = store.register(tiny).digest
        with store.writer(TENSOR) as writer:
            writer.write(DATA)
            writer.finish()
    index = tmp_path / "store" / "index.sqlite"
    for leftover in index.parent.glob("index.sqlite-*"):
        leftover.unlink()
    if damage == "removed":
        index.unlink()
    elif damage == "nonsense":
        index.write_bytes(b"nonsense" * 1000)
    else:
        import sqlite3

        connection = sqlite3.connect(index)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    with TensorStore(tmp_path / "store") as store:
        assert store.has(TENSOR.hash)
        assert store.register(tiny).digest == digest
        assert store.file_of(digest) == tiny


# --- manifests from elsewhere ----------------------------------------------------------------------------------------


def test_a_manifest_travels_and_keeps_its_identity(store: TensorStore, tiny: Path, tmp_path: Path) -> None:
    manifest = store.register(tiny)
    arrived = Manifest.decode(manifest.encode())
    assert arrived == manifest
    with TensorStore(tmp_path / "other") as other:
        other.save_manifest(arrived)
        assert other.manifest(arrived.digest) == manifest
        assert [known.digest for known in other.known_manifests()] == [manifest.digest]
        assert len(other.missing(arrived, 0, 1)) == len({t.hash for t in manifest.tensors}) + 1
        with pytest.raises(NotFound, match="No model with the digest abcdefabcdef… is known here"):
            other.manifest("abcdef" * 10)


def test_a_damaged_manifest_is_not_used(store: TensorStore, tiny: Path) -> None:
    digest = store.register(tiny).digest
    path = store.manifests / f"{digest}.msgpack"
    other = store.register(write_model(tiny, "llama", 2, name="Another"))
    path.write_bytes(other.encode())
    with pytest.raises(NotFound, match="is damaged"):
        store.manifest(digest)
    path.write_bytes(b"nonsense")
    with pytest.raises(NotFound, match="is known here"):
        store.manifest(digest)
    assert [manifest.digest for manifest in store.known_manifests()] == [other.digest]


def replace_tensor(manifest: Manifest, **changes: object) -> Manifest:
    tensors = (msgspec.structs.replace(manifest.tensors[0], **changes), *manifest.tensors[1:])
    return msgspec.structs.replace(manifest, tensors=tensors)


def replace_value(manifest: Manifest, key: str, value: Value) -> Manifest:
    return msgspec.structs.replace(manifest, metadata={**manifest.metadata, key: value})


def hostile(manifest: Manifest) -> dict[str, tuple[Manifest, str]]:
    """Return what a member could send."""
    uint = Kind.UINT32
    blob = manifest.tokenizer
    return {
        "path as hash": (replace_tensor(manifest, hash="../../../etc/passwd"), "A hash in it is not one"),
        "upper-case hash": (replace_tensor(manifest, hash="AB" * 32), "A hash in it is not one"),
        "wrong size": (replace_tensor(manifest, nbytes=1 << 60), "does not have the size of its shape"),
        "negative size": (replace_tensor(manifest, nbytes=-1), "does not have the size of its shape"),
        "endless shape": (replace_tensor(manifest, shape=(1 << 40, 1 << 40)), "has the impossible shape"),
        "huge shape": (replace_tensor(manifest, shape=(1 << 39, 1 << 20)), "would have"),
        "no shape": (replace_tensor(manifest, shape=()), "has the impossible shape"),
        "unknown type": (replace_tensor(manifest, type=77), "is not a type of weights"),
        "long name": (replace_tensor(manifest, name="x" * 64), "impossible name"),
        "same names": (replace_tensor(manifest, name=manifest.tensors[1].name), "does not have the size|the same name"),
        "layer beyond": (replace_tensor(manifest, name="blk.7.x"), "layers beyond the 2"),
        "no tensors": (msgspec.structs.replace(manifest, tensors=()), "It has 0 tensors"),
        "unprintable": (msgspec.structs.replace(manifest, name="a\x1b[2J"), "Its name is empty, too long or unprint"),
        "long model name": (
            msgspec.structs.replace(manifest, name="x" * 500),
            "Its name is empty, too long or unprint",
        ),
        "no heads": (replace_value(manifest, "llama.attention.head_count", Value.of(uint, 0)), "0 attention heads"),
        "no experts": (replace_value(manifest, "llama.expert_used_count", Value.of(uint, 4)), "4 of 0 experts"),
        "unknown kind": (replace_value(manifest, "a", Value(99, b"")), "has the unknown type 99"),
        "truncated value": (replace_value(manifest, "a", Value(Kind.UINT64, b"1234")), "middle of the value of 'a'"),
        "long value": (replace_value(manifest, "a", Value(Kind.UINT8, b"12")), "'a' has bytes too many"),
        "lying string": (replace_value(manifest, "a", Value(8, (9).to_bytes(8, "little"))), "middle of the value"),
        "absurd array": (replace_value(manifest, "a", Value(9, b"\1\0\0\0" + b"\xff" * 8)), "arrays with 18,446,744"),
        "tokenizer key": (replace_value(manifest, "tokenizer.x", Value(0, b"1")), "the impossible key 'tokenizer.x'"),
        "large": (replace_value(manifest, "a", Value.of(Kind.STRING, "x" * (5 << 20))), "Its metadata is too large"),
        "vocabulary of nothing": (
            msgspec.structs.replace(manifest, tokenizer=msgspec.structs.replace(blob, nbytes=0)),
            "The size of its vocabulary is impossible",
        ),
        "bomb": (
            msgspec.structs.replace(manifest, tokenizer=msgspec.structs.replace(blob, content_nbytes=1 << 40)),
            "The size of its vocabulary is impossible",
        ),
    }


def test_a_hostile_manifest_is_refused_and_not_kept(store: TensorStore, tiny: Path, tmp_path: Path) -> None:
    cases = hostile(store.register(tiny))
    with TensorStore(tmp_path / "other") as other:
        for case, (manifest, words) in cases.items():
            with pytest.raises(ModelError, match=words):
                Manifest.decode(manifest.encode())
            with pytest.raises(ModelError, match=words):
                other.save_manifest(manifest)
            assert list(other.manifests.iterdir()) == [], case
    for data in (b"", b"\xc1", b"\x80", manifest.encode()[:-1], b"\x84" * 100_000):
        with pytest.raises(ModelError, match="The description of a model cannot be read"):
            Manifest.decode(data)


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "", "AB" * 32, "ab" * 32 + "/../../../secret"])
def test_what_is_no_hash_names_no_file(store: TensorStore, key: str) -> None:
    for suffix in ("bin", "msgpack"):
        (store.root / f"secret.{suffix}").write_bytes(b"secret")
    assert not store.has(key)
    with pytest.raises(NotFound, match="is not on this device"):
        store.read(key, 0, 6)
    with pytest.raises(NotFound, match="is known here"):
        store.manifest(key)


# --- tensors on their way in -----------------------------------------------------------------------------------------


def test_a_tensor_is_visible_only_when_it_is_complete(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        assert writer.position == 0
        for start in range(0, len(DATA), 700_000):
            writer.write(DATA[start : start + 700_000])
            assert not store.has(TENSOR.hash)
            with pytest.raises(NotFound):
                store.read(TENSOR.hash, 0, 1)
        writer.finish()
    assert store.read(TENSOR.hash, 0, len(DATA)) == DATA
    assert [path.suffix for path in loose_files(store)] == [".bin"]
    assert store.bytes_received == len(DATA)


def test_a_cut_transfer_goes_on_where_it_stopped(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA[:1_500_000])
    with TensorStore(store.root) as again, again.writer(TENSOR) as writer:
        assert writer.position == 1_500_000
        with pytest.raises(ModelError, match=r"blk\.0\.x is incomplete: 1,500,000 of 5,120,000 bytes"):
            writer.finish()
        writer.write(DATA[1_500_000:])
        writer.finish()
        assert again.bytes_received == len(DATA) - 1_500_000
        assert again.read(TENSOR.hash, 0, len(DATA)) == DATA


@pytest.mark.node
def test_a_transfer_survives_the_death_of_its_process(store: TensorStore) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from ainet.models.description import Tensor\n"
        "from ainet.models.tensors import TensorStore\n"
        "data = bytes(range(256)) * 20_000\n"
        f"tensor = Tensor('x', ({len(DATA)},), 24, {len(DATA)}, '{TENSOR.hash}')\n"
        "writer = TensorStore(pathlib.Path(sys.argv[1])).writer(tensor)\n"
        "writer.write(data[:2_000_000])\n"
        "print('half', flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not store.has(TENSOR.hash)
    with store.writer(TENSOR) as writer:
        assert writer.position == 2_000_000
        writer.write(DATA[writer.position :])
        writer.finish()
    assert store.has(TENSOR.hash)


def test_bytes_with_the_wrong_hash_are_thrown_away(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA[:-1] + b"?")
        with pytest.raises(ModelError, match=r"arrived for blk\.0\.x do not have its hash\. They were thrown away\."):
            writer.finish()
    assert loose_files(store) == []
    assert not store.has(TENSOR.hash)
    with store.writer(TENSOR) as writer:
        assert writer.position == 0
        writer.write(DATA)
        writer.finish()


def test_a_damaged_part_is_noticed(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA[:1_000_000])
    (part,) = loose_files(store)
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with store.writer(TENSOR) as writer:
        writer.write(DATA[writer.position :])
        with pytest.raises(ModelError, match="do not have its hash"):
            writer.finish()
    assert loose_files(store) == []


def test_more_bytes_than_announced_are_thrown_away(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA)
        with pytest.raises(ModelError, match=r"More bytes arrived for blk\.0\.x than it has"):
            writer.write(b"x")
    assert loose_files(store) == []


def test_a_part_that_is_too_long_begins_afresh(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA[:10])
    (part,) = loose_files(store)
    part.write_bytes(DATA + b"x")
    with store.writer(TENSOR) as writer:
        assert writer.position == 0


def test_a_tensor_has_one_writer_at_a_time(store: TensorStore) -> None:
    with store.writer(TENSOR):
        with pytest.raises(Busy, match=r"blk\.0\.x is being fetched already") as busy:
            store.writer(TENSOR)
        assert busy.value.details["retry_after"] == 1
    store.writer(TENSOR).discard()
    assert loose_files(store) == []


def test_a_full_disk_is_said_in_words_and_leaves_nothing(store: TensorStore) -> None:
    with store.writer(TENSOR) as writer:
        writer.write(DATA[:10])
    (part,) = loose_files(store)
    part.unlink()
    part.symlink_to("/dev/full")  # a write to it fails as on a full disk
    with store.writer(TENSOR) as writer, pytest.raises(NotEnough) as full:
        writer.write(DATA)
    assert full.value.message == (
        f"The disk is full: blk.0.x could not be written to {part.parent}. Free some space and try again."
    )
    assert loose_files(store) == []
    assert not store.has(TENSOR.hash)


def test_the_disk_allowance_is_kept_with_the_numbers(tmp_path: Path) -> None:
    with TensorStore(tmp_path / "store", disk=8_000_000) as store:
        with store.writer(TENSOR) as writer:
            writer.write(DATA[:1_000_000])
            assert store.used() == len(DATA)  # what is still to come counts
            other = msgspec.structs.replace(TENSOR, hash="ab" * 32, name="other")
            with pytest.raises(NotEnough) as refused:
                store.writer(other)
            writer.write(DATA[1_000_000:])
            writer.finish()
        assert refused.value.message == (
            "other needs 5.12 MB on disk, but 5.12 MB of the allowed 8 MB are in use. "
            "Allow more with --disk, or unload a model."
        )
        assert refused.value.details == {"needed": 5_120_000, "used": 5_120_000, "allowed": 8_000_000}
        assert [path.suffix for path in loose_files(store)] == [".bin"]
        assert store.used() == len(DATA)
