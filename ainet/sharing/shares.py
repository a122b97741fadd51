"""Shares of notebooks: members announce them in their logs, contacts are told what is shared with them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from ainet.documents.kinds import NOT_SHARED
from ainet.errors import NotFound, Refused, UsageError
from ainet.files import KeptFile
from ainet.identity.roster import NodeId
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.signals import Signal
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.swarm.feeds import Feeds

LOG = "shares"
#: The names of documents that hold notebooks begin so.
NOTEBOOK = "notebook/"
SWARM = "swarm"
MAX_AUDIENCE = 64
MAX_TOLD = 256  # shares of one contact


class Share(msgspec.Struct, frozen=True):
    """A node's announcement of a notebook that it shares, in its log ``shares``, under the share's name.

    Attributes
    ----------
    id
        Random: what is shared later under the same name is another document.
    read_only
        Whether the others may only read.
    since
        Unix seconds.
    swarm
        Whether every member of the sharer's swarm may have it.
    nodes
        Members and contacts that may have it besides.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    read_only: bool
    since: float
    swarm: bool = True
    nodes: Annotated[list[NodeId], msgspec.Meta(max_length=MAX_AUDIENCE)] = []


class Listed(NamedTuple):
    """A share, who shares it (node id), and its name."""

    sharer: str
    name: str
    share: Share

    @property
    def document(self) -> str:
        """The name of the shared document, which nobody else can give to another one."""
        return f"{NOTEBOOK}{self.name}~{self.sharer[:16]}~{self.share.id}"


ShareName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class TellShares(Request, frozen=True):
    """Tell a contact everything that is shared with it."""

    audience = Standing.CONTACT

    shares: Annotated[dict[ShareName, Share], msgspec.Meta(max_length=MAX_TOLD)]


