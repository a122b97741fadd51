"""Shared notebooks: the same cells on several devices, in files and in jupyter-collaboration's live documents."""

from __future__ import annotations

import asyncio

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupyter_ydoc import YNotebook
from nbformat.sign import NotebookNotary
from support.desks import code, desks, part, shared
from support.servers import until

from ainet.api.notebooks import OpenedNotebook
from ainet.errors import NotFound, Refused, UsageError
from ainet.sharing.notebook_files import NotebookFiles

pytestmark = pytest.mark.usefixtures("own_jupyter")


def shown(document):
    """Return the sources of the cells in a shared document."""
    return [cell["source"] for cell in document.view(YNotebook).get()["cells"]]


async def test_a_shared_notebook_is_the_same_file_on_both(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        opened = await shared(ada, bob)
        assert opened == OpenedNotebook("plan", "plan.ipynb", read_only=False)
        assert bob.notebooks.all()[0].audience == ["swarm"]
        assert bob.sources("plan.ipynb") == ["1", "2"]
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        bob.write("plan.ipynb", code("a", "1"), code("b", "bob"), code("c", "3"))
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "bob", "3"], 15)


async def test_outputs_travel_and_cells_say_who_ran_them(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        output = nbformat.v4.new_output("stream", text="hello")
        bob.write("plan.ipynb", code("a", "1"), code("b", "2", execution_count=7, outputs=[output]))
        await until(lambda: any(cell.get("outputs") for cell in ada.read("plan.ipynb")), 15)
        ran = ada.read("plan.ipynb")[1]
        assert ran["execution_count"] == 7
        assert "".join(ran["outputs"][0]["text"]) == "hello"
        assert ran["metadata"]["ainet"]["device"] == bob.node.name
        assert "ainet" not in ada.read("plan.ipynb")[0]["metadata"]


async def test_a_reader_changes_nothing(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        assert (await shared(ada, bob, read_only=True)).read_only
        bob.write("plan.ipynb", code("a", "bob"))
        await until(lambda: bob.sources("plan.ipynb") == ["1", "2"], 15)  # as it is shared
        ada.write("plan.ipynb", code("a", "ada"))
        await until(lambda: bob.sources("plan.ipynb") == ["ada"], 15)
        # A reader's node that does not care is refused by the sharer's.
        document = bob.document("plan")
        link = await bob.node.links.connect(ada.node.id)
        from ainet.documents.exchange import PushUpdate

        with pytest.raises(Refused, match="may only be read"):
            await link.request(PushUpdate(document.name, document.doc.get_update()))


async def test_edits_made_apart_merge_when_the_devices_meet(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        await part(ada, bob)
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        bob.write("plan.ipynb", code("b", "2"), code("c", "bob"))
        await until(lambda: "'ada'" in str(ada.opened("plan")._base))
        await until(lambda: "bob" in str(bob.opened("plan")._base))
        await ada.node.links.connect(bob.node.id)
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "2", "bob"], 15)


async def test_of_a_cell_that_both_changed_apart_nothing_is_lost(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        await part(ada, bob)
        for desk, source in ((ada, "ada"), (bob, "bob")):
            for text in (source[:1], source):
                desk.write("plan.ipynb", code("a", text), code("b", "2"))
                await until(lambda desk=desk, text=text: f"'{text}'" in str(desk.opened("plan")._base))
        await ada.node.links.connect(bob.node.id)
        for desk in (ada, bob):
            await until(lambda desk=desk: sorted(desk.sources("plan.ipynb")) == ["2", "ada", "bob"], 15)
        await until(lambda: ada.read("plan.ipynb") == bob.read("plan.ipynb"))
        assert len({cell["id"] for cell in ada.read("plan.ipynb")}) == 3


async def test_what_a_user_trusts_is_not_trusted_elsewhere(tmp_path):
    script = nbformat.v4.new_output("display_data", data={"text/html": "<script>alert(1)</script>"})
    async with desks(tmp_path) as (ada, bob):
        # What the two trust is kept in one place for all servers of a user: here they are of two.
        bob.contents.notary = NotebookNotary(data_dir=str(tmp_path / "bob"), secret=b"another user's")
        await shared(ada, bob)
        found = nbformat.v4.new_notebook(cells=[code("a", "1", outputs=[script], metadata={"trusted": True})])
        await ada.contents.save({"type": "notebook", "content": found}, "plan.ipynb")  # as JupyterLab does
        await until(lambda: "alert" in str(bob.read("plan.ipynb")), 15)
        for desk, trusted in ((ada, True), (bob, False)):
            model = await desk.contents.get("plan.ipynb", type="notebook", content=True)
            assert model["content"]["cells"][0]["metadata"].get("trusted", False) is trusted
        assert "trusted" not in str(ada.document("plan").view(YNotebook).get())
        ada.write("plan.ipynb", code("a", "1", outputs=[script]), code("b", "more"))
        await until(lambda: bob.sources("plan.ipynb") == ["1", "more"], 15)
        model = await bob.contents.get("plan.ipynb", type="notebook", content=True)
        assert not model["content"]["cells"][0]["metadata"].get("trusted")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_another_program_saves_at_the_moment_of_writing_is_not_lost(tmp_path, monkeypatch, moment):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        files, saved = ada.notebooks.files, []
        read, write = files.read, files.write

        def save():
            if not saved and "bob" in str(ada.document("plan").view(YNotebook).get()):
                saved.append(ada.write("plan.ipynb", code("a", "ada"), code("b", "2")))

        async def before(path):
            found = await read(path)
            save()
            return found

        async def after(path, notebook):
            await write(path, notebook)
            save()

        monkeypatch.setattr(files, *{"before": ("read", before), "after": ("write", after)}[moment])
        bob.write("plan.ipynb", code("a", "1"), code("b", "bob"))
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "bob"], 15)
        assert saved


