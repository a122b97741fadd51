"""Trust in other devices: what follows when the swarm's roster or the contacts change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.errors import Refused
from ainet.links.greeting import check_peer
from ainet.links.request import RenewCertificate, Renewed
from ainet.links.standing import Standing
from ainet.signals import Signal

if TYPE_CHECKING:
    import logging

    from ainet.identity.contacts import Contact
    from ainet.identity.roster import Revoked, SignedRoster
    from ainet.links.link import PeerLink
    from ainet.links.link_table import LinkTable


class Trust:
    """Cuts the links of whoever is trusted no more, and tells the others.

    Parameters
    ----------
    table
        The open links.
    log
        For removals.
    """

    def __init__(self, table: LinkTable, log: logging.Logger) -> None:
        self._table = table
        self._identity = table.identity
        self._log = log
        #: Tells the id of every member that is removed and contact that is forgotten.
        self.revoked: Signal[[str]] = Signal("a device is trusted no more", log)
        table.handle(RenewCertificate, self._renew)

    def apply(self, signed: SignedRoster) -> None:
        """Take over a roster that another member showed, if it is newer; raises `Refused` when it is not the CA's."""
        before = self._revoked_ids()
        if self._identity.apply(signed):
            self.roster_changed(before)

    def roster_changed(self, revoked_before: set[str] | None = None) -> None:
        """Act on the identity's new roster: cut whom it removed since `revoked_before`, tell everybody else."""
        roster = self._identity.roster
        for contact in self._identity.contacts.all():
            if roster.member(contact.id) is not None:  # a member needs no introduction
                self._identity.contacts.remove(contact.id)
        self._table.book.keep_only(self._table.known_ids())
        update = self._table.roster_update()
        for link, serial in self._table.serials():
            link.send_roster(update)
            try:
                check_peer(self._identity, link.peer_id, serial)
            except Refused as exc:
                self._log.warning("The link to %s is cut: %s", link.peer_name, exc.message)
                link.close(exc)
        revoked = set() if revoked_before is None else self._revoked_ids() - revoked_before
        for node_id in revoked:
            record = roster.removed(node_id)
            self._log.warning("%s was removed from the swarm.", record.name if record else node_id)
            self._table.channels.cut(node_id, Refused("This device was removed from the swarm."))
            self.revoked.emit(node_id)

    def remove(self, name: str) -> Revoked:
        """Remove the member with this name or id from the swarm: its links are cut, all members are told.

        Raises what `Identity.remove` raises.
        """
        before = self._revoked_ids()
        record = self._identity.remove(name)
        self.roster_changed(before)
        if record.holds_ca:
            self._log.warning(
                "%s holds the swarm's CA key, which a removal does not take away. If it is in foreign hands, begin a "
                "new swarm: delete the data directories' identity folders and pair again.",
                record.name,
            )
        return record

    def forget(self, name: str) -> Contact:
        """Forget the contact with this name or id, and cut its links; raises `NotFound`."""
        contact = self._identity.contacts.remove(name)
        self._table.book.keep_only(self._table.known_ids())
        for link in self._table.links(Standing.CONTACT):
            if link.peer_id == contact.id:
                link.close(Refused("This device is no contact there any more."))
        if self._identity.roster.member(contact.id) is None:
            self.revoked.emit(contact.id)
        return contact

    async def _renew(self, link: PeerLink, request: RenewCertificate) -> Renewed:
        certificate = self._identity.renew(request.request, link.peer_id)
        self._log.info("The certificate of %s was renewed.", link.peer_name)
        self.roster_changed()
        return Renewed(certificate)

    def _revoked_ids(self) -> set[str]:
        return {revoked.id for revoked in self._identity.roster.revoked}
