"""A node knows its owner's files: added, found, kept up to date, forgotten."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from support.disk import all_bytes
from support.local_nodes import nodes
from support.nodes import ainet, answer_of

from ainet.api import context
from ainet.api.node import status
from ainet.errors import NotFound, UsageError
from ainet.timing import Timing

QUICK = Timing(context_look=0.2, context_idle=0.5, vectors_idle=0.5)


@pytest.fixture
def notes(tmp_path):
    """A folder with a program, a notebook's worth of prose, and what must not be read."""
    root = tmp_path / "notes"
    (root / "billing").mkdir(parents=True)
    (root / "billing/invoice.py").write_text(
        "def total(prices):\n    return sum(prices)\n\n\ndef vat(price):\n    return 0.19 * price\n"
    )
    (root / "cellar.md").write_text("# Cellar\nThe pump was replaced in May.\n\n# Attic\nThe laptop is there.\n")
    (root / ".env").write_text("PASSWORD=quagmire")
    (root / "broken.ipynb").write_text("{")
    return root


async def known(node):
    """Wait until all folders are known."""
    async with asyncio.timeout(60):
        while True:
            state = await node.call(context.context)
            if not any(folder.is_reading for folder in state.folders):
                return state
            await asyncio.sleep(0.05)


async def found(node, text, **options):
    return [
        (one.path, one.line, one.end_line, one.name) for one in (await node.call(context.find, text, **options)).results
    ]


async def until_found(node, text, expected):
    async with asyncio.timeout(30):
        while [path for path, *_ in await found(node, text)] != expected:
            await asyncio.sleep(0.05)


async def test_files_are_found_with_their_lines_as_they_change(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        with pytest.raises(UsageError, match="ainet context add PATH"):
            await node.call(context.find, "anything")
        assert (await node.call(context.context)).folders == []
        for verb, arguments in ((context.context_remove, (str(notes),)), (context.context_check, ())):
            with pytest.raises(UsageError, match="knows no files yet"):
                await node.call(verb, *arguments)
        assert not (tmp_path / "one/context").exists()
        await node.call(context.context_add, str(notes))
        (folder,) = (await known(node)).folders
        assert (folder.files, folder.problems, folder.failed) == (2, 1, "")
        assert (await found(node, "value added tax, vat"))[0] == (f"{notes}/billing/invoice.py", 5, 6, "vat")
        assert (await found(node, "when was the pump replaced"))[0] == (f"{notes}/cellar.md", 1, 2, "Cellar")
        assert await found(node, "pump laptop", folder=str(notes / "billing")) == []
        assert len(await found(node, "pump laptop", folder=str(notes), kind="section")) == 2
        assert await found(node, "quagmire") == []

        (notes / "cellar.md").write_text("# Cellar\nThe boiler is new.\n")
        (notes / "new.txt").write_text("zeppelin")
        await until_found(node, "boiler", [f"{notes}/cellar.md"])
        await until_found(node, "zeppelin", [f"{notes}/new.txt"])
        assert await found(node, "pump") == []
        (notes / "new.txt").rename(notes / "moved.txt")
        await until_found(node, "zeppelin", [f"{notes}/moved.txt"])

        await node.call(context.context_remove, str(notes))
        assert await found(node, "zeppelin") == []
        assert b"zeppelin" not in all_bytes(tmp_path / "one/context")
        with pytest.raises(NotFound, match="was not added"):
            await node.call(context.context_remove, str(notes))


async def test_what_cannot_be_added_is_refused_in_words(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        with pytest.raises(NotFound, match="gone is not there"):
            await node.call(context.context_add, str(tmp_path / "gone"))
        with pytest.raises(UsageError, match="is not a whole path"):
            await node.call(context.context_add, "notes")
        with pytest.raises(UsageError, match="belongs to the node itself"):
            await node.call(context.context_add, str(tmp_path / "one"))
        await node.call(context.context_add, str(notes / "billing"))
        with pytest.raises(UsageError, match="are parts of each other"):
            await node.call(context.context_add, str(notes))
        await node.call(context.context_add, str(notes / "billing"), "private")
        assert [folder.label for folder in (await known(node)).folders] == ["private"]


async def test_the_worker_that_reads_is_given_back_and_its_end_loses_nothing(tmp_path, notes):
    async with nodes(tmp_path, QUICK, one={}) as devices:
        node = devices["one"]
        for number in range(60):
            (notes / f"{number}.py").write_text(f"def function{number}(): return {number}\n" * 200)
        await node.call(context.context_add, str(notes))
        async with asyncio.timeout(60):
            while not (pids := _reading(node)):
                await asyncio.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        (folder,) = (await known(node)).folders
        assert (folder.files, folder.problems) == (62, 1)
        async with asyncio.timeout(30):
            while _reading(node):
                await asyncio.sleep(0.05)
        assert (await node.call(status)).node.name == "one"


def _reading(node):
    """The processes that read files for the context, or have its vectors."""
    return [lease.worker.pid for lease in node.stages.worker_pool._leases.values()]


async def test_a_node_that_is_stopped_in_the_middle_goes_on_later(tmp_path, notes):
    for number in range(200):
        path = notes / f"{number}.py"
        path.write_text(f"def function{number}(): return {number}\n" * 100)
        os.utime(path, (1_700_000_000, 1_700_000_000))  # what has just been written is read once more
    async with nodes(tmp_path, QUICK, one={}) as devices:
        await devices["one"].call(context.context_add, str(notes))
        async with asyncio.timeout(60):
            while (await devices["one"].call(context.context)).folders[0].done < 20:
                await asyncio.sleep(0.01)
    async with nodes(tmp_path, QUICK, one={}) as devices:
        (folder,) = (await known(devices["one"])).folders
        assert folder.files == 202
        assert folder.total < 190
        assert len(await found(devices["one"], "function150")) > 0


def test_the_commands(node_dir, notes):
    assert "knows no files yet" in ainet("context", data_dir=node_dir).stdout
    added = ainet("context", "add", str(notes), "--wait", data_dir=node_dir).stdout
    assert str(notes) in added
    assert "broken.ipynb is not JSON" in added
    shown = ainet("find", "pump replaced", data_dir=node_dir).stdout
    assert f"1. {notes}/cellar.md:2  section Cellar" in shown
    assert "    The pump was replaced in May." in shown
    (one,) = answer_of(ainet("find", "vat", "--in", str(notes), "--kind", "function", "--json", data_dir=node_dir))[
        "results"
    ]
    assert (one["path"], one["line"], one["end_line"], one["cell"]) == (f"{notes}/billing/invoice.py", 5, 6, "")
    assert one["text"].startswith("def vat")
    assert "Nothing was found" in ainet("find", "unicorn", data_dir=node_dir).stdout
    assert (
        "is not read: it is not JSON" in ainet("context", "why", str(notes / "broken.ipynb"), data_dir=node_dir).stdout
    )
    (link := notes.parent / "link").symlink_to(notes)
    assert "in no folder that was added" in ainet("context", "why", "/etc/hosts", data_dir=node_dir).stdout
    assert "knows no files yet" in ainet("context", "remove", str(link), data_dir=node_dir).stdout
