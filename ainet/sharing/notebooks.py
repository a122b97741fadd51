"""Shared notebooks: one notebook, live in the Jupyter servers of several devices.

The shared document is a Yjs document of its own. On each device it is kept equal to what the device's users edit: the
live document of jupyter-collaboration while somebody has the notebook open there, the file otherwise. The two are
never merged as Yjs documents, since each server gives a notebook a history of its own; changes are carried over cell by
cell.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import secrets
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
from tornado.web import HTTPError

from ainet.api import notebooks
from ainet.api.notebooks import ListedNotebook, OpenedNotebook, SharedNotebook, Unshared
from ainet.errors import AinetError, NotFound, PeerUnreachable, UsageError
from ainet.files import make_private_dir
from ainet.sharing.notebook_files import NotebookFiles
from ainet.sharing.shared_notebook import LiveNotebook, Remembered
from ainet.sharing.shares import SWARM, Listed, Share, Shares
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.documents.exchange import Documents
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.sharing.notebook_merge import Notebook

MAX_NAME = 80  # characters of a share's name
#: A sharer that does not send its notebook in this time (s) is not there.
OPEN_SECONDS = 20.0


class Notebooks:
    """The notebooks that this node shares, or has opened from others.

    Parameters
    ----------
    identity, links
        This node, and the way to others.
    documents, shares
        The documents to exchange; the devices that may have them.
    data_dir
        Notes on shared notebooks lie below it, in ``shared_notebooks``.
    contents
        The Jupyter server's contents manager.
    live
        Returns the live document of a path, None while nobody has it open.
    answers
        The registry of answers to the owner's verbs.
    log
        For what cannot be kept up to date.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        links: Links,
        documents: Documents,
        shares: Shares,
        data_dir: Path,
        contents: Any,
        live: Callable[[str], Any],
        answers: Answers,
        log: logging.Logger,
    ) -> None:
        self._identity, self._links = identity, links
        self._documents, self._shares = documents, shares
        self._folder = make_private_dir(data_dir / "shared_notebooks")
        self.files = NotebookFiles(contents)
        self._live = live
        self._log = log
        self._open: dict[str, LiveNotebook] = {}
        self._unwatch: dict[str, Callable[[], None]] = {}
        self._tasks = Tasks("A shared notebook did not end as it should", log)
        shares.on_change(self._shares_changed)
        answers.add(notebooks.notebooks, self.show)
        answers.add(notebooks.share, self.share)
        answers.add(notebooks.unshare, self.unshare)
        answers.add(notebooks.open_notebook, self.open)

    async def start(self) -> None:
        """Go on with the notebooks that were shared and opened before."""
        shared = {listed.document: listed for listed in self._shares.all()}
        for memory in self._folder.glob("*.json"):
            try:
                noted = msgspec.json.decode(memory.read_bytes(), type=Remembered)
                there = noted.document in shared and noted.document in self._documents.names()
                if not there or not await self.files.exists(noted.path):
                    self._log.info("The notebook %s is not shared any more.", noted.name)
                    memory.unlink()
                    self._documents.delete(noted.document)
                    continue
                await self._attach(shared[noted.document], noted.path, may_write=noted.may_write, base=noted.base)
            except (AinetError, HTTPError, OSError, ValueError) as exc:
                self._log.warning("The shared notebook in %s is left alone: %s", memory, exc)

    async def stop(self) -> None:
        """Stop keeping notebooks up to date; the next start goes on."""
        for document in list(self._open):
            await self._close(document)
        await self._tasks.finish()
        self.files.close()

    async def show(self) -> list[ListedNotebook]:
        """Return `all`, for the owner."""
        return self.all()

    def all(self) -> list[ListedNotebook]:
        """Return every shared notebook: its name, by and with whom, whether it may be changed, the file here."""
        names = self._shares.names()
        found = [
            ListedNotebook(
                name=listed.name,
                by=names[listed.sharer],
                own=listed.sharer == self._identity.id,
                audience=self._with(listed.share),
                read_only=listed.share.read_only,
                path=self._open[listed.document].path if listed.document in self._open else None,
            )
            for listed in self._shares.all()
        ]
        return sorted(found, key=lambda one: (one.name, one.by))

    async def share(
        self, path: str, name: str | None = None, read_only: bool = False, audience: Sequence[str] = ()
    ) -> SharedNotebook:
        """Share the notebook at `path`.

        Parameters
        ----------
        path
            In the server's folder, or as the operating system calls it.
        name
            The name for the others; by default the file's name.
        read_only
            Whether the others may only read it.
        audience
            Names or ids of members and contacts; without any, and with "swarm" among them, every member.

        Raises
        ------
        NotFound
            There is no such notebook, or nobody is called so.
        UsageError
            This device shares one under this name already, or the name cannot be one.
        """
        path = self.files.path(path)
        name = name or PurePosixPath(path).stem
        if not 1 <= len(name) <= MAX_NAME:
            raise UsageError(f"The name of a shared notebook has 1 to {MAX_NAME} characters.")
        swarm, nodes = self._shares.audience(audience)
        share = Share(secrets.token_hex(8), read_only, self._identity.now(), swarm, nodes)
        listed = Listed(self._identity.id, name, share)
        self._documents.check_name(listed.document)
        if any((one.sharer, one.name) == (listed.sharer, name) for one in self._shares.all()):
            raise UsageError(
                f"A notebook called {name!r} is shared by this device already. Choose another name (--name)."
            )
        if not await self.files.exists(path):
            raise NotFound(f"There is no notebook {path!r} in this Jupyter server's folder.")
        await self._attach(listed, path, may_write=True)
        self._shares.publish(name, share)
        return SharedNotebook(name, path, read_only, self._with(share))

    async def unshare(self, name: str) -> Unshared:
        """Stop sharing a notebook of this device; the others keep their copies of the file."""
        for listed in self._shares.all():
            if (listed.sharer, listed.name) == (self._identity.id, name):
                self._shares.publish(name, None)
                await self._close(listed.document, for_ever=True)
                return Unshared(name)
        raise NotFound(f"This device shares no notebook called {name!r}.")

    async def open(self, name: str, path: str | None = None) -> OpenedNotebook:
        """Open a notebook that another device shares; changes then go both ways.

        Parameters
        ----------
        name
            Of the share; ``NAME@DEVICE`` when several devices share one of this name.
        path
            The file to make of it; by default its name with ``.ipynb``.

        Raises
        ------
        NotFound
            Nobody shares one of this name.
        PeerUnreachable
            The device that shares it cannot be reached.
        UsageError
            The file exists already, or several devices share one of this name.
        """
        listed = self._shares.find(name)
        may_write = listed.sharer == self._identity.id or not listed.share.read_only
        here = self._open.get(listed.document)
        if here is not None:
            return OpenedNotebook(listed.name, here.path, not may_write)
        path = self.files.path(path or f"{listed.name}.ipynb")
        if await self.files.exists(path):
            raise UsageError(f"{path} exists already in this Jupyter server's folder. Name another file (--as).")
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._documents.fetch(listed.document, listed.sharer)
            await self._attach(listed, path, may_write=may_write)
        except BaseException as exc:
            self._documents.delete(listed.document)
            if isinstance(exc, TimeoutError):
                raise PeerUnreachable(
                    f"{listed.name} did not come within {OPEN_SECONDS:g} seconds. Try again."
                ) from exc
            raise
        return OpenedNotebook(listed.name, path, not may_write)

    async def _attach(self, listed: Listed, path: str, *, may_write: bool, base: Notebook | None = None) -> None:
        document = self._documents.open(listed.document)
        notebook = LiveNotebook(
            self._folder / f"{hashlib.sha256(listed.document.encode()).hexdigest()[:32]}.json",
            name=listed.name,
            path=path,
            document=document,
            may_write=may_write,
            files=self.files,
            live=self._live,
            ran=lambda: self._ran(listed),
            is_apart=lambda: self._is_apart(listed.document),
            log=self._log,
        )
        await notebook.start(base=base)
        self._open[document.name] = notebook
        self._unwatch[document.name] = self._documents.watch(document.name, notebook.changed)

    async def _close(self, document: str, *, for_ever: bool = False) -> None:
        notebook = self._open.pop(document, None)
        if notebook is not None:
            self._unwatch.pop(document)()
            await notebook.stop(for_ever=for_ever)
            if for_ever:
                self._documents.delete(document)

    def _ran(self, listed: Listed) -> dict[str, str]:
        ran = {"device": self._identity.name, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        # What the user is called on this device is nothing for other owners.
        member = self._identity.roster.member
        stays = all(member(node) is not None for node in (listed.sharer, *listed.share.nodes))
        return ran | ({"user": getpass.getuser()} if stays else {})

    def _is_apart(self, document: str) -> bool:
        links = self._links
        return not links.links() and not any(map(links.open_link, self._shares.contacts(document)))

    def _with(self, share: Share) -> list[str]:
        names = self._shares.names()
        return [*([SWARM] if share.swarm else []), *(names.get(node, node[:8]) for node in share.nodes)]

    def _shares_changed(self) -> None:
        shared = {listed.document for listed in self._shares.all()}
        for document in [document for document in self._open if document not in shared]:
            self._log.info("The notebook %s is not shared any more.", self._open[document].path)
            self._tasks.spawn(self._close(document, for_ever=True))
