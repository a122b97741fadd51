"""The owner's devices know each other's documents, contacts what is shared with them, and nobody more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil

import numpy as np
import pytest
from support.disk import all_bytes
from support.embedding import WIDTH, write_model
from support.local_nodes import SMALL, ask, nodes

from ainet.api import contacts, context, swarm
from ainet.api.node import status
from ainet.config import AinetConfig
from ainet.errors import AinetError, NotFound, ProtocolError, Refused, UsageError
from ainet.links.standing import Standing
from ainet.node.node import Node
from ainet.replication.requests import ReadContent, SyncJournals
from ainet.storage.hybrid import HybridStorage
from ainet.timing import Timing
from ainet.vectors.table import STORED, VectorTables

QUICK = Timing(context_look=0.2, context_idle=0.5, vectors_idle=0.5, context_gather=0.05, context_again=0.2)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)
    return folder


async def found(node, text, **options):
    return [(one.device, one.path) for one in (await node.call(context.find, text, **options)).results]


async def until(condition):
    async with asyncio.timeout(120):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_found(node, text, expected, **options):
    last = None

    async def is_found():
        nonlocal last
        with contextlib.suppress(UsageError):  # nothing is known yet
            last = await found(node, text, **options)
        return last == expected

    try:
        await until(is_found)
    except TimeoutError:
        assert last == expected


async def until_here(node, *expected):
    """Wait until as much of other devices is here: their names, documents, those that are here, and passages."""

    async def is_here():
        devices = (await node.call(context.context)).devices
        return [(one.name, one.documents, one.here, one.passages) for one in devices] == list(expected)

    await until(is_here)


@contextlib.asynccontextmanager
async def again(tmp_path, name):
    """A node once more, after it was stopped."""
    config = AinetConfig(data_dir=str(tmp_path / name), name=name, **SMALL)
    node = Node(config, log=logging.getLogger(name), timing=QUICK)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def test_a_device_finds_what_another_one_has_also_without_it(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump hums.\n", attic="# Attic\nA zeppelin.\n")
    async with nodes(tmp_path, QUICK, one={}, two={}, three={}) as devices:
        one, two, three = devices.values()
        await one.call(context.context_add, str(notes))
        for node in (two, three):
            await until_found(node, "pump", [("one", f"{notes}/cellar.md")])
        for node in (two, three):
            await until_here(node, ("one", 2, 2, 2))
        assert await found(two, "pump", folder="one:") == [("one", f"{notes}/cellar.md")]
        assert await found(two, "pump", folder=f"one:{notes}") == [("one", f"{notes}/cellar.md")]
        assert await found(two, "pump", folder=str(notes)) == []
        with pytest.raises(NotFound, match="No device is called 'four'"):
            await found(two, "pump", folder="four:")
        with pytest.raises(UsageError, match="forgotten there"):
            await two.call(context.context_forget, f"one:{notes}")
        assert (await two.call(context.context_forget, query="pump hums")).elsewhere == [f"one:{notes}/cellar.md"]
        await one.stop()
        assert (await two.call(context.find, "zeppelin")).unasked == []
        await until_found(two, "zeppelin", [("one", f"{notes}/attic.md")])


async def test_changes_moves_and_labels_reach_the_other_devices(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump hums.\n", attic="# Attic\nA zeppelin.\n")
    async with nodes(tmp_path, QUICK, one={}, two={}) as devices:
        one, two = devices.values()
        await one.call(context.context_add, str(notes), "private")
        write(tmp_path / "diary", today="A quagmire.\n")
        await one.call(context.context_add, str(tmp_path / "diary"))
        await until_found(two, "quagmire", [("one", str(tmp_path / "diary/today.md"))])
        assert await found(two, "pump") == []
        assert await found(one, "pump") == [("", f"{notes}/cellar.md")]
        await one.call(context.context_add, str(notes))  # without a word about it, the label stays
        folders = {folder.path: folder.label for folder in (await one.call(context.context)).folders}
        assert folders == {str(notes): "private", str(tmp_path / "diary"): "swarm"}
        await one.call(context.context_add, str(notes), "swarm")
        await until_found(two, "pump", [("one", f"{notes}/cellar.md")])
        (notes / "cellar.md").write_text("# Cellar\nThe boiler is new.\n")
        await until_found(two, "boiler", [("one", f"{notes}/cellar.md")])
        await until_found(two, "pump", [])
        (notes / "cellar.md").rename(notes / "basement.md")
        await until_found(two, "boiler", [("one", f"{notes}/basement.md")])
        (notes / "attic.md").unlink()
        await until_found(two, "zeppelin", [])
        await one.call(context.context_add, str(notes), "private")
        await until_found(two, "boiler", [])
        await until_found(two, "quagmire", [("one", str(tmp_path / "diary/today.md"))])


async def test_what_is_forgotten_leaves_the_disk_of_a_member_that_was_away(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe quagmire hums.\n", attic="# Attic\nA zeppelin.\n")
    async with nodes(tmp_path, QUICK, one={}, two={}) as devices:
        one, two = devices.values()
        await one.call(context.context_add, str(notes))
        await until_here(two, ("one", 2, 2, 2))
        await two.stop()
        assert b"quagmire" in all_bytes(tmp_path / "two/context")
        await one.call(context.context_forget, str(notes / "cellar.md"))
        assert b"quagmire" not in all_bytes(tmp_path / "one/context")
        async with again(tmp_path, "two") as two_again:
            await until_found(two_again, "quagmire", [])

            async def is_gone():
                state = await two_again.call(context.context)
                gone = await asyncio.to_thread(lambda: b"quagmire" not in all_bytes(tmp_path / "two/context"))
                return gone and not any(one.owed for one in state.vectors)

            await until(is_gone)
            assert await found(two_again, "zeppelin") == [("one", f"{notes}/attic.md")]
            for secret in (b"attic", b"zeppelin", b"notes"):
                assert not any(secret in (tmp_path / name / "logs.sqlite").read_bytes() for name in ("one", "two"))


async def test_what_does_not_fit_is_asked_for_and_who_is_away_is_named(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump hums.\n" * 20, attic="# Attic\nA zeppelin.\n")
    async with nodes(tmp_path, QUICK, one={}, two={"context_disk": "0"}, three={"context_disk": "3kB"}) as devices:
        one, two, three = devices.values()
        await one.call(context.context_add, str(notes))
        await until_found(two, "pump", [("one", f"{notes}/cellar.md")])
        assert b"pump" not in all_bytes(tmp_path / "two/context")
        assert await found(two, "pump", alone=True) == []
        await until_here(three, ("one", 2, 1, 1))
        assert await found(three, "pump") == [("one", f"{notes}/cellar.md")]
        await one.stop()
        for node in (two, three):
            answer = await node.call(context.find, "pump")
            assert (answer.results, answer.unasked) == ([], ["one"])
        assert await found(three, "zeppelin") == [("one", f"{notes}/attic.md")]


async def test_a_member_that_is_removed_takes_its_documents_along(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe quagmire hums.\n")
    async with nodes(tmp_path, QUICK, one={}, two={}) as devices:
        one, two = devices.values()
        await two.call(context.context_add, str(notes))
        await until_here(one, ("two", 1, 1, 1))
        assert await found(one, "quagmire") == [("two", f"{notes}/cellar.md")]
        await one.call(swarm.remove, "two")
        await until_found(one, "quagmire", [])
        await until(lambda: asyncio.to_thread(lambda: b"quagmire" not in all_bytes(tmp_path / "one/context")))


async def test_a_device_restored_from_a_backup_agrees_with_the_others_again(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump hums.\n", attic="# Attic\nA zeppelin.\n")
    async with nodes(tmp_path, QUICK, one={}, two={}) as devices:
        one, two = devices.values()
        await one.call(context.context_add, str(notes))
        await until_here(two, ("one", 2, 2, 2))
        await one.stop()
        shutil.copytree(tmp_path / "one", tmp_path / "backup")
        async with again(tmp_path, "one") as one:
            (notes / "attic.md").unlink()
            write(notes, garden="# Garden\nA quagmire.\n")
            await until_found(two, "quagmire", [("one", f"{notes}/garden.md")])
            await until_found(two, "zeppelin", [])
        shutil.rmtree(tmp_path / "one")
        shutil.copytree(tmp_path / "backup", tmp_path / "one")
        write(notes, attic="# Attic\nA zeppelin.\n")
        (notes / "garden.md").unlink()
        async with again(tmp_path, "one"):
            await until_found(two, "zeppelin", [("one", f"{notes}/attic.md")])
            await until_found(two, "quagmire", [])
            await until_here(two, ("one", 2, 2, 2))


async def test_a_contact_finds_what_is_shared_with_it_where_it_asks_for_that(tmp_path):
    recipes = write(tmp_path / "recipes", bread="# Bread\nThe dough rests for an hour.\n")
    diary = write(tmp_path / "diary", today="# Today\nThe dough was a quagmire.\n")
    async with nodes(tmp_path / "ada", QUICK, ada={}) as here, nodes(tmp_path / "bob", QUICK, bob={}) as there:
        (ada,), (bob,) = here.values(), there.values()
        await bob.call(contacts.accept, (await ada.call(contacts.introduce)).ticket)
        with pytest.raises(UsageError, match="whom it is shared with"):
            await ada.call(context.context_add, str(recipes), "shared")
        with pytest.raises(NotFound, match=r"No contact is called 'eve'\. Contacts are: bob"):
            await ada.call(context.context_add, str(recipes), "shared", ("eve",))
        assert await found(bob, "dough", folder="ada:") == []
        await ada.call(context.context_add, str(diary))
        await ada.call(context.context_add, str(recipes), "shared", ("bob",))
        await until_found(bob, "dough", [("ada", "recipes/bread.md")], folder="ada:")
        await until_found(ada, "quagmire", [("", f"{diary}/today.md")])
        (passage,) = (await bob.call(context.find, "dough", folder="ada:")).results
        assert (passage.text, passage.line) == ("# Bread\nThe dough rests for an hour.", 1)
        assert await found(bob, "dough", folder="ada:recipes") == [("ada", "recipes/bread.md")]
        assert await found(bob, "dough", folder="ada:diary") == []
        assert await found(bob, "quagmire", folder="ada:") == []
        quoted = await bob.call(context.quote, "How long does the dough rest?", folder="ada:")
        assert [(one.device, one.best_line) for one in quoted.results] == [("ada", 2)]
        with pytest.raises(UsageError, match="ada would have to be asked"):
            await found(bob, "dough", folder="ada:", alone=True)
        # Nothing of it comes in by itself.
        mine = write(tmp_path / "mine", rest="# Rest\nA rest is good.\n")
        await bob.call(context.context_add, str(mine))
        await until_found(bob, "rest", [("", f"{mine}/rest.md")])
        assert (await bob.call(context.context)).devices == []
        (folder, _) = sorted((await ada.call(context.context)).folders, key=lambda one: one.label)
        assert (folder.label, folder.shared_with) == ("shared", ["bob"])
        # What is wrong here is not told in words that name files.
        storage = ada._grounded._context._opened.storage

        def fails(_node):
            raise AinetError(f"{tmp_path}/context.sqlite is damaged")

        storage.for_contact = fails
        with pytest.raises(Refused, match="cannot look anything up now"):
            await found(bob, "dough", folder="ada:")
        del storage.for_contact
        # Contacts get no journals.
        link = await bob.links.connect(ada.id, Standing.CONTACT)
        for request in (SyncJournals({}), ReadContent(ada.id, b"x" * 16, 1)):
            with pytest.raises(ProtocolError, match="does not know the request"):
                await link.request(request)
        await ada.call(contacts.forget, "bob")
        with pytest.raises(AinetError):
            await found(bob, "dough", folder="ada:")
        await bob.call(contacts.accept, (await ada.call(contacts.introduce)).ticket)
        assert await found(bob, "dough", folder="ada:") == []


async def test_what_was_for_one_swarm_is_not_for_the_next(tmp_path):
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe quagmire hums.\n")
    async with nodes(tmp_path / "ada", QUICK, ada={}, eve={}) as here, nodes(tmp_path / "bob", QUICK, bob={}) as there:
        (ada, eve), (bob,) = here.values(), there.values()
        await eve.call(context.context_add, str(notes))
        await until_here(ada, ("eve", 1, 1, 1))
        other = write(tmp_path / "other", attic="# Attic\nA zeppelin.\n")
        await ada.call(context.context_add, str(other))
        await until_here(eve, ("ada", 1, 1, 1))
        await ada.call(swarm.remove, "eve")
        await until_found(ada, "quagmire", [])
        await eve.call(swarm.join, (await bob.call(swarm.invite)).ticket)
        assert [folder.label for folder in (await eve.call(context.context)).folders] == ["private"]
        await until_found(eve, "zeppelin", [])  # it was ada's
        assert await found(eve, "quagmire") == [("", f"{notes}/cellar.md")]
        await eve.call(context.context_add, str(notes), "swarm")
        await until_here(bob, ("eve", 1, 1, 1))


async def test_vectors_that_take_long_are_made_once(tmp_path):
    """Those of one device are another's, too: random ones here, which no model makes."""
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump hums.\n", attic="# Attic\nA zeppelin.\n")
    model = {"embedding_model": str(write_model(tmp_path / "model.gguf"))}
    async with nodes(tmp_path, QUICK, one=model) as devices:
        await devices["one"].call(context.context_add, str(notes))
        await until_embedded(devices["one"])
    vectors = np.random.default_rng(7).normal(size=(2, WIDTH)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(STORED)
    replace_vectors(tmp_path / "one/context", vectors)
    async with nodes(tmp_path, QUICK, one=model, two=model) as devices:
        await until_found(devices["two"], "pump", [("one", f"{notes}/cellar.md")])
        await until_embedded(devices["two"])
        assert (await devices["two"].call(context.context_check)).problems == []
        (notes / "new.md").write_text("A quagmire.\n")  # has no vector yet
        await until_found(devices["two"], "quagmire", [("one", f"{notes}/new.md")])
        await until_embedded(devices["two"])
    kept = all_bytes(tmp_path / "two/context/vectors")
    assert all(one.tobytes() in kept for one in vectors)


async def until_embedded(node):
    async def is_embedded():
        found = (await node.call(context.context)).vectors
        return len(found) == 2 and not any(one.left for one in found)

    await until(is_embedded)


def replace_vectors(folder, vectors):
    """Put others in place of those that the better model has made."""
    storage = HybridStorage(folder)
    index = storage.indexes()[1]
    storage.close()
    tables = VectorTables(folder / "vectors")
    passages = tables.passages(index.table)
    assert len(passages) == len(vectors)
    tables.keep_only([name for name in tables._names() if name != index.table])
    tables.add(index.table, passages, vectors)


async def test_members_keep_no_prompts_with_what_was_forgotten(tmp_path, smollm2_path):
    """The model is on one device, and the notes on the other, which asks the former."""
    notes = write(tmp_path / "notes", cellar="# Cellar\nThe pump in the cellar hums.\n", attic="A zeppelin.\n")
    model = {"model": str(smollm2_path), "memory": "2GB"}
    asks = {"context": "auto", "max_tokens": 2}
    async with nodes(tmp_path, QUICK, one={"memory": "10MB"}, two=model) as devices:
        one, two = devices.values()
        await one.call(context.context_add, str(notes))
        await until_found(one, "pump", [("", f"{notes}/cellar.md")])

        async def is_loaded_there():
            return bool((await two.call(status)).pipelines) and any(
                peer.pipelines for peer in await one.call(swarm.peers)
            )

        async def is_gone_there():
            return not (await two.call(status)).pipelines

        await ask(two, max_tokens=2)
        await until(is_loaded_there)
        await ask(one, text="Does the pump in the cellar hum?", model=str(smollm2_path), **asks)
        assert not (await one.call(status)).pipelines
        await one.call(context.context_forget, str(notes / "cellar.md"))
        await until(is_gone_there)

        # Where no passage of it was sent, what is loaded stays.
        await ask(two, max_tokens=2)
        await until(is_loaded_there)
        await one.call(context.context_forget, str(notes / "attic.md"))
        await ask(two, max_tokens=2)
        assert (await two.call(status)).pipelines
