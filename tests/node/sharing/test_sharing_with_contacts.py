"""Notebooks shared by name: with a contact, or with some members only; nobody else gets anything of them."""

from __future__ import annotations

import asyncio

import pytest
from support.desks import NotebookNode, code, desks, part, shared
from support.servers import until
from support.swarms import Device

from ainet.api.notebooks import ListedNotebook
from ainet.cli.main import main
from ainet.documents.exchange import ListDocuments, PullDocument, PushUpdate, Sizes
from ainet.errors import NotFound, PeerUnreachable, ProtocolError, Refused
from ainet.links.standing import Standing
from ainet.sharing.shares import Share, TellShares
from ainet.swarm.feeds import SyncLogs

pytestmark = pytest.mark.usefixtures("own_jupyter")


async def test_a_contact_edits_the_notebook_that_is_shared_with_it(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        assert bob.notebooks.all() == [
            ListedNotebook("plan", by="ada", own=False, audience=["bob"], read_only=False, path="plan.ipynb")
        ]
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        bob.write("plan.ipynb", code("a", "1"), code("b", "bob"), code("c", "3"))
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "bob", "3"], 15)


async def test_the_command_shares_by_name(tmp_path, monkeypatch, capsys):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        ada.write("plan.ipynb", code("a", "1"))

        async def command(desk, *words):
            monkeypatch.setenv("AINET_DATA_DIR", str(desk.served.data_dir))
            assert await asyncio.to_thread(main, list(words)) == 0
            return capsys.readouterr().out

        said = await command(ada, "share", "plan.ipynb", "--name", "our plan", "--with", "bob")
        assert "shared with bob" in said
        await until(bob.notebooks.all)
        assert "Changes go both ways" in await command(bob, "open", "our plan@ada", "--as", "theirs.ipynb")
        assert bob.sources("theirs.ipynb") == ["1"]
        row = (await command(bob, "share")).splitlines()[-1].split()
        assert row == ["our", "plan", "ada", "bob", "edit", "theirs.ipynb"]