class Shares:
    """The shares of this device, and those of members and contacts with it.

    The documents ask it who may read and change a notebook.

    Parameters
    ----------
    links, feeds
        To the others; where members say what they share.
    path
        File with the shares of contacts, for while they are away.
    log
        For contacts that cannot be told.
    """

    def __init__(self, links: Links, feeds: Feeds, path: Path, log: logging.Logger) -> None:
        self._links, self._feeds = links, feeds
        self._identity = links.identity
        self._file = KeptFile(path, log)
        self._told: dict[str, dict[str, Share]] = {}
        self._signal: Signal[[]] = Signal("other notebooks are shared than before", log)
        self._tasks = Tasks("Shares were not told", log)
        if path.exists():
            try:
                self._told = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Share]])
            except msgspec.DecodeError as exc:
                log.warning("%s is damaged (%s): what contacts share is asked for again.", path, exc)
        links.handle(TellShares, self._receive)
        links.on_linked(lambda link: self._tasks.spawn(self._notify(link)), Standing.CONTACT)
        links.on_revoked(self._forget)
        links.home.on_left(self._swarm_changed)
        feeds.on_change(lambda _author, name: self._changed() if name == LOG else None)

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._file.flush()

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever somebody shares something else than before."""
        self._signal.connect(callback)

    def names(self) -> dict[str, str]:
        """Return the name of every member and contact, by its id."""
        contacts = {contact.id: contact.name for contact in self._identity.contacts.all()}
        return contacts | {member.id: member.name for member in self._identity.roster.members}

    def all(self) -> Sequence[Listed]:
        """Return what this device may have."""
        me = self._identity.id
        by_members = [
            Listed(member.id, name, share)
            for member in self._identity.roster.members
            for name in self._feeds.keys(member.id, LOG)
            if (share := self._feeds.get(member.id, LOG, name, Share)) is not None
            if share.swarm or me in (member.id, *share.nodes)
        ]
        by_contacts = [
            Listed(contact.id, name, share)
            for contact in self._identity.contacts.all()
            for name, share in self._told.get(contact.id, {}).items()
        ]
        return by_members + by_contacts

    def find(self, name: str) -> Listed:
        """Return the share with this name, or ``NAME@DEVICE``; raises `NotFound`, or `UsageError` for several."""
        names, shares = self.names(), self.all()
        found = [
            one for one in shares if name in (one.name, f"{one.name}@{names[one.sharer]}", f"{one.name}@{one.sharer}")
        ]
        if not found:
            known = ", ".join(one.name for one in shares) or "none"
            raise NotFound(f"Nobody shares a notebook called {name!r}. Shared are: {known}.")
        if len(found) > 1:
            called = Counter(names[one.sharer] for one in found)
            several = ", ".join(
                f"{one.name}@{names[one.sharer] if called[names[one.sharer]] == 1 else one.sharer}" for one in found
            )
            raise UsageError(f"Several devices share a notebook called {name!r}. Say which: {several}.")
        return found[0]

    def audience(self, names: Sequence[str]) -> tuple[bool, list[str]]:
        """Return whether the swarm, and which nodes (ids), are meant by names, node ids, or "swarm"; none: the swarm.

        Raises
        ------
        NotFound
            Nobody is called so.
        UsageError
            Several are, or there are too many names.
        """
        others = {node: called for node, called in self.names().items() if node != self._identity.id}
        nodes: list[str] = []
        for name in dict.fromkeys(names):
            if name == SWARM:
                continue
            found = [node for node, called in others.items() if name in (node, called)]
            if not found:
                raise NotFound(
                    f"No member or contact is called {name!r}. There are: {', '.join(others.values()) or 'none'}."
                )
            if len(found) > 1:
                raise UsageError(
                    f"A member and a contact are called {name!r}. Give the node id instead: {', '.join(found)}."
                )
            nodes += found
        if len(nodes) > MAX_AUDIENCE:
            raise UsageError(f"A notebook can be shared with {MAX_AUDIENCE} devices by name, not {len(nodes)}.")
        return SWARM in names or not nodes, nodes

    def publish(self, name: str, share: Share | None) -> None:
        """Share something under this name, or nothing any more."""
        before = self._feeds.get(self._identity.id, LOG, name, Share)
        self._feeds.publish(LOG, {name: share})
        for node in {*(before.nodes if before else ()), *(share.nodes if share else ())}:
            if (link := self._links.open_link(node, Standing.CONTACT)) is not None:
                self._tasks.spawn(self._notify(link))

    def check_read(self, document: str, node: str) -> None:
        """Raise `Refused` unless the node may have the document."""
        listed = self._listed(document)
        if not self._may_read(listed, node):
            raise Refused(NOT_SHARED)

    def check_write(self, document: str, node: str) -> None:
        """Raise `Refused` unless the node may change the document."""
        listed = self._listed(document)
        if node == listed.sharer:
            return
        if not self._may_read(listed, node):
            raise Refused(NOT_SHARED)
        if listed.share.read_only:
            raise Refused(f"{listed.name!r} may only be read.")

    def contacts(self, document: str) -> list[str]:
        """Return the contacts (node ids) with which the document is exchanged."""
        listed = self._find_document(document)
        if listed is None:
            return []
        parties = listed.share.nodes if listed.sharer == self._identity.id else [listed.sharer]
        return [node for node in parties if self._identity.contacts.get(node) is not None]

    def _listed(self, document: str) -> Listed:
        listed = self._find_document(document)
        if listed is None:
            raise Refused(NOT_SHARED)
        return listed

    def _find_document(self, document: str) -> Listed | None:
        return next((one for one in self.all() if one.document == document), None)

    def _may_read(self, listed: Listed, node: str) -> bool:
        if node in (listed.sharer, self._identity.id):
            return True
        if self._identity.roster.member(node) is not None and self._identity.roster.member(listed.sharer) is not None:
            return listed.share.swarm or node in listed.share.nodes
        return listed.sharer == self._identity.id and node in listed.share.nodes

    async def _notify(self, link: PeerLink) -> None:
        mine = {
            name: msgspec.structs.replace(share, swarm=False, nodes=[link.peer_id])
            for name in self._feeds.keys(self._identity.id, LOG)
            if (share := self._feeds.get(self._identity.id, LOG, name, Share)) is not None
            if link.peer_id in share.nodes
        }
        await link.request(TellShares(dict(list(mine.items())[:MAX_TOLD])))

    async def _receive(self, link: PeerLink, request: TellShares) -> None:
        if link.standing is not Standing.CONTACT:
            raise Refused("Members say in their logs what they share.")
        shares = {name: share for name, share in request.shares.items() if _can_be_shown(name)}
        if self._told.get(link.peer_id, {}) != shares:
            self._told[link.peer_id] = shares
            self._save()

    def _swarm_changed(self, left: str | None) -> None:
        """Share nothing with the new swarm that was shared with another one."""
        if left is not None:
            for name in self._feeds.keys(self._identity.id, LOG):
                self.publish(name, None)
            self._feeds.compact(LOG)  # it would still tell what was shared
            self._told.clear()  # contacts know this device by the swarm that it left
            self._save()
        self._changed()

    def _forget(self, node_id: str) -> None:
        """Share nothing more with a device that is trusted no more, also when it comes back."""
        for name in self._feeds.keys(self._identity.id, LOG):
            share = self._feeds.get(self._identity.id, LOG, name, Share)
            if share is not None and node_id in share.nodes:
                left = msgspec.structs.replace(share, nodes=[node for node in share.nodes if node != node_id])
                self.publish(name, left if left.swarm or left.nodes else None)
        if self._told.pop(node_id, None) is not None:
            self._save()

    def _save(self) -> None:
        self._file.write(msgspec.json.encode(self._told))
        self._changed()

    def _changed(self) -> None:
        self._signal.emit()


def _can_be_shown(name: str) -> bool:
    """Tell whether a contact may call a share so: in lists, in messages, and in ``NAME@DEVICE``."""
    return name.isprintable() and not set(name) & set("/@~")
