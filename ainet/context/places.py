"""Where passages are: on this device, or on another one, as ``DEVICE:PATH``."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from ainet.context.remembered import REMEMBERED
from ainet.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ainet.api.context import FoundPassage
    from ainet.identity.identity import Identity

_ELSEWHERE = re.compile(r"([^/:\\]{2,64}):(.*)", re.S)


def whole_name(passage: FoundPassage) -> str:
    """Return where a passage is: the path of its file, with its device if that is another one."""
    return f"{passage.device}:{passage.path}" if passage.device else passage.path


class Place(NamedTuple):
    """A part of what is known.

    Attributes
    ----------
    device
        Node id of another device; empty where none is named.
    path
        A folder or file there; empty for all of it.
    is_contact
        Whether the device is a contact.
    """

    device: str = ""
    path: str = ""
    is_contact: bool = False

    @property
    def below(self) -> str | None:
        """The folder or file as the storage knows it; None for everything."""
        return f"{self.device}:{self.path}" if self.device else self.path or None


class Places:
    """Knows the names of devices.

    Parameters
    ----------
    identity
        Knows the members and contacts.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def find(self, text: str | None) -> Place:
        """Return the place that is called so; raises `NotFound` where nobody has the device's name."""
        elsewhere = _ELSEWHERE.fullmatch(text or "")
        if elsewhere is None:
            return Place(path=str(PurePath(text)) if text else "")
        name, path = elsewhere.groups()
        path = str(PurePath(path)) if path else ""
        members = [one.id for one in self._identity.roster.members if name in (one.name, one.id)]
        contacts = [one.id for one in self._identity.contacts.all() if name in (one.name, one.id)]
        if members == [self._identity.id]:
            return Place(path=path)
        if len(members + contacts) > 1:
            raise UsageError(f"Several devices are called {name!r}. Give the node id instead.")
        if not members + contacts:
            raise NotFound(f"No device is called {name!r}: write DEVICE:PATH for what is on another device.")
        return Place((members + contacts)[0], path, bool(contacts))

    def contact(self, name: str) -> str:
        """Return the node id of a contact; raises `NotFound`."""
        for one in self._identity.contacts.all():
            if name in (one.name, one.id):
                return one.id
        known = ", ".join(one.name for one in self._identity.contacts.all()) or "nobody"
        raise NotFound(f"No contact is called {name!r}. Contacts are: {known}.")

    def name(self, device: str) -> str:
        """Return the name of a device (node id); empty for this one."""
        if device == self._identity.id:
            return ""
        known = self._identity.roster.member(device) or self._identity.contacts.get(device)
        return known.name if known is not None else device[:8]

    def whole_name(self, path: str) -> str:
        """Return a path of the storage for people: that of another device with its name."""
        device, path = self.split(path)
        return f"{self.name(device)}:{path}" if device else path

    def split(self, path: str) -> tuple[str, str]:
        """Return the node id of the device on which a path of the storage is (empty: this one), and the path there."""
        device, _, there = path.partition(":")
        return ("", path) if path.startswith("/") else ("", there) if device == REMEMBERED else (device, there)