async def test_contacts_that_were_apart_merge_also_after_a_restart(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        await part(ada, bob)
        ada.write("plan.ipynb", code("a", "ada"), code("b", "2"))
        await until(lambda: "'ada'" in str(ada.opened("plan")._base))
        await bob.notebooks.stop()
        bob.write("plan.ipynb", code("b", "2"), code("c", "bob"))
        bob.node.notebooks = again = bob.node.notebooks_of(bob.contents, bob.notebooks._live)
        await again.start()  # the sharer is away, what it shares is not forgotten
        assert [one.path for one in again._open.values()] == ["plan.ipynb"]
        await until(lambda: "bob" in str(bob.opened("plan")._base))
        await bob.node.links.connect(ada.node.id, Standing.CONTACT)
        for desk in (ada, bob):
            await until(lambda desk=desk: desk.sources("plan.ipynb") == ["ada", "2", "bob"], 15)


async def test_a_contact_that_may_only_read_changes_nothing(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        assert (await shared(ada, bob, audience=["bob"], read_only=True)).read_only
        document = bob.document("plan")
        link = await bob.node.links.connect(ada.node.id, Standing.CONTACT)
        with pytest.raises(Refused, match="may only be read"):
            await link.request(PushUpdate(document.name, document.doc.get_update()))
        ada.write("plan.ipynb", code("a", "ada"))
        await until(lambda: bob.sources("plan.ipynb") == ["ada"], 15)


async def test_a_contact_gets_nothing_else(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        ada.write("private.ipynb", code("a", "secret"))
        await ada.notebooks.share("private.ipynb")
        await shared(ada, bob, audience=["bob"])
        ada.node.documents.open("shared/plan")
        link = bob.node.links.open_link(ada.node.id, Standing.CONTACT)
        private = next(name for name in ada.node.documents.names() if "private" in name)
        for name in (private, "shared/plan", "shared/new", "notebook/new"):
            with pytest.raises(Refused, match="not shared with this device"):
                await link.request(PullDocument(name, b"\0"))
            with pytest.raises(Refused, match="not shared with this device"):
                await link.request(PushUpdate(name, b"\0\0"))
        assert "shared/new" not in ada.node.documents.names()
        for request in (ListDocuments(), SyncLogs([])):
            with pytest.raises(ProtocolError, match="does not know the request"):
                await link.request(request)
        with pytest.raises(NotFound, match="Shared are: plan"):
            await bob.notebooks.open("private")


async def test_what_is_shared_no_more_or_by_somebody_forgotten_ends(tmp_path):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        document = bob.document("plan").name
        await ada.notebooks.unshare("plan")
        await until(lambda: not bob.notebooks.all() and not bob.notebooks._open)
        with pytest.raises(Refused, match="not shared with this device"):
            await bob.node.links.open_link(ada.node.id, Standing.CONTACT).request(PullDocument(document, b"\0"))
        assert bob.sources("plan.ipynb") == ["1", "2"]
        await ada.notebooks.share("plan.ipynb", audience=["bob"])
        await until(bob.notebooks.all)
        await bob.notebooks.open("plan", "again.ipynb")
        bob.node.links.trust.forget("ada")
        await until(lambda: not bob.notebooks.all() and not bob.notebooks._open)


async def test_members_that_are_not_named_get_nothing(tmp_path):
    async with desks(tmp_path) as (ada, bob):
        third = Device(tmp_path / "eve", "eve")
        await third.start()
        try:
            await third.joins(ada.node)
            assert (await shared(ada, bob, audience=["bob"])).path == "plan.ipynb"
            document = ada.document("plan").name
            for node in (ada.node, bob.node):
                link = await third.links.connect(node.id)
                assert document not in (await link.request(ListDocuments())).names
                with pytest.raises(Refused, match="not shared with this device"):
                    await link.request(PullDocument(document, b"\0"))
                with pytest.raises(Refused, match="not shared with this device"):
                    await link.request(PushUpdate(document, b"\0\0"))
            with pytest.raises(Refused, match="in their logs"):
                await link.request(TellShares({"x": Share("0" * 16, False, 0.0)}))
            with pytest.raises(NotFound, match="is called 'nobody'"):
                await ada.notebooks.share("plan.ipynb", "second", audience=["nobody"])
        finally:
            await third.stop()


class Strict(NotebookNode):
    """A node that takes little of contacts."""

    sizes = Sizes(contact_document=2000)


async def test_a_contact_can_add_only_so_much(tmp_path):
    async with desks(tmp_path, Strict, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        name = ada.document("plan").name
        link = bob.node.links.open_link(ada.node.id, Standing.CONTACT)
        with pytest.raises(Refused, match="too much of a contact"):
            await link.request(PushUpdate(name, b"\0" * 2000))


async def test_a_contact_can_take_only_so_much(tmp_path, monkeypatch):
    async with desks(tmp_path, contacts=True) as (ada, bob):
        await shared(ada, bob, audience=["bob"])
        name = ada.document("plan").name
        link = bob.node.links.open_link(ada.node.id, Standing.CONTACT)
        pulls = 0
        pull_once = ada.node.documents._pull_once

        async def counted(*given):
            nonlocal pulls
            pulls += 1
            await pull_once(*given)

        monkeypatch.setattr(ada.node.documents, "_pull_once", counted)
        await asyncio.gather(*(link.request(PushUpdate(name, b"")) for _ in range(50)))
        await until(lambda: not ada.node.documents._pulling)
        assert 1 <= pulls < 50  # they are put together
        for _ in range(40):
            try:
                await link.request(PushUpdate(name, b"\xff" * 30))
            except Refused:
                continue
            except (ProtocolError, PeerUnreachable):
                break
        await until(link.closed.is_set)
        assert "too many changes that are none" in link.error.message
