"""Passages are found by what they mean; their vectors go with them, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from support.disk import all_bytes
from support.embedding import write_model
from support.local_nodes import nodes

from ainet.api import context
from ainet.timing import Timing
from ainet.vectors.table import STORED
from ainet.vectors.word_llama import WordLlama

QUICK = Timing(context_look=0.2, context_idle=0.3, context_again=0.1)
QUESTION = "Where do kittens take a nap during the day?"


@pytest.fixture
def notes(tmp_path):
    root = tmp_path / "notes"
    root.mkdir()
    (root / "pets.md").write_text("# Cats\nThe cat sleeps on the sofa.\n")
    (root / "money.md").write_text("# Taxes\nThe declaration is due in April.\n")
    return root


async def settled(node):
    """Wait until everything is known, has vectors, and nothing is owed."""
    async with asyncio.timeout(90):
        while True:
            state = await node.call(context.context)
            is_read = not any(folder.is_reading for folder in state.folders)
            if is_read and state.vectors and not any(one.left or one.owed for one in state.vectors):
                return state
            await asyncio.sleep(0.05)


async def found(node, text, **options):
    return (await node.call(context.find, text, **options)).results


def files_of(tmp_path):
    return all_bytes(tmp_path / "one/context/vectors")


def vector_of(name, text):
    return WordLlama().passages([f"{name}\n{text}"])[0].astype(STORED).tobytes()


def pids_of(node):
    return [lease.worker.pid for lease in node.stages.worker_pool._leases.values()]


async def test_meaning_finds_what_words_do_not_until_it_is_forgotten(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        await node.call(context.context_add, str(notes))
        await settled(node)
        first = (await found(node, QUESTION))[0]
        assert (first.path, first.reason) == (f"{notes}/pets.md", "meaning")
        assert (await found(node, QUESTION, folder=str(notes / "pets.md")))[0].path == f"{notes}/pets.md"
        assert await found(node, QUESTION, folder=str(notes / "money.md")) == []
        assert (await node.call(context.context_check)).problems == []
        vector = vector_of("Cats", "# Cats\nThe cat sleeps on the sofa.")
        assert vector in files_of(tmp_path)

        forgotten = await node.call(context.context_forget, query="cat sleeps")
        assert forgotten.paths == [f"{notes}/pets.md"]
        assert all(one.path != f"{notes}/pets.md" for one in await found(node, QUESTION))
        await settled(node)
        assert vector not in files_of(tmp_path)
        assert (await node.call(context.context_check)).problems == []
        (notes / "more.md").write_text("zeppelin")  # once this is known, all was looked through again
        async with asyncio.timeout(20):
            while not await found(node, "zeppelin"):
                await asyncio.sleep(0.05)
        assert all(one.path != f"{notes}/pets.md" for one in await found(node, QUESTION))
        await node.call(context.context_add, str(notes))
        await settled(node)
        assert (await found(node, QUESTION))[0].path == f"{notes}/pets.md"

        await node.call(context.context_rebuild)
        await settled(node)
        assert (await found(node, QUESTION))[0].path == f"{notes}/pets.md"
        assert (await node.call(context.context_check)).problems == []


async def test_vectors_that_are_lost_or_damaged_are_made_again(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        await node.call(context.context_add, str(notes))
        async with asyncio.timeout(60):
            while not (await node.call(context.context)).vectors:
                await asyncio.sleep(0.01)
            for pid in pids_of(node):
                os.kill(pid, signal.SIGKILL)
        await settled(node)
        assert (await found(node, QUESTION))[0].path == f"{notes}/pets.md"

    for path in (tmp_path / "one/context/vectors").rglob("data/*"):
        path.write_bytes(b"damaged")
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        async with asyncio.timeout(60):
            while not any(one.path == f"{notes}/pets.md" for one in await found(node, QUESTION)):
                await asyncio.sleep(0.1)
        assert (await node.call(context.context_check)).problems == []


async def test_a_pause_outlasts_the_node(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        await node.call(context.context_add, str(notes))
        await settled(node)
        assert (await node.call(context.context_pause)).is_paused
    (notes / "new.md").write_text("zeppelin")
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        assert (await node.call(context.context)).is_paused
        assert await found(node, "zeppelin") == []
        assert not (await node.call(context.context_pause, False)).is_paused
        await settled(node)
        assert len(await found(node, "zeppelin")) == 1


async def test_changes_are_found_at_once(tmp_path, notes):
    """Folders are looked through when something changes in them, not only now and then."""
    async with nodes(tmp_path, Timing(context_look=1000), one={}) as devices:
        node = devices["one"]
        await node.call(context.context_add, str(notes))
        await settled(node)

        async def until(text, paths):
            async with asyncio.timeout(20):
                while sorted(one.path for one in await found(node, text)) != paths:
                    await asyncio.sleep(0.02)

        (notes / "deep/er").mkdir(parents=True)
        (notes / "deep/er/new.md").write_text("zeppelin")
        await until("zeppelin", [f"{notes}/deep/er/new.md"])
        (notes / "deep/er/new.md").write_text("airship")
        await until("airship", [f"{notes}/deep/er/new.md"])
        (notes / "deep/er/.part").write_text("dirigible")
        (notes / "deep/er/.part").replace(notes / "deep/er/new.md")
        await until("dirigible", [f"{notes}/deep/er/new.md"])
        (notes / "deep").rename(notes / "moved")
        await until("dirigible", [f"{notes}/moved/er/new.md"])
        (notes / "moved/er/new.md").rename(notes / "top.md")
        await until("dirigible", [f"{notes}/top.md"])
        (notes / ".ainetignore").write_text("top.md")
        await until("dirigible", [])
        (notes / ".ainetignore").unlink()
        await until("dirigible", [f"{notes}/top.md"])
        (notes / "top.md").unlink()
        await until("dirigible", [])


async def test_a_better_model_takes_over_and_another_one_its_place(tmp_path, notes):
    first = write_model(tmp_path / "first.gguf", name="first")
    by_name = {"embedding_model": "first", "model_paths": [str(first)]}
    async with nodes(tmp_path, QUICK, one=by_name) as devices:
        node = devices["one"]
        await node.call(context.context_add, str(notes))
        state = await settled(node)
        assert [one.name for one in state.vectors][1:] == ["first"]
        assert len(await found(node, QUESTION)) > 0
        await node.call(context.context_forget, str(notes / "pets.md"))
        assert [one.left for one in (await settled(node)).vectors] == [0, 0]
        assert (await node.call(context.context_check)).problems == []

    second = write_model(tmp_path / "second.gguf", seed=1, name="second")
    async with nodes(tmp_path, QUICK, one={"embedding_model": str(second)}) as devices:
        node = devices["one"]
        await found(node, QUESTION)
        async with asyncio.timeout(60):
            while [one.name for one in (await node.call(context.context)).vectors][1:] != ["second"]:
                await asyncio.sleep(0.05)
        await settled(node)
        assert (await node.call(context.context_check)).problems == []

    second.write_bytes(b"junk")
    async with nodes(tmp_path, QUICK, one={"embedding_model": str(second)}) as devices:
        node = devices["one"]
        (notes / "more.md").write_text("# Zeppelins\nAirships are filled with helium.\n")
        await found(node, QUESTION)
        async with asyncio.timeout(60):
            while not (state := await node.call(context.context)).vectors_failed or state.vectors[0].left:
                await asyncio.sleep(0.05)
        assert "second.gguf is not a usable GGUF file" in state.vectors_failed
        assert [one.name for one in state.vectors][1:] == ["second"]  # it is kept: the file may come back
        assert (await found(node, "What are airships filled with?"))[0].path == f"{notes}/more.md"
