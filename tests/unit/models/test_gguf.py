from __future__ import annotations

import ctypes
import io
import struct
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from support.effort import examples
from support.gguf_files import check, entry, rewrite, shipped_model, start, text, within, write_parts
from support.tiny_models import HEAD, N_VOCAB, TOKENS, add_value, write_model

from ainet.errors import ModelError
from ainet.models.gguf import MAX_HEADER, GGUFFile, open_model
from ainet.models.gguf_values import TENSOR_TYPES, Kind, Value
from ainet.models.gguf_writer import encode_metadata, header, write
from ainet.models.manifest import Manifest
from ainet.models.tokenizer import pack_vocabulary, unpack_vocabulary, vocabulary


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.gguf", "llama", 2)


# --- reading and writing -------------------------------------------------------------------------------------------


def test_reads_what_the_gguf_package_reads(tiny: Path) -> None:
    for path in (tiny, shipped_model()):
        ours, theirs = GGUFFile.open(path), gguf.GGUFReader(path)
        fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
        assert list(ours.metadata) == list(fields)
        for name, field in fields.items():
            assert ours.metadata[name].type == field.types[0]
            assert ours.metadata[name].value == field.contents()
        found = [
            (t.name, tuple(map(int, t.shape)), int(t.tensor_type), t.data_offset, t.n_bytes) for t in theirs.tensors
        ]
        assert [(i.name, i.shape, i.type, i.offset, i.nbytes) for i in ours.tensors] == found
        assert ours.alignment == theirs.alignment


def test_writes_the_same_bytes_that_it_read(tmp_path: Path) -> None:
    path = shipped_model()
    file = GGUFFile.open(path)
    head, places, size = header(file.metadata, [(info.name, info.shape, info.type) for info in file.tensors])
    assert places == file.tensors
    data = path.read_bytes()
    with (tmp_path / "copy.gguf").open("wb") as target:
        write(target, head, ((info, [data[info.offset : info.offset + info.nbytes]]) for info in places), size)
    assert (tmp_path / "copy.gguf").read_bytes() == data


def test_refuses_to_write_a_tensor_of_the_wrong_length() -> None:
    head, places, size = header({}, [("x", (8,), 0)])
    with pytest.raises(ModelError, match="Tensor 'x' has 8 bytes instead of 32"):
        write(io.BytesIO(), head, [(places[0], [bytes(8)])], size)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.ARRAY])
def test_values_of_every_kind_come_back(tmp_path: Path, kind: Kind) -> None:
    sample: Any = {Kind.STRING: "Grüße", Kind.BOOL: True, Kind.FLOAT32: 0.5, Kind.FLOAT64: 0.1}.get(kind, 7)
    metadata = {"one": Value.of(kind, sample), "many": Value.array(kind, [sample, sample])}
    head, places, size = header(metadata, [("x", (8,), 0)])
    with (tmp_path / "x.gguf").open("wb") as target:
        write(target, head, [(places[0], [bytes(32)])], size)
    read = GGUFFile.open(tmp_path / "x.gguf").metadata
    assert read == metadata
    assert (read["one"].value, read["many"].value, len(read["many"])) == (sample, [sample, sample], 2)
    theirs = gguf.GGUFReader(tmp_path / "x.gguf").fields
    assert (theirs["one"].contents(), theirs["many"].contents()) == (sample, [sample, sample])


def test_part_of_an_array_keeps_its_kind() -> None:
    value = Value.array(Kind.INT32, [5, 6, 7, 8]).part(1, 2)
    assert (value.item_type, value.value) == (Kind.INT32, [6, 7])
    with pytest.raises(ModelError, match="Only arrays of numbers have parts"):
        Value.array(Kind.STRING, ["a"]).part(0, 0)


def test_block_sizes_are_those_of_llama_cpp() -> None:
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base*"))))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for number, (name, block, nbytes) in TENSOR_TYPES.items():
        assert library.ggml_type_name(number).decode().upper() == name
        assert (library.ggml_blck_size(number), library.ggml_type_size(number)) == (block, nbytes)


# --- refusals ------------------------------------------------------------------------------------------------------


