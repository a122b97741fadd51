"""Two Jupyter servers that share notebooks."""

from __future__ import annotations

import contextlib
import json

import nbformat

from ainet.api.answers import Answers
from ainet.api.node import status
from ainet.documents.kinds import Fetch
from ainet.errors import PeerUnreachable
from ainet.sharing.notebooks import Notebooks
from ainet.sharing.shares import NOTEBOOK, Shares
from ainet.swarm.feeds import Feeds
from support.served_nodes import SharingNode
from support.servers import serve, until


class NotebookNode(SharingNode):
    """A node that shares notebooks."""

    notebooks: Notebooks | None = None

    async def start(self):
        await super().start()
        self.name, self.data_dir = self.identity.name, self.folder
        self.logs = Feeds(self.links, self.folder / "logs.sqlite", self.log)
        self.shares = Shares(self.links, self.logs, self.folder / "contact_shares.json", self.log)
        self.documents.register(NOTEBOOK, self.shares, Fetch.ONCE_OPENED)

    def notebooks_of(self, contents, live):
        self.answers = Answers()
        self.answers.add(status, self.status)
        return Notebooks(
            identity=self.identity,
            links=self.links,
            documents=self.documents,
            shares=self.shares,
            data_dir=self.folder,
            contents=contents,
            live=live,
            answers=self.answers,
            log=self.log,
        )

    async def open_notebooks(self, contents, live):
        self.notebooks = self.notebooks_of(contents, live)
        await self.notebooks.start()

    async def stop(self):
        if self.notebooks is not None:
            await self.notebooks.stop()
        await self.shares.stop()
        await self.logs.stop()
        await super().stop()


class Desk:
    """A Jupyter server with its node and its folder."""

    def __init__(self, served, folder) -> None:
        self.served, self.folder = served, folder
        self.node = served.node

    @property
    def notebooks(self):
        return self.node.notebooks

    @property
    def contents(self):
        return self.served.app.contents_manager

    def opened(self, name):
        """Return what keeps the shared notebook up to date here."""
        return next(one for one in self.notebooks._open.values() if one.name == name)

    def document(self, name):
        return self.opened(name)._document

    def write(self, path, *cells):
        file = self.folder / "root" / path
        before = file.stat().st_mtime_ns if file.exists() else 0
        found = nbformat.v4.new_notebook(cells=list(cells))
        partial = file.with_name(f".{file.name}.partial")
        nbformat.write(found, partial)
        partial.replace(file)  # as Jupyter does: nobody reads half of it
        assert file.stat().st_mtime_ns != before

    def read(self, path):
        try:
            return json.loads((self.folder / "root" / path).read_text())["cells"]
        except json.JSONDecodeError:
            return []  # it is just being written

    def sources(self, path):
        return ["".join(cell["source"]) for cell in self.read(path)]

    async def live(self, path):
        """Open the notebook as JupyterLab does."""
        ydoc = self.served.app.web_app.settings["jupyter_server_ydoc"]
        return await ydoc.get_document(path=path, content_type="notebook", file_format="json", copy=False, create=True)


def code(name, source, **more):
    return nbformat.v4.new_code_cell(source, id=name, **more)


@contextlib.asynccontextmanager
async def desks(tmp_path, node_class=NotebookNode, *, collaboration=False, contacts=False):
    """Two Jupyter servers whose nodes are members of one swarm, or contacts of each other."""
    extensions = {"ainet": True}
    if collaboration:
        extensions |= {"jupyter_server_ydoc": True, "jupyter_server_fileid": True}
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in ("ada", "bob"):
            served = await stack.enter_async_context(serve(tmp_path / name, node_class, jpserver_extensions=extensions))
            found.append(Desk(served, tmp_path / name))
        ada, bob = (desk.node for desk in found)
        if contacts:
            await bob.pairing.accept((await ada.pairing.invite(purpose="introduce")).ticket)
        else:
            await bob.pairing.join((await ada.pairing.invite()).ticket, "bob")
        await until(lambda: ada.links.open_link(bob.id) and bob.links.open_link(ada.id))
        yield found


async def shared(ada, bob, **options):
    """Share a notebook of Ada's, and open it at Bob's."""
    ada.write("plan.ipynb", code("a", "1"), code("b", "2"))
    await ada.notebooks.share("plan.ipynb", **options)
    await until(lambda: [one.name for one in bob.notebooks.all()] == ["plan"])
    return await bob.notebooks.open("plan")


async def part(ada, bob):
    """Cut the two off from each other until the test connects them."""
    for desk in (ada, bob):
        await desk.node.links.upkeep.stop()
    ada.node.links.table.close_all(PeerUnreachable("The cable is pulled."))
    await until(lambda: not bob.node.links.open_link(ada.node.id))
