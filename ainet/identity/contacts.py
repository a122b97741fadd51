"""Contacts: devices of other owners whose keys were pinned by an introduction."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import AinetError, NotFound, Refused
from ainet.files import write_private
from ainet.identity import certificates as x
from ainet.identity.roster import Name, NodeId

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

MAX_CONTACTS = 256


class Contact(msgspec.Struct, frozen=True):
    """Another owner's device.

    Attributes
    ----------
    id
        Its node id: the pinned key.
    name
        Its name on this device.
    ca
        Certificate (DER) of its swarm's CA, which renews its own certificate.
    added
        Unix seconds.
    """

    id: NodeId
    name: Name
    ca: Annotated[bytes, msgspec.Meta(max_length=8192)]
    added: float


class Contacts:
    """The contacts of this device, kept in a file.

    Parameters
    ----------
    path
        The file (0600).

    Raises
    ------
    AinetError
        It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = msgspec.json.decode(path.read_bytes(), type=list[Contact]) if path.exists() else []
        except msgspec.DecodeError as exc:
            raise AinetError(
                f"{path} is damaged ({exc}). Restore it from a backup, or delete it: contacts are then unknown."
            ) from exc
        self._contacts = {contact.id: contact for contact in known}

    def all(self) -> list[Contact]:
        """Return all of them, by name."""
        return sorted(self._contacts.values(), key=lambda contact: contact.name)

    def get(self, node_id: str) -> Contact | None:
        """Return the contact with this id."""
        return self._contacts.get(node_id)

    def proven(self, node_id: str, certificate: x509.Certificate) -> Contact:
        """Return the contact that showed `certificate` in a handshake; raises `Refused` when it is none."""
        contact = self._contacts.get(node_id)
        if contact is None:
            raise Refused("This device is no contact here (any more): it needs a new introduction (`ainet introduce`).")
        if not x.issued_by(certificate, x.read_ca(contact.ca)):
            raise Refused(f"The certificate of {contact.name} is of another swarm than it was at the introduction.")
        return contact

    def add(self, contact: Contact) -> Contact:
        """Keep a contact, under a name that no other has; return it as kept.

        Raises
        ------
        Refused
            There are too many.
        """
        if len(self._contacts) >= MAX_CONTACTS and contact.id not in self._contacts:
            raise Refused(f"There are {MAX_CONTACTS} contacts already. `ainet forget NAME` removes one.")
        taken = {other.name for other in self._contacts.values() if other.id != contact.id}
        name, number = contact.name, 2
        while name in taken:
            name, number = f"{contact.name[:56]} {number}", number + 1
        kept = self._contacts[contact.id] = msgspec.structs.replace(contact, name=name)
        self._save()
        return kept

    def remove(self, name: str) -> Contact:
        """Forget the contact with this name or id, and return it; raises `NotFound`."""
        named = self._contacts.get(name) or next((one for one in self.all() if one.name == name), None)
        if named is not None:
            del self._contacts[named.id]
            self._save()
            return named
        names = ", ".join(contact.name for contact in self.all()) or "nobody"
        raise NotFound(f"No contact is called {name!r}. Contacts are: {names}.")

    def authorities(self) -> bytes:
        """Return the CA certificates of all contacts, as PEM; one that is none keeps nobody else out."""
        found = []
        for authority in sorted({contact.ca for contact in self._contacts.values()}):
            with contextlib.suppress(Refused):
                found.append(x.to_pem(x.read_ca(authority)))
        return b"".join(found)

    def _save(self) -> None:
        write_private(self._path, msgspec.json.encode(self.all()))
