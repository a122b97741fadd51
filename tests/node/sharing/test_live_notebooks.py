"""Shared notebooks while jupyter-collaboration's live documents of them are open."""

from __future__ import annotations

import asyncio
from collections import Counter

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server_ydoc.rooms import DocumentRoom
from jupyter_ydoc import YNotebook
from pycrdt import Map, Text
from support.desks import code, desks, part, shared
from support.servers import until

from ainet.sharing.cell_changes import merge_texts, with_their_changes
from ainet.sharing.notebook_files import NotebookFiles
from ainet.sharing.notebook_merge import without_trust

pytestmark = pytest.mark.usefixtures("own_jupyter")


def sources(live):
    return [cell["source"] for cell in live.get()["cells"]]


def agreed(desk):
    """Return the shared document of the notebook, as the desk's node has it."""
    return str(desk.document("plan").view(YNotebook).get())


async def write_in(live, index, text, desk=None):
    """Append text to a cell, letter by letter; each one is shared before the next, if the desk is given."""
    source = live.ycells[index]["source"]
    for letter in text:
        source += letter
        if desk is not None:
            await until(lambda: sources(live)[index] in agreed(desk))


async def live_at(*where):
    """Open the notebook at each desk, as JupyterLab does; return when the nodes have noticed."""
    opened = [await desk.live("plan.ipynb") for desk in where]
    await until(lambda: all(desk.opened("plan")._room is live for desk, live in zip(where, opened, strict=True)))
    return opened


async def leave(desk, live):
    """Close the live document, as jupyter-collaboration does when nobody has had it open for a while."""
    ydoc = desk.served.app.web_app.settings["jupyter_server_ydoc"]
    room = next(room for room in ydoc.ywebsocket_server.rooms.values() if room._document is live)
    await ydoc.ywebsocket_server.delete_room(room=room)
    room._update_send_stream.close()  # which pycrdt leaves to the garbage collector
    await ydoc.file_loaders.remove(room._file.file_id)


def hold(monkeypatch, desk):
    """Let the desk's node look for live documents no more, until the returned event is set."""
    notebook, seen = desk.opened("plan"), asyncio.Event()
    look = notebook._live

    async def later(path):
        await seen.wait()
        return await look(path)

    monkeypatch.setattr(notebook, "_live", later)
    return seen


async def late(monkeypatch, ada, bob):
    """Save Ada's notebook while Bob's change is written there; then open it, before her node looks again."""
    files, saving = ada.notebooks.files, []
    write = files.write
    mine = nbformat.v4.new_notebook(cells=[code("a", "ada"), code("b", "2")])

    async def write_and_save(path, notebook):
        if not saving and "bob" in str(notebook):
            saving.append(asyncio.create_task(ada.contents.save({"type": "notebook", "content": mine}, path)))
            saving.append(hold(monkeypatch, ada))
            await asyncio.sleep(0)  # now it waits for its turn
        await write(path, notebook)

    monkeypatch.setattr(files, "write", write_and_save)
    bob.write("plan.ipynb", code("a", "1"), code("b", "bob"))
    await until(lambda: len(saving) == 2, 15)
    await saving[0]
    live = await ada.live("plan.ipynb")
    assert sources(live) == ["ada", "2"]
    saving[1].set()
    return live


async def early(monkeypatch, ada, bob):
    """Open Ada's notebook just before Bob's change is written there."""
    files, opened = ada.notebooks.files, []
    write = files.write

    async def open_and_write(path, notebook):
        if not opened and "bob" in str(notebook):
            opened.append(await ada.live(path))
            assert sources(opened[0]) == ["1", "2"]
        await write(path, notebook)

    monkeypatch.setattr(files, "write", open_and_write)
    bob.write("plan.ipynb", code("a", "1"), code("b", "bob"))
    await until(lambda: opened, 15)
    return opened[0]


async def test_what_two_type_in_one_cell_at_the_same_time_is_there_once(tmp_path):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        here, there = await live_at(ada, bob)
        await write_in(here, 0, "ä☂😀")
        await until(lambda: sources(there) == ["1ä☂😀", "2"])
        for number in range(20):
            here.ycells[0]["source"].insert(number, "a")
            await write_in(there, 0, "ö")
            await write_in(there, 1, "b")
            await write_in(here, 1, "a")
            for _ in range(number % 4):  # each time at another moment of the exchange
                await asyncio.sleep(0)
        for live in (here, there):
            await until(lambda live=live: len("".join(sources(live))) == 85, 15)
        assert sources(here) == sources(there)
        assert sources(here)[0] == "a" * 20 + "1ä☂😀" + "ö" * 20
        assert Counter(sources(here)[1]) == {"2": 1, "a": 20, "b": 20}
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == sources(here), 15)


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        ("ab", "xab", "aby", "xaby"),
        ("ab", "aby", "xab", "xaby"),
        ("ab", "abx", "aby", "abyx"),  # as they have it, and what was typed here
        ("a b c", "a c", "a b c d", "a c d"),
        ("a b c", "a b", "b c", "b"),
        ("ab", "abc", "abc", "abc"),
        ("ab", "ax", "ay", "ax"),  # both replaced it
        ("ab", "", "abc", "c"),
        ("a\nb\nc\n", "a\nB\nc\n", "A\nb\nC\n", "A\nB\nC\n"),
        ("a\nb\nc", "x\na\nb", "a\nb\nc\ny", "x\na\nb\ny"),
        ("", "mine\n", "theirs\n", "theirs\nmine\n"),
    ],
)
def test_texts_that_both_changed(base, mine, theirs, merged):
    assert merge_texts(base, mine, theirs) == merged