async def test_who_saves_while_others_changes_are_written_undoes_none_of_them(tmp_path, monkeypatch):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        files, saving = ada.notebooks.files, []
        write = files.write
        mine = nbformat.v4.new_notebook(cells=[code("a", "ada"), code("b", "2")])

        async def write_and_save(path, notebook):
            if not saving and "bob" in str(notebook):
                saving.append(asyncio.create_task(ada.contents.save({"type": "notebook", "content": mine}, path)))
                await asyncio.sleep(0)  # now it waits for its turn
            await write(path, notebook)

        monkeypatch.setattr(files, "write", write_and_save)
        bob.write("plan.ipynb", code("a", "1"), code("b", "bob"))
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "bob"], 15)
        await saving[0]


async def test_a_notebook_that_is_saved_while_others_change_it_stays_one(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        files = ada.notebooks.files
        for number in range(30):
            mine = nbformat.v4.new_notebook(cells=[code("a", f"{number} " * (20_000 - 600 * number))])
            theirs = {"cells": [code("b", "2 " * 600 * number)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}

            async def settle(theirs=theirs):
                async with files.turn("plan.ipynb"):
                    await files.write("plan.ipynb", theirs)

            async with asyncio.TaskGroup() as both:
                both.create_task(settle())
                both.create_task(ada.contents.save({"type": "notebook", "content": mine}, "plan.ipynb"))
            assert ada.read("plan.ipynb")
    assert "save" not in vars(ada.contents)


async def test_a_notebook_that_is_shared_no_more_stays_as_a_copy(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        with pytest.raises(NotFound, match="shares no notebook called"):
            await bob.notebooks.unshare("plan")
        await ada.notebooks.unshare("plan")
        await until(lambda: not bob.notebooks.all() and not bob.notebooks._open)
        ada.write("plan.ipynb", code("a", "ada alone"))
        assert bob.sources("plan.ipynb") == ["1", "2"]
        await ada.notebooks.share("plan.ipynb")
        await until(bob.notebooks.all)
        await bob.notebooks.open("plan", "again.ipynb")
        assert bob.sources("again.ipynb") == ["ada alone"]


async def test_what_cannot_be_shared_or_opened_is_said(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        with pytest.raises(NotFound, match=r"no notebook 'missing\.ipynb'"):
            await ada.notebooks.share("missing.ipynb")
        with pytest.raises(NotFound, match="Shared are: none"):
            await bob.notebooks.open("plan")
        bob.write("plan.ipynb", code("x", "mine"))
        with pytest.raises(UsageError, match="exists already"):
            await shared(ada, bob)
        assert bob.sources("plan.ipynb") == ["mine"]
        with pytest.raises(UsageError, match="shared by this device already"):
            await ada.notebooks.share("plan.ipynb")
        with pytest.raises(UsageError, match="cannot be the name"):
            await ada.notebooks.share("plan.ipynb", "a/b")


async def test_notebooks_of_one_name_are_never_mixed(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        for desk, source in ((ada, "ada's"), (bob, "bob's")):
            desk.write("plan.ipynb", code("same", source))
            await desk.notebooks.share("plan.ipynb")
        await until(lambda: len(ada.notebooks.all()) == 2 and len(bob.notebooks.all()) == 2)
        with pytest.raises(UsageError, match="Say which: plan@"):
            await ada.notebooks.open("plan", "other.ipynb")
        await ada.notebooks.open("plan@bob", "other.ipynb")
        assert ada.sources("other.ipynb") == ["bob's"]
        assert (ada.sources("plan.ipynb"), bob.sources("plan.ipynb")) == (["ada's"], ["bob's"])
        # What is shared anew under the same name is another document.
        await bob.notebooks.unshare("plan")
        bob.write("plan.ipynb", code("same", "bob's second"))
        await bob.notebooks.share("plan.ipynb", read_only=True)
        await until(lambda: any(one.read_only for one in ada.notebooks.all()))
        await until(lambda: [one.path for one in ada.notebooks._open.values()] == ["plan.ipynb"])
        assert (await ada.notebooks.open("plan@bob", "third.ipynb")).read_only
        assert ada.sources("third.ipynb") == ["bob's second"]
        assert ada.sources("other.ipynb") == ["bob's"]


async def test_a_file_that_cannot_be_written_reverts_nothing(tmp_path, monkeypatch):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        files = bob.notebooks.files
        honest = files.write

        async def full(_path, _content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "write", full)
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        await until(lambda: "ada" in shown(bob.document("plan")))
        bob.write("plan.ipynb", code("a", "1"), code("b", "bob"))
        await until(lambda: "bob" in ada.sources("plan.ipynb"), 15)
        monkeypatch.setattr(files, "write", honest)
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "bob"], 15)


async def test_a_restart_goes_on_with_what_was_changed_meanwhile(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        await shared(ada, bob)
        document = bob.document("plan")
        await bob.notebooks.stop()
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        await until(lambda: "ada" in shown(document))
        bob.write("plan.ipynb", code("a", "1"), code("b", "2"), code("c", "bob"))
        bob.node.notebooks = again = bob.node.notebooks_of(bob.contents, bob.notebooks._live)
        await again.start()
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "2", "bob"], 15)


async def test_live_documents_of_two_servers_are_one(tmp_path, caplog):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        here, there = await ada.live("plan.ipynb"), await bob.live("plan.ipynb")
        await until(lambda: all(desk.opened("plan")._room is not None for desk in (ada, bob)))

        def sources(live):
            return [cell["source"] for cell in live.get()["cells"]]

        text = here.ycells[0]["source"]
        for letter in "hello":
            text += letter
        await until(lambda: sources(there) == ["1hello", "2"])
        source = there.ycells[1]["source"]
        source += "!"
        there.append_cell({"id": "n", "cell_type": "markdown", "source": "new", "metadata": {}})
        text += " world"
        for live in (here, there):
            await until(lambda live=live: sources(live) == ["1hello world", "2!", "new"])
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["1hello world", "2!", "new"], 15)
        assert "not up to date" not in caplog.text


async def test_a_synchronous_contents_manager_is_as_good(tmp_path):
    contents = LargeFileManager(root_dir=str(tmp_path))
    files = NotebookFiles(contents)
    assert not await files.exists("plan.ipynb")
    async with files.turn("plan.ipynb"):
        await files.write("plan.ipynb", nbformat.v4.new_notebook(cells=[code("a", "1")]))
    found, changed = await files.read("plan.ipynb")
    assert [cell["source"] for cell in found["cells"]] == ["1"]
    assert changed == await files.changed("plan.ipynb")
    files.close()
    assert contents.save.__self__ is contents