ROOM = bytes(4096)
ABSURD = {
    "nothing": (b"", "It ends in the middle of the magic number"),
    "other format": (b"PK\x03\x04" + ROOM, "It does not begin with 'GGUF'"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + ROOM, "Its version is 50331648"),
    "old version": (start(0, 0, 1) + ROOM, "Its version is 1"),
    "many tensors": (start(2**63, 0) + ROOM, "It claims 9,223,372,036,854,775,808 tensors in 4.12 kB"),
    "more tensors than bytes": (start(1000, 0) + ROOM, "It claims 1,000 tensors in 4.12 kB"),
    "many keys": (start(0, 2**64 - 1) + ROOM, "It claims 18,446,744,073,709,551,615 keys"),
    "long key": (start(0, 1) + struct.pack("<Q", 2**60) + ROOM, "a metadata key of 1,152,921,504,606,846,976 bytes"),
    "empty key": (start(0, 1) + text(b"") + struct.pack("<IB", 0, 1) + ROOM, "a metadata key that is empty"),
    "zero byte": (start(0, 1) + text(b"a\0b") + struct.pack("<IB", 0, 1) + ROOM, "has a zero byte in it"),
    "not UTF-8": (
        start(0, 1) + text(b"\xff\xfe") + struct.pack("<IB", 0, 1) + ROOM,
        "a metadata key that is not UTF-8",
    ),
    "same key": (start(0, 2) + (text(b"a") + struct.pack("<IB", 0, 1)) * 2 + ROOM, "The key 'a' occurs twice"),
    "unknown kind": (
        start(0, 1) + text(b"a") + struct.pack("<I", 13) + ROOM,
        "The value of 'a' has the unknown type 13",
    ),
    "long string": (
        start(0, 1) + text(b"a") + struct.pack("<IQ", 8, 2**40) + ROOM,
        "has a string of 1,099,511,627,776 bytes",
    ),
    "string past the end": (
        start(0, 1) + text(b"a") + struct.pack("<IQ", 8, 9999) + ROOM,
        "middle of the value of 'a'",
    ),
    "array of arrays": (start(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1) + ROOM, "is an array of arrays"),
    "long array": (start(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 0, 2**62) + ROOM, "arrays with 4,611,686,018,427"),
    "long array of strings": (
        start(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 8, 2**62) + ROOM,
        "arrays with 4,611,686",
    ),
    "array past the end": (
        start(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 10, 4096) + ROOM,
        "middle of the value of 'a'",
    ),
    "array of unknown kind": (
        start(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 77, 1) + ROOM,
        "has the unknown type 77",
    ),
    "alignment of zero": (start(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0) + ROOM, "Its alignment"),
    "odd alignment": (start(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 48) + ROOM, "Its alignment"),
    "small alignment": (start(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 8) + ROOM, "Its alignment"),
    "huge alignment": (start(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 2**31) + ROOM, "Its alignment"),
    "alignment as text": (
        start(0, 1) + text(b"general.alignment") + struct.pack("<I", 8) + text(b"x") + ROOM,
        "Its alignment",
    ),
    "long tensor name": (start(1, 0) + entry(b"x" * 64, (32,)) + ROOM, "a tensor name of 64 bytes; at most 63"),
    "five dimensions": (start(1, 0) + entry(b"x", (1, 1, 1, 1, 1)) + ROOM, "Tensor 'x' has 5 dimensions"),
    "many dimensions": (
        start(1, 0) + text(b"x") + struct.pack("<I", 2**32 - 1) + ROOM,
        "Tensor 'x' has 4294967295 dim",
    ),
    "no dimension": (start(1, 0) + entry(b"x", ()) + ROOM, "Tensor 'x' has 0 dimensions"),
    "empty dimension": (start(1, 0) + entry(b"x", (32, 0)) + ROOM, "Tensor 'x' has the impossible shape [32, 0]"),
    "endless dimension": (start(1, 0) + entry(b"x", (2**63,)) + ROOM, "the impossible shape [9223372036854775808]"),
    "overflowing shape": (start(1, 0) + entry(b"x", (2**32, 2**32)) + ROOM, "would have"),
    "unknown tensor type": (start(1, 0) + entry(b"x", (32,), 99) + ROOM, "Tensor 'x' has the type 99"),
    "removed tensor type": (start(1, 0) + entry(b"x", (32,), 4) + ROOM, "Tensor 'x' has the type 4"),
    "broken block": (
        start(1, 0) + entry(b"x", (33,), 8) + ROOM,
        "rows of 33 values do not consist of Q8_0's blocks of 32",
    ),
    "offset past the end": (
        start(1, 0) + entry(b"x", (32,), 0, 2**40) + ROOM,
        "lies at 1,099,511,627,776 instead of 0",
    ),
    "overlap": (start(2, 0) + entry(b"x", (32,)) + entry(b"y", (32,), 0, 64) + ROOM, "'y' lies at 64 instead of 128"),
    "gap": (start(2, 0) + entry(b"x", (32,)) + entry(b"y", (32,), 0, 256) + ROOM, "'y' lies at 256 instead of 128"),
    "same name": (
        start(2, 0) + entry(b"x", (32,)) + entry(b"x", (32,), 0, 128) + ROOM,
        "Two tensors have the same name",
    ),
    "cut off data": (start(1, 0) + entry(b"x", (4096,)) + ROOM, "It is cut off: tensor 'x' ends at byte 16,448"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_files_are_refused_with_words(tmp_path: Path, case: str) -> None:
    data, words = ABSURD[case]
    path = tmp_path / "absurd.gguf"
    path.write_bytes(data)
    with within(seconds=1, nbytes=8 << 20), pytest.raises(ModelError) as refused:
        GGUFFile.open(path)
    assert refused.value.message.startswith("absurd.gguf is not a usable GGUF file. ")
    assert words in refused.value.message


def test_a_huge_sparse_file_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    large, small = examples(4 << 20), examples(1 << 20)
    for count in (large, small):
        # An array of strings that are all empty, and 1 TB of zeros behind it.
        path.write_bytes(start(1, 1) + text(b"a") + struct.pack("<IIQ", 9, 8, count))
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        if count == large:
            with within(seconds=5), pytest.raises(ModelError, match="a tensor name that is empty"):
                GGUFFile.open(path)
        else:
            with within(nbytes=MAX_HEADER), pytest.raises(ModelError, match="a tensor name that is empty"):
                GGUFFile.open(path)


def test_a_header_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    keys = b"".join(text(b"k%d" % i) + struct.pack("<IQ", 8, 15 << 20) + bytes(15 << 20) for i in range(5))
    path.write_bytes(start(1, 6) + keys + bytes(1 << 20))
    with pytest.raises(ModelError, match=r"Its header has more than 67\.1 MB"):
        GGUFFile.open(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf cannot be read: No such file or directory"):
        GGUFFile.open(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        GGUFFile.open(tmp_path)


UINT, FLOAT, STRING = Kind.UINT32, Kind.FLOAT32, Kind.STRING
MODEL_MISTAKES: dict[str, tuple[dict[str, Value | None], str]] = {
    "no architecture": ({"general.architecture": None}, "It names no architecture"),
    "projector": ({"general.type": Value.of(STRING, "mmproj")}, "It is not a language model, but mmproj"),
    "no layers": ({"llama.block_count": Value.of(UINT, 0)}, "llama.block_count is missing or impossible"),
    "many layers": ({"llama.block_count": Value.of(UINT, 513)}, "llama.block_count is missing or impossible"),
    "more layers than tensors": (
        {"llama.block_count": Value.of(UINT, 3)},
        "The metadata names 3 layers, but the tensors belong to 2",
    ),
    "fewer layers than tensors": (
        {"llama.block_count": Value.of(UINT, 1)},
        "tensors of layers beyond the 1 that its metadata names",
    ),
    "layers as text": ({"llama.block_count": Value.of(STRING, "2")}, "llama.block_count is not a whole number"),
    "wrong width": (
        {"llama.embedding_length": Value.of(UINT, 32)},
        "Embeddings have 32 values, but token_embd.weight has the shape [64, 264]",
    ),
    "no context": ({"llama.context_length": None}, "llama.context_length is missing or impossible"),
    "no heads": ({"llama.attention.head_count": Value.of(UINT, 0)}, "0 attention heads cannot share 2 key-value heads"),
    "no heads at all": ({"llama.attention.head_count": None}, "0 attention heads cannot share"),
    "no kv heads": (
        {"llama.attention.head_count_kv": Value.of(UINT, 0)},
        "4 attention heads cannot share 0 key-value heads",
    ),
    "odd kv heads": (
        {"llama.attention.head_count_kv": Value.of(UINT, 3)},
        "4 attention heads cannot share 3 key-value heads",
    ),
    "different heads": (
        {"llama.attention.head_count_kv": Value.array(UINT, [2, 1])},
        "layers have different numbers of attention heads",
    ),
    "negative heads": (
        {"llama.attention.head_count": Value.of(Kind.INT32, -4)},
        "llama.attention.head_count is negative",
    ),
    "short array": (
        {"llama.attention.head_count": Value.array(UINT, [4])},
        "llama.attention.head_count has 1 items for 2 layers",
    ),
    "endless array": (
        {"llama.attention.head_count": Value.array(UINT, [4] * 600)},
        "llama.attention.head_count has 600 items",
    ),
    "no feed forward": ({"llama.feed_forward_length": Value.of(UINT, 0)}, "A feed-forward length is zero"),
    "odd rope": ({"llama.rope.dimension_count": Value.of(UINT, 7)}, "RoPE covers 7 of a head's 16 values"),
    "partial rope": ({"llama.rope.dimension_count": Value.of(UINT, 8)}, "RoPE covers 8 of a head's 16 values"),
    "uneven heads": ({"llama.attention.key_length": Value.of(UINT, 32)}, "Attention heads have 32 and 16 values"),
    "window heads": (
        {"llama.attention.key_length_swa": Value.of(UINT, 32)},
        "Layers with a sliding window differ from the others",
    ),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, "The epsilon of the norms is missing"),
    "negative epsilon": ({"llama.attention.layer_norm_rms_epsilon": Value.of(FLOAT, -1.0)}, "The epsilon of the norms"),
    "epsilon of nan": (
        {"llama.attention.layer_norm_rms_epsilon": Value.of(FLOAT, float("nan"))},
        "The epsilon of the norms",
    ),
    "rope scaling": ({"llama.rope.scaling.type": Value.of(STRING, "magic")}, "RoPE scaling 'magic' is unknown"),
    "experts": ({"llama.expert_count": Value.of(UINT, 2000)}, "0 of 2000 experts cannot be used"),
    "expert use": ({"llama.expert_used_count": Value.of(UINT, 2)}, "2 of 0 experts cannot be used"),
    "expert groups": ({"llama.expert_group_count": Value.of(UINT, 2)}, "0 experts cannot form 2 groups"),
    "prediction": ({"llama.nextn_predict_layers": Value.of(UINT, 3)}, "It has more prediction layers than layers"),
    "window": ({"llama.attention.sliding_window": Value.of(UINT, 2**31)}, "The sliding window is impossibly long"),
    "no vocabulary": ({"tokenizer.ggml.model": Value.of(STRING, "none")}, "It has no vocabulary"),
    "strange vocabulary": ({"tokenizer.ggml.model": Value.of(STRING, "bert")}, "have no vocabulary of the kind 'bert'"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, "Its vocabulary has no tokens"),
    "numbers for tokens": ({"tokenizer.ggml.tokens": Value.array(UINT, [1])}, "Its vocabulary has no tokens"),
    "few tokens": (
        {"tokenizer.ggml.tokens": Value.array(STRING, TOKENS[:9])},
        "Its vocabulary has 9 tokens for 264 embeddings",
    ),
    "same tokens": (
        {"tokenizer.ggml.tokens": Value.array(STRING, ["a"] * N_VOCAB)},
        "Two tokens of its vocabulary are the same",
    ),
    "few types": (
        {"tokenizer.ggml.token_type": Value.array(Kind.INT32, [1])},
        "tokenizer.ggml.token_type does not fit its 264 tokens",
    ),
    "template": ({"tokenizer.chat_template": Value.of(UINT, 1)}, "Its chat template is not a text"),
}


@pytest.mark.parametrize("case", MODEL_MISTAKES)
def test_models_that_llama_cpp_would_not_survive_are_refused(tiny: Path, case: str) -> None:
    changes, words = MODEL_MISTAKES[case]
    changed = {**GGUFFile.open(tiny).metadata, **changes}
    path = rewrite(tiny, {key: value for key, value in changed.items() if value is not None})
    with pytest.raises(ModelError) as refused:
        check(path)
    assert refused.value.message.startswith("rewritten.gguf is not a usable model. ")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("name", "replacement", "words"),
    [
        ("token_embd.weight", None, "The tensor token_embd.weight is missing"),
        ("output_norm.weight", None, "The tensor output_norm.weight is missing"),
        ("blk.1.attn_q.weight", None, "Layer 1 lacks attention weights"),
        ("blk.1.attn_q.weight", ("blk.1.attn_q.weight", (64, 64), 26), "has the type I32, with which llama.cpp cannot"),
        (
            "blk.0.attn_norm.weight",
            ("blk.0.attn_norm.weight", (64,), 1),
            "has the type F16, with which llama.cpp cannot",
        ),
        ("token_embd.weight", ("token_embd.weight", (64 * 264,), 8), "token_embd.weight has the shape [16896]"),
    ],
)
def test_missing_and_unusable_tensors_are_refused(
    tiny: Path, name: str, replacement: tuple[Any, ...] | None, words: str
) -> None:
    tensors = [(info.name, info.shape, info.type) for info in GGUFFile.open(tiny).tensors]
    changed = [replacement if entry[0] == name else entry for entry in tensors]
    path = rewrite(tiny, tensors=[entry for entry in changed if entry is not None])
    with pytest.raises(ModelError) as refused:
        check(path)
    assert words in refused.value.message


def test_a_sliding_window_that_no_layer_uses_is_refused(tmp_path: Path) -> None:
    options = {"attention.sliding_window": 32, "attention.key_length": HEAD, "attention.value_length": HEAD}
    path = write_model(
        tmp_path / "x.gguf", "gemma3", 2, metadata={**options, "attention.sliding_window_pattern": [False, False]}
    )
    with pytest.raises(ModelError, match="It has a sliding window, but no layer that uses it"):
        check(path)


def test_a_layer_that_uses_no_expert_is_refused(tmp_path: Path) -> None:
    metadata = {"expert_count": 4, "expert_used_count": [0, 2]}
    path = write_model(tmp_path / "x.gguf", "llama", 2, n_experts=4, metadata=metadata)
    with pytest.raises(ModelError, match="A layer uses none of its experts"):
        check(path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    add_value(writer, "llama.block_count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="It has no tensors"):
        check(tmp_path / "x.gguf")


# --- models in several files ---------------------------------------------------------------------------------------


def test_a_model_in_several_files_is_one_model(tiny: Path, tmp_path: Path) -> None:
    paths = write_parts(tiny, tmp_path)
    whole, split = check(tiny), Manifest.draft("tiny", open_model(paths[0]))
    assert (split.metadata, split.tensors) == (whole.metadata, whole.tensors)
    with pytest.raises(ModelError, match=r"part 2 of a model in 3 files. Name the first one, tiny-00001-of-0"):
        open_model(paths[1])
    paths[2].unlink()
    with pytest.raises(ModelError, match=r"first of 3 files of a model, and tiny-00003-of-00003.gguf is not beside it"):
        open_model(paths[0])


def test_parts_under_other_names_are_told_how_to_be_named(tiny: Path, tmp_path: Path) -> None:
    paths = write_parts(tiny, tmp_path)
    joined = tmp_path / "whole.gguf"
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    with pytest.raises(ModelError, match=r"whole.gguf holds several files of a model one behind the other.*--merge"):
        open_model(joined)
    for name, number, advice in (
        ("model.gguf", 0, r"part 1 of 3 of a model, under a name of its own.*model-00001-of-00003.gguf"),
        ("second.gguf", 1, r"part 2 of 3 of a model, under a name of its own.*second-00002-of-00003.gguf"),
        ("tiny-00001-of-00002.gguf", 0, r"says that it is one of 2 files, but its model has 3"),
        ("tiny-00003-of-00003 (1).gguf", 2, r"part 3 of 3 of a model, under a name of its own"),
    ):
        (tmp_path / name).write_bytes(paths[number].read_bytes())
        with pytest.raises(ModelError, match=advice):
            open_model(tmp_path / name)


# --- the vocabulary's blob -----------------------------------------------------------------------------------------


def test_a_vocabulary_survives_packing(tiny: Path) -> None:
    found = vocabulary(GGUFFile.open(tiny))
    tokenizer, blob = pack_vocabulary(found)
    assert unpack_vocabulary(tokenizer, blob) == found
    assert (tokenizer.nbytes, tokenizer.content_nbytes) == (len(blob), len(encode_metadata(found)))


def test_a_wrong_or_exploding_vocabulary_is_refused(tiny: Path) -> None:
    found = vocabulary(GGUFFile.open(tiny))
    tokenizer, _ = pack_vocabulary(found)
    with pytest.raises(ModelError, match="cannot be unpacked"):
        unpack_vocabulary(tokenizer, b"nonsense")
    with pytest.raises(ModelError, match="is not the one that its description names"):
        unpack_vocabulary(tokenizer, pack_vocabulary({**found, "tokenizer.x": Value.of(Kind.BOOL, True)})[1])
    bomb = pack_vocabulary({"tokenizer.bomb": Value.of(Kind.STRING, "x" * (200 << 20))})[1]
    assert len(bomb) < 1000
    with within(nbytes=32 << 20), pytest.raises(ModelError, match="is not the one that its description names"):
        unpack_vocabulary(tokenizer, bomb)
    with pytest.raises(ModelError, match=r"holds the key 'general\.name' twice or wrongly"):
        unpack_vocabulary(*pack_vocabulary({"general.name": Value.of(Kind.BOOL, True)}))