@given(st.lists(st.sampled_from(["base", "mine", "theirs", "mine, longer"]), max_size=12), st.data())
def test_of_different_lines_every_change_stays(kinds, data):
    base = [f"line {i}\n" for i in range(len(kinds))]
    mine, theirs, merged = list(base), list(base), list(base)
    for i, kind in enumerate(kinds):
        if kind != "base":
            side = theirs if kind == "theirs" else mine
            side[i] = merged[i] = data.draw(st.sampled_from([f"{kind} {i}\n", f"{kind} {i}\n{kind}\n"]))
    assert merge_texts(*map("".join, (base, mine, theirs))) == "".join(merged)


def test_what_others_did_to_a_cell_that_was_run_here_stays():
    ran = {"outputs": [nbformat.v4.new_output("stream", text="hello")], "execution_count": 3}

    def notebook(source, **options):
        return nbformat.v4.new_notebook(cells=[code("a", source, **options)])

    for mine, theirs in ((notebook("x", **ran), notebook("xy")), (notebook("xy"), notebook("x", **ran))):
        [cell] = with_their_changes(notebook("x"), mine, theirs)["cells"]
        assert cell == notebook("xy", **ran)["cells"][0]


async def test_what_is_typed_in_a_cell_that_prints_stays(tmp_path):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        here, there = await live_at(ada, bob)
        for number in range(30):
            output(here, f"{number}\n")
            source = there.ycells[0]["source"]
            source += "b"
            for _ in range(number % 4):
                await asyncio.sleep(0)
        for live in (here, there):
            await until(lambda live=live: sources(live)[0] == "1" + "b" * 30, 15)
            await until(lambda live=live: text_of(live) == "".join(f"{n}\n" for n in range(20, 30)), 15)


def output(live, text):
    """Print in the first cell, as JupyterLab does for a kernel; every tenth time the cell is run anew."""
    cell = live.ycells[0]
    if text.endswith("0\n"):
        cell["outputs"].clear()
        cell["execution_count"] = int(text) + 1
        cell["outputs"].append(Map({"output_type": "stream", "name": "stdout", "text": Text(text)}))
    else:
        printed = cell["outputs"][0]["text"]
        printed += text


def text_of(live):
    return "".join(output["text"] for output in live.get_cell(0)["outputs"])


async def test_what_is_typed_apart_merges_when_the_devices_meet(tmp_path, caplog):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        here, there = await live_at(ada, bob)
        for name in ("kept", "gone"):
            here.append_cell(code(name, name))
        await until(lambda: sources(there) == ["1", "2", "kept", "gone"])
        await part(ada, bob)
        await write_in(here, 0, " only ada", ada)
        await write_in(here, 1, " by ada", ada)
        del here.ycells[2]
        here.append_cell(code("x", "new at ada's"))
        await write_in(there, 1, " by bob", bob)
        await write_in(there, 2, " by bob", bob)
        del there.ycells[3]
        there.ycells.insert(0, there.create_ycell(code("y", "new at bob's")))
        merged = sorted(["1 only ada", "2 by ada", "2 by bob", "kept by bob", "new at ada's", "new at bob's"])
        await until(lambda: "new at ada's" in agreed(ada) and "new at bob's" in agreed(bob))
        assert not any("ada" in text for text in sources(there))
        await ada.node.links.connect(bob.node.id)
        for live in (here, there):
            await until(lambda live=live: sorted(sources(live)) == merged)
        await until(lambda: without_trust(here.get()) == without_trust(there.get()))
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == sources(here), 15)
        assert ada.read("plan.ipynb") == bob.read("plan.ipynb")
        assert len({cell["id"] for cell in here.get()["cells"]}) == len(merged)
        for live, text in ((here, "!"), (there, "?")):
            await write_in(live, 0, text)
        for live in (here, there):
            await until(lambda live=live: sources(live)[0] in ("new at bob's!?", "new at bob's?!"))
        assert "not up to date" not in caplog.text


