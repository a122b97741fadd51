"""``ainet quantise``: models in other formats, made, compared and recommended by real nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.local_nodes import ask, nodes
from support.nodes import ainet, answer_of
from support.swarms import until
from support.tiny_models import write_model

from ainet.api import models, quantise
from ainet.errors import AinetError, Busy, NotEnough, NotFound, UsageError
from ainet.resources.monitor import alive

#: Of heads that are narrower than the model.
HEADS = {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16}
WORDS = Path(__file__).read_text()
TEXT = "The owner of a device decides what it does, and nobody else. " * 60


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model whose rows are long enough for all formats, in Q8_0."""
    return write_model(tmp_path_factory.mktemp("source") / "tiny.gguf", "llama", n_layers=3, n_embd=256, metadata=HEADS)


async def finished(node):
    """Wait for the end of the work, and return how it ended."""
    async with asyncio.timeout(120):
        while (state := await node.call(quantise.quantisation)).running:
            await asyncio.sleep(0.02)
    return state


async def made(node, *formats, **options):
    await node.call(quantise.quantise, formats=list(formats), **options)
    state = await finished(node)
    assert state.failed is None, state.failed
    return state


def programs():
    """Return the processes that convert and read models for the nodes of this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ainet.quantising.program" in child.cmdline():
                found.append(child)
    return found


def folders(node):
    return node.data_dir / "models", node.data_dir / "quality"


async def test_the_real_model_in_two_formats(tmp_path):
    async with nodes(tmp_path, one={"threads": 2, "stage_threads": 2}) as found:
        one = found["one"]
        state = await made(one, "Q8_0", "Q4_0", model="smollm2", text=WORDS, chunks=1)
        quick, small = state.made
        assert [quick.name, small.name] == ["smollm2-Q8_0", "smollm2-Q4_0"]
        assert small.size < quick.size
        assert small.bits < quick.bits < 8.6
        assert small.shared > 100_000  # norms, at least
        better, worse = state.quality
        assert better.rows == worse.rows == 256
        assert 0 < better.divergence < 0.02 < worse.divergence < 1
        assert better.same_top > 0.9 > worse.same_top
        assert "smollm2 was quantised before, as Q4_1" in state.notes[0]
        # It is a model like any other: listed with its licence, its hashes are known, and it answers.
        (entry,) = await one.call(models.models, "smollm2-Q8_0")
        assert (entry.quantisation, entry.digest, entry.licence) == ("Q8_0", quick.digest, "apache-2.0")
        shared = {tensor.hash for tensor in one.store.manifest(quick.digest).tensors}
        source = one.catalog.manifest("smollm2")
        assert sum(tensor.nbytes for tensor in source.tensors if tensor.hash in shared) == quick.shared
        # Which words follow depends on the kind of processor.
        assert (await ask(one, model="smollm2-Q8_0")).text.startswith("Hello")
        assert {path.suffix for path in folders(one)[0].iterdir()} == {".gguf"}


async def test_what_was_made_and_measured_before_is_not_done_again(tmp_path, tiny):
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]
        first = await made(one, "Q4_0", model=str(tiny), text=TEXT, chunks=2)
        place, measured = folders(one)
        files = {path: path.stat().st_mtime_ns for path in (*place.rglob("*.gguf"), *measured.rglob("*.npz"))}
        again = await made(one, "Q4_0", "Q4_K_M", model=str(tiny), text=TEXT, chunks=2)
        assert [one.was_there for one in again.made] == [True, False]
        assert again.quality[0] == first.quality[0]
        assert {path: path.stat().st_mtime_ns for path in files} == files
        assert not list(measured.rglob("source-*"))  # only what is small stays
        # Without a text nothing is compared, and with more chunks only those are read.
        assert not (await made(one, "Q4_0", model=str(tiny))).quality
        more = await made(one, "Q4_0", model=str(tiny), text=TEXT, chunks=3)
        assert more.quality[0].rows == 3 * 256
        assert {path: path.stat().st_mtime_ns for path in files} == files
        # What is damaged is measured again.
        next(measured.rglob("*-1.npz")).write_bytes(b"damaged")
        damaged = await one.call(quantise.quantise, formats=["Q4_0", "Q4_K_M"], model=str(tiny), text=TEXT, chunks=2)
        assert damaged.running
        assert "of chunk 2 is damaged. Ask again" in (await finished(one)).failed["message"]
        mended = await made(one, "Q4_0", "Q4_K_M", model=str(tiny), text=TEXT, chunks=2)
        assert mended.quality == again.quality


async def test_who_is_interrupted_goes_on_from_there(tmp_path, tiny):
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]
        await one.call(quantise.quantise, model=str(tiny), formats=["Q4_0"], text=TEXT, chunks=6)
        _, measured = folders(one)
        await until(lambda: list(measured.rglob("source-1.npy")))
        with pytest.raises(Busy, match="is being quantised: asking"):
            await one.call(quantise.quantise, model=str(tiny), formats=["Q5_0"])
        (program,) = programs()
        state = await one.call(quantise.cancel_quantisation)
        assert (state.running, state.cancelled, len(state.made), state.quality) == (False, True, 1, [])
        assert not alive(program)
        kept = {path: path.stat().st_mtime_ns for path in measured.rglob("source-*.npy")}
        assert kept
        state = await made(one, "Q4_0", model=str(tiny), text=TEXT, chunks=6)
        assert state.made[0].was_there
        assert state.quality[0].rows == 6 * 256


async def test_nothing_half_written_stays(tmp_path):
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]
        await one.call(quantise.quantise, model="smollm2", formats=["IQ4_NL"])
        place, _ = folders(one)
        await until(lambda: list(place.glob("*.quantising")))
        await one.call(quantise.cancel_quantisation)
        assert not list(place.iterdir())
        # Not even when the process is killed, whose end has words.
        await one.call(quantise.quantise, model="smollm2", formats=["IQ4_NL"])
        await until(lambda: list(place.glob("*.quantising")))
        (program,) = programs()
        assert program.nice() == 10
        program.kill()
        state = await finished(one)
        assert "llama.cpp ended its process (-9)" in state.failed["message"]
        assert "engine.log" in state.failed["message"]
        assert not list(place.iterdir())


async def test_an_importance_matrix_makes_few_bits_better(tmp_path, tiny):
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]
        state = await made(
            one,
            "Q4_0",
            "IQ2_XXS",
            model=str(tiny),
            text=TEXT,
            chunks=2,
            importance=True,
        )
        assert [one.name for one in state.made] == ["tiny-Q4_0-imatrix", "tiny-IQ2_XXS-imatrix"]
        assert all(one.importance for one in state.made)
        assert state.quality[0].divergence < state.quality[1].divergence
        assert not list(folders(one)[1].rglob("sums-*")) + list(folders(one)[1].rglob("importance-*"))
        plain = await made(one, "Q4_0", model=str(tiny))
        assert plain.made[0].digest != state.made[0].digest
        # The same is not made again, nor its importance measured; the text is not kept.
        again = await made(one, "Q4_0", "IQ2_XXS", model=str(tiny), text=TEXT, chunks=2, importance=True)
        assert [one.was_there for one in again.made] == [True, True]
        assert again.quality == state.quality
        assert not (folders(one)[1] / "text.txt").exists()


NONSENSE = [
    ({"formats": []}, UsageError, "Name a format"),
    ({"formats": ["Q4_O"]}, UsageError, "'Q4_O' is no format that llama.cpp writes"),
    ({"formats": ["Q4_0"], "model": "nothing"}, NotFound, "No model is called 'nothing'"),
    ({"formats": ["Q4_0"], "importance": True}, UsageError, "add --text FILE"),
    ({"formats": ["IQ1_S"], "text": TEXT}, UsageError, "IQ1_S only with an importance matrix"),
    ({"formats": ["Q4_0", "Q5_0"], "name": "x"}, UsageError, "A name can be given to one model only"),
    ({"formats": ["Q4_0"], "name": "../x"}, UsageError, "'../x' cannot be a name"),
    ({"formats": ["Q4_0"], "name": ".x"}, UsageError, "'.x' cannot be a name"),
]


async def test_what_makes_no_sense_is_refused_at_once(tmp_path):
    async with nodes(tmp_path, one={}) as found:
        with pytest.raises(NotFound, match="Nothing was quantised"):
            await found["one"].call(quantise.quantisation)
        for request, error, words in NONSENSE:
            with pytest.raises(error, match=words):
                await found["one"].call(quantise.quantise, **({"model": "smollm2"} | request))


async def test_what_cannot_be_done_ends_in_words(tmp_path, tiny, monkeypatch):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny.read_bytes()[:-9000])
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]

        async def failed(**options):
            await one.call(quantise.quantise, **({"model": str(tiny), "formats": ["Q4_0"]} | options))
            return AinetError.from_dict((await finished(one)).failed)

        assert "It is cut off" in (await failed(model=str(damaged))).message
        short = await failed(text="Too short.")
        assert isinstance(short, UsageError)
        assert "it takes at least 64" in short.message
        assert "too short to measure importance" in (await failed(text=TEXT[:600], importance=True)).message
        # Another model has the name.
        place, _ = folders(one)
        shutil.copy(tiny, place / "tiny-Q4_0.gguf")
        assert "is another model. Give the new one a name" in (await failed()).message
        assert (place / "tiny-Q4_0.gguf").read_bytes() == tiny.read_bytes()
        await made(one, "Q4_0", model=str(tiny), name="mine")
        assert (await one.call(models.models, "mine"))[0].quantisation == "Q4_0"
        # No memory, with the numbers.
        with one.allocator.reserve("something else", memory=one.allocator.free.memory):
            refused = await failed(formats=["Q5_0"])
        assert isinstance(refused, NotEnough)
        assert "450 MB of memory" in refused.message
        # No space.
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        refused = await failed(formats=["Q5_0"])
        assert isinstance(refused, NotEnough)
        assert "takes" in refused.message
        assert "Free some space" in refused.message
        assert not list(place.glob("*.quantising"))


async def test_a_format_for_another_device(tmp_path, tiny):
    async with nodes(tmp_path, ada={}, bob={"threads": 2, "stage_threads": 2, "memory": "2GB", "exact": True}) as found:
        ada, bob = found.values()
        advice = await ada.call(quantise.formats, str(tiny), "bob", ["Q4_0", "F16"])
        assert (advice.device, advice.threads, advice.memory) == ("bob", 2, 2_000_000_000)
        assert [one.format for one in advice.formats] == ["Q8_0", "Q4_0", "F16"]
        assert advice.formats[0].is_source
        assert all(one.fits and one.seconds > 0 for one in advice.formats)
        sizes = {one.format: one.size for one in advice.formats}
        assert sizes["Q4_0"] < sizes["Q8_0"] < sizes["F16"]
        assert advice.recommended == "F16"  # so small that people never wait
        # What was measured is kept: no process is needed for the same question.
        await until((bob.data_dir / "type_speeds.json").exists)
        assert not (ada.data_dir / "type_speeds.json").exists()
        assert (await ada.call(quantise.formats, str(tiny), bob.id, ["Q4_0", "F16"])).formats == advice.formats
        state = await made(ada, "Q4_0", model=str(tiny))
        assert state.made[0].size == sizes["Q4_0"]  # as it was predicted
        with pytest.raises(NotFound, match=r"No member is called 'eve'. Members are: bob"):
            await ada.call(quantise.formats, str(tiny), "eve")
        # Whose answers are exact chooses among few formats.
        advice = await bob.call(quantise.formats, str(tiny), None, ["Q4_0", "F16"])
        assert [one.format for one in advice.formats] == ["Q8_0", "Q4_0"]


def test_the_command_shows_tables_and_can_be_interrupted(node_dir, tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    shown = ainet("quantise", str(tiny), "q4_0", "--text", str(text), "--chunks", "1", data_dir=node_dir)
    assert shown.returncode == 0, shown.stderr
    heading, _, row = shown.stdout.splitlines()[:3]
    assert "KL divergence" in heading
    assert row.startswith("tiny-Q4_0")
    assert row.rstrip().endswith("%")
    assert f"Compared with {tiny} on 256 tokens." in shown.stdout
    found = answer_of(ainet("quantise", str(tiny), "q4_0", "--json", data_dir=node_dir))
    assert found["quantised"]["made"][0]["was_there"] is True
    wrong = ainet("quantise", str(tiny), "--text", str(text), data_dir=node_dir)
    assert wrong.returncode == 2
    assert "Name a format" in wrong.stderr
    asking = subprocess.Popen(
        [sys.executable, "-m", "ainet", "quantise", "smollm2", "IQ4_NL"],
        env=os.environ | {"AINET_DATA_DIR": str(node_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in asking.stderr:
        if "beginning" in line or "smollm2" in line:
            asking.send_signal(signal.SIGINT)
            break
    out, _ = asking.communicate(timeout=60)
    assert asking.returncode == 130
    assert "Interrupted while" in out
    assert not list((node_dir / "models").glob("*smollm2*"))