async def test_what_a_reader_types_is_put_back(tmp_path, caplog):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        assert (await shared(ada, bob, read_only=True)).read_only
        here, there = await live_at(ada, bob)
        states = [desk.document("plan").state for desk in (ada, bob)]
        await write_in(there, 0, "bob")
        there.append_cell(code("n", "bob's"))
        del there.ycells[1]
        assert sources(there) == ["1bob", "bob's"]
        await until(lambda: sources(there) == ["1", "2"])
        # Nobody can learn of it: it is not in the shared document, not even in the reader's copy.
        assert [desk.document("plan").state for desk in (ada, bob)] == states
        await write_in(here, 1, " ada")
        await until(lambda: sources(there) == ["1", "2 ada"])
        await part(ada, bob)
        await write_in(there, 0, "bob")
        await write_in(here, 1, " again")
        await until(lambda: sources(there) == ["1", "2 ada"])
        await ada.node.links.connect(bob.node.id)
        await until(lambda: sources(there) == ["1", "2 ada again"])
        assert sources(here) == ["1", "2 ada again"]
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["1", "2 ada again"], 15)
        assert "bob" not in agreed(ada)
        assert "not up to date" not in caplog.text


async def test_what_is_shared_no_more_stays_in_both_live_documents(tmp_path, caplog):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        here, there = await live_at(ada, bob)
        await write_in(here, 0, " shared")
        await until(lambda: sources(there) == ["1 shared", "2"])
        await ada.notebooks.unshare("plan")
        await until(lambda: not bob.notebooks._open)
        await write_in(here, 0, " ada")
        await write_in(there, 1, " bob")
        for desk, live, kept in ((ada, here, ["1 shared ada", "2"]), (bob, there, ["1 shared", "2 bob"])):
            await until(lambda desk=desk, kept=kept: desk.sources("plan.ipynb") == kept, 15)
            assert sources(live) == kept
        assert "not up to date" not in caplog.text


@pytest.mark.parametrize("opening", [late, early])
async def test_a_notebook_opened_while_others_changes_are_written_undoes_none(tmp_path, monkeypatch, opening):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        live = await opening(monkeypatch, ada, bob)
        wanted = ["ada", "bob"] if opening is late else ["1", "bob"]
        await until(lambda: ada.opened("plan")._room is live)
        assert sources(live) == wanted
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == wanted, 15)
        assert sources(live) == wanted


async def test_only_who_waits_while_others_changes_are_written_is_late(tmp_path):
    contents = AsyncLargeFileManager(root_dir=str(tmp_path))
    files = NotebookFiles(contents)
    model = {"type": "notebook", "content": nbformat.v4.new_notebook(cells=[code("a", "1")])}
    async with files.turn("plan.ipynb"):
        pass
    await asyncio.gather(*(contents.save(model, "plan.ipynb") for _ in range(2)))
    assert not files.saved_late("plan.ipynb")  # one waited for the other
    async with files.turn("plan.ipynb"):
        saving = asyncio.create_task(contents.save(model, "plan.ipynb"))
        await asyncio.sleep(0)
    await saving
    assert files.saved_late("plan.ipynb")
    assert not files.saved_late("plan.ipynb")
    files.close()


async def test_what_was_saved_late_is_no_news_once_a_live_document_is_closed(tmp_path, monkeypatch):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        ada.served.app.web_app.settings["jupyter_server_ydoc"].document_save_delay = None  # it stays unsaved
        await shared(ada, bob)
        live = await late(monkeypatch, ada, bob)
        await until(lambda: "'ada'" in str(bob.opened("plan")._base), 15)
        bob.write("plan.ipynb", code("a", "bob, too"), code("b", "bob"))
        await until(lambda: sources(live) == ["bob, too", "bob"])
        assert ada.sources("plan.ipynb") == ["ada", "2"]
        await leave(ada, live)
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["bob, too", "bob"], 15)


async def test_a_live_document_that_is_still_being_loaded_undoes_nothing(tmp_path, monkeypatch):
    async with desks(tmp_path, collaboration=True) as (ada, bob):
        await shared(ada, bob)
        (live,) = await live_at(ada)
        await write_in(live, 0, " long ago")
        await until(lambda: ada.sources("plan.ipynb") == bob.sources("plan.ipynb") == ["1 long ago", "2"], 15)
        await leave(ada, live)
        bob.write("plan.ipynb", code("a", "new"), code("b", "2"))
        await until(lambda: ada.sources("plan.ipynb") == ["new", "2"], 15)
        # JupyterLab has a room made and, a moment later, loaded: from what it was, then from the file.
        ydoc, loading, looks = ada.served.app.web_app.settings["jupyter_server_ydoc"], [], []
        look = ada.opened("plan")._live

        async def later(room):
            loading.append(room)

        async def looked(path):
            looks.append(await look(path))
            return looks[-1]

        with monkeypatch.context() as patch:
            patch.setattr(DocumentRoom, "initialize", later)
            patch.setattr(ada.opened("plan"), "_live", looked)
            live = await ada.live("plan.ipynb")
            await until(lambda: looks and looks[-1] is live)
        said = []
        ada.node.documents.watch(ada.document("plan").name, lambda update, _: said.append(update))
        async with ydoc._room_locks[loading[0].room_id]:
            await loading[0].initialize()
        await until(lambda: ada.opened("plan")._room is live)
        await write_in(live, 0, "!")
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["new!", "2"], 15)
        assert said
        assert not any(b"long" in update for update in said)
