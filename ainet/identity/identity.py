"""Identity: who this device is, and to which swarm it belongs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ainet.errors import AinetError, NotFound, Refused, UsageError
from ainet.files import make_private_dir
from ainet.identity import certificates as x
from ainet.identity.contacts import Contacts
from ainet.identity.credentials import Credentials
from ainet.identity.keys import is_weak_id, key_from_pem, key_to_pem, node_id, open_key, seal, unseal
from ainet.identity.roster import Member, Revoked, Roster, SignedRoster, check_name, keep_certificates
from ainet.identity.swarm import Admission, Swarm, check_statement, has_weak_ca, issued
from ainet.timing import TIMING
from ainet.units import DAY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class _Exported(msgspec.Struct, frozen=True):
    ca_key: bytes
    owner_key: bytes


class Identity:
    """The device's key, and its membership in a swarm.

    A device always belongs to a swarm: at first to its own, whose only member it is and whose CA key and owner key
    it holds, until it joins another. `open` makes one; nothing here touches the network.
    """

    def __init__(self, path: Path, device_key: Ed25519PrivateKey, swarm: Swarm, now: Callable[[], float]) -> None:
        self.now = now
        self.id = node_id(device_key.public_key())
        self._path = path
        self._device_key = device_key
        self._local: Credentials | None = None
        self._twin, self._twin_until = "", 0.0
        self._warning = ""
        #: Devices of other owners.
        self.contacts = Contacts(path.with_name("contacts.json"))
        self._load(swarm)

    @classmethod
    def open(cls, data_dir: Path, name: str, *, now: Callable[[], float] = time.time) -> Identity:
        """Load the identity in `data_dir`, or create one for a new device called `name`.

        Parameters
        ----------
        now
            The clock (unix seconds) by which certificates are issued and judged.

        Raises
        ------
        AinetError
            A file is damaged.
        """
        name = check_name(name)
        folder = make_private_dir(data_dir / "identity")
        device_key = open_key(folder / "device.key")
        path = folder / "swarm.json"
        warning = ""
        if path.exists() and has_weak_ca(path):
            aside = path.replace(path.with_suffix(".weak"))
            warning = (
                f"The swarm of this device had a CA key with which anybody can sign. This device has left it and "
                f"begins with a swarm of its own; what was known of the other one is kept in {aside}."
            )
        if not path.exists():
            Swarm.found(device_key, name, now()).save(path)
        try:
            identity = cls(path, device_key, Swarm.read(path), now)
            identity._warning = warning
        except (ValueError, Refused) as exc:
            raise AinetError(
                f"{path} is damaged ({exc}). Restore it from a backup, or delete it: the device then begins with a "
                f"swarm of its own and joins others with a new ticket."
            ) from exc
        identity._greet(name)
        return identity

    # What it is

    @property
    def name(self) -> str:
        """The device's name in the swarm."""
        record = self.roster.member(self.id) or self.roster.removed(self.id)
        return record.name if record else self.id[:8]

    @property
    def holds_ca(self) -> bool:
        """Whether this device can admit, remove and renew members."""
        return self._ca_key is not None

    @property
    def not_after(self) -> float:
        """Expiry of this device's certificate (unix seconds)."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def days_left(self) -> float:
        """For how many days this device's certificate is still valid; negative after that."""
        return (self.not_after - self.now()) / DAY

    @property
    def expired(self) -> bool:
        """Whether this device's certificate is no longer valid."""
        return self.now() > self.not_after

    @property
    def renewal_due(self) -> bool:
        """Whether the certificate is old enough to be renewed."""
        return self.now() >= self.not_after - x.LIFETIME + x.RENEW_AFTER

    @property
    def removed(self) -> Revoked | None:
        """The record of this device's own removal from the swarm."""
        return self.roster.removed(self.id)

    @property
    def problem(self) -> str | None:
        """Why members cannot work with this device, and what to do; None when all is well."""
        again = (
            "It goes on working alone. To work with the others again, run `ainet invite` on {} and `ainet join` here."
        )
        again = again.format(self.holders())
        if self.removed:
            return f"This device was removed from the swarm on {_day(self.removed.when)}. {again}"
        if self.expired:
            return f"This device's certificate expired on {_day(self.not_after)}. {again}"
        return self._twin if self.now() < self._twin_until else None

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the keys that this device knows, in words."""
        found = [self._warning] if self._warning else []
        known = [(member.id, member.name, "remove") for member in self.roster.members]
        known += [(contact.id, contact.name, "forget") for contact in self.contacts.all()]
        for identity, name, verb in known:
            if is_weak_id(identity):
                words = f"{name} has a key for which anybody can sign: it is accepted nowhere."
                found.append(f"{words} `ainet {verb} {name}` ends that.")
        return found

    def note_twin(self, words: str, pause: float = TIMING.twin_pause) -> bool:
        """Note that this device was refused since another one has its identity; tell whether that is news."""
        is_news = not self._twin  # later ones differ in the way by which the other one is reached
        self._twin, self._twin_until = words, self.now() + pause
        return is_news

    def credentials(self) -> Credentials:
        """Return what this device needs to speak TLS with members."""
        return self._credentials

    def link_credentials(self) -> Credentials:
        """Return credentials for links, whose other end may also be a contact: who it is must be checked afterwards."""
        own = self.credentials()
        return msgspec.structs.replace(own, ca=own.ca + self.contacts.authorities())

    def local_credentials(self) -> Credentials:
        """Return credentials that connect only processes of this very node.

        They are of a CA that lives in memory, so they work when the swarm's certificate has expired.
        """
        if self._local is None:
            key, now = Ed25519PrivateKey.generate(), self.now()
            ca = x.make_ca(key, now)
            # They end with this process, which may run for years.
            mine = x.issue(ca, key, self._device_key.public_key(), now, lifetime=x.CA_LIFETIME)
            self._local = Credentials(certificate=x.to_pem(mine), key=key_to_pem(self._device_key), ca=x.to_pem(ca))
        return self._local

    def holders(self) -> str:
        """Return in words which other devices hold the CA key."""
        names = [member.name for member in self.roster.members if member.holds_ca and member.id != self.id]
        return " or ".join(names) or "the device that founded it"

    def sign(self, message: bytes) -> bytes:
        """Return the device key's signature (64 bytes) of `message`, which says by itself what it is for."""
        return self._device_key.sign(message)

    # Membership, with the CA key

    def check_may_invite(self) -> None:
        """Raise `Refused` unless this device can admit members."""
        self._need_ca_key("invite")

    def admit(self, request: bytes, name: str) -> tuple[Admission, Member]:
        """Make the device that signed `request` (a CSR, DER) a member; a taken name gets a number.

        Raises
        ------
        Refused
            The request is malformed, or this device does not hold the CA key.
        UsageError
            The name cannot be one, or the swarm is full.
        """
        ca_key = self._need_ca_key("invite")
        public_key = x.read_request(request)
        identity, now = node_id(public_key), self.now()
        certificate = x.issue(self.ca, ca_key, public_key, now)
        known, removed = self.roster.member(identity), self.roster.removed(identity)
        member = Member(
            id=identity,
            name=self.roster.free_name(check_name(name), identity),
            added=known.added if known else now,
            certificates=keep_certificates((*(known.certificates if known else ()), issued(certificate)), now),
            holds_ca=known is not None and known.holds_ca,
            version=known.version if known else removed.version + 1 if removed else 1,
        )
        self._sign(self.roster.with_member(member))
        admission = Admission(
            certificate=x.to_der(certificate),
            ca=x.to_der(self.ca),
            owner=self._swarm.owner,
            statement=self._swarm.statement,
            roster=self.signed_roster,
        )
        return admission, member

    def remove(self, name: str) -> Revoked:
        """Remove the member with this name or id from the swarm, and return its record.

        Raises
        ------
        NotFound
            No member is called so.
        Refused
            This device does not hold the CA key.
        """
        self._need_ca_key("remove a member")
        member = self.roster.named(name)
        if member is None:
            names = ", ".join(m.name for m in self.roster.members if m.id != self.id) or "nobody else"
            raise NotFound(f"No member is called {name!r}. Members are: {names}.")
        if member.id == self.id:
            raise UsageError("This is the device itself. Remove it from another device that holds the CA key.")
        self._sign(self.roster.without_member(member, self.now()))
        removed = self.roster.removed(member.id)
        assert removed is not None  # noqa: S101 — without_member just put it there
        return removed

    def renew(self, request: bytes, asker: str) -> bytes:
        """Return a new certificate (DER) for the member `asker`, who signed `request` (a CSR, DER).

        Raises
        ------
        Refused
            The request is not the asker's, or it is no member, or this device does not hold the CA key.
        """
        ca_key = self._need_ca_key("renew certificates")
        public_key = x.read_request(request)
        member = self.roster.member(asker)
        if member is None or node_id(public_key) != asker:
            raise Refused("Only a member's own certificate can be renewed.")
        certificate = x.issue(self.ca, ca_key, public_key, self.now())
        kept = keep_certificates((*member.certificates, issued(certificate)), self.now())
        self._sign(self.roster.with_member(msgspec.structs.replace(member, certificates=kept)))
        return x.to_der(certificate)

    def renew_own(self) -> None:
        """Renew this device's certificate with the CA key that it holds."""
        self.accept_renewal(self.renew(self.request(), self.id))

    def export_key(self, passphrase: str) -> str:
        """Return the CA key and the owner key as one line of text, encrypted under `passphrase`.

        Takes about half a second and 64 MiB (scrypt), as `import_key` does.
        """
        ca_key = self._need_ca_key("export its key")
        owner_key = self._swarm.owner_key
        exported = _Exported(ca_key=key_to_pem(ca_key), owner_key=owner_key.encode() if owner_key else b"")
        return seal(msgspec.msgpack.encode(exported), passphrase)

    def import_key(self, text: str, passphrase: str) -> None:
        """Make this device hold the CA key of its swarm, from what `export_key` gave elsewhere.

        Raises
        ------
        Refused
            The passphrase is wrong, the text is damaged, the key is another swarm's, or this device was removed.
        """
        self.adopt_key(unseal(text, passphrase))

    def adopt_key(self, exported: bytes) -> None:
        """Do what `import_key` does after the slow part, `unseal`."""
        if self.removed:
            raise Refused(str(self.problem))
        try:
            keys = msgspec.msgpack.decode(exported, type=_Exported)
            ca_key = key_from_pem(keys.ca_key)
        except ValueError as exc:
            raise Refused("The exported key cannot be read. Was it made by a newer ainet?") from exc
        if x.swarm_of_key(ca_key.public_key()) != self.swarm:
            raise Refused("This is the key of another swarm: join that swarm first, then import its key.")
        self._store(ca_key=key_to_pem(ca_key).decode(), owner_key=keys.owner_key.decode() or None)
        member = self.roster.member(self.id)
        if member is not None:
            self._sign(self.roster.with_member(msgspec.structs.replace(member, holds_ca=True)))

    # Membership, as a member

    def request(self) -> bytes:
        """Return a certificate signing request (DER) for this device's key."""
        return x.make_request(self._device_key)

    def check_may_join(self, swarm: str) -> None:
        """Raise `UsageError` when this device cannot join `swarm` without leaving another behind."""
        if swarm == self.swarm and self.holds_ca and not self.removed:
            raise UsageError("This ticket is of this device's own swarm. Use it on the device that is to join.")
        others = [member.name for member in self.roster.members if member.id != self.id]
        if swarm != self.swarm and others and not self.removed:
            raise UsageError(
                f"This device already belongs to a swarm, with {', '.join(others[:5])}. It can join another one after "
                f"`ainet remove` there, or with another data directory."
            )

    def adopt(self, admission: Admission, swarm: str) -> None:
        """Become a member of `swarm`, whose CA's fingerprint the ticket named; the swarm before is left.

        Raises
        ------
        Refused
            The admission does not hold together.
        """
        self.check_may_join(swarm)
        ca = x.read_ca(admission.ca)
        certificate = x.load(admission.certificate)
        if x.swarm_of(ca) != swarm:
            raise Refused("The CA is not the one that the ticket names.")
        self._check_own(certificate, ca)
        check_statement(admission.owner, admission.statement, swarm)
        roster = admission.roster.open(_public(ca), swarm)
        if roster.member(self.id) is None:
            raise Refused("The roster does not list this device as a member.")
        if swarm == self.swarm and roster.serial < self.roster.serial:
            raise Refused(
                "The inviting device does not know the latest changes of the swarm: let it meet another member first."
            )
        joined = Swarm(
            ca=x.to_pem(ca).decode(),
            certificate=x.to_pem(certificate).decode(),
            owner=admission.owner,
            statement=admission.statement,
            roster=admission.roster,
        )
        joined.save(self._path)
        self._load(joined)

    def accept_renewal(self, der: bytes) -> None:
        """Use the renewed certificate (DER) from now on; raises `Refused` when it is not one."""
        certificate = x.load(der)
        self._check_own(certificate, self.ca)
        self._store(certificate=x.to_pem(certificate).decode())

    def apply(self, signed: SignedRoster) -> bool:
        """Take over a roster that a member showed, if it is newer; tell whether anything changed.

        Raises
        ------
        Refused
            The CA did not sign it.
        """
        roster = signed.open(_public(self.ca), self.swarm)
        newer = roster.serial > self.roster.serial
        if self.holds_ca and not self.removed:
            # Another device with the CA key may have changed the roster while we were apart: lose nothing.
            merged = self.roster.merge(roster)
            if not (newer and merged.says_the_same(roster)):
                older = roster.serial < self.roster.serial and merged.says_the_same(self.roster)
                if older or signed.digest == self.signed_roster.digest:
                    return False
                self._sign(merged)
                return True
        if newer:
            self._store(roster=signed)
        return newer

    # How it is kept

    def _load(self, swarm: Swarm) -> None:
        ca = x509.load_pem_x509_certificate(swarm.ca.encode())
        certificate = x509.load_pem_x509_certificate(swarm.certificate.encode())
        ca_key = key_from_pem(swarm.ca_key.encode()) if swarm.ca_key else None
        self.swarm = x.swarm_of(ca)
        if ca_key is not None and x.swarm_of_key(ca_key.public_key()) != self.swarm:
            raise ValueError("the CA key is not the swarm's")
        self.roster = swarm.roster.open(_public(ca), self.swarm)
        self.signed_roster = swarm.roster
        self.ca, self.certificate, self._ca_key, self._swarm = ca, certificate, ca_key, swarm
        self._credentials = Credentials(
            certificate=swarm.certificate.encode(), key=key_to_pem(self._device_key), ca=swarm.ca.encode()
        )

    def _store(self, **changes: object) -> None:
        swarm = msgspec.structs.replace(self._swarm, **changes)
        swarm.save(self._path)
        self._load(swarm)

    def _sign(self, roster: Roster) -> None:
        ca_key = self._need_ca_key("change the roster")
        self._store(roster=msgspec.structs.replace(roster, serial=roster.serial + 1).sign(ca_key))

    def _greet(self, name: str) -> None:
        # A device that holds the key renews itself; one that is alone may be renamed freely.
        if not self.holds_ca or self.removed:
            return
        if self.renewal_due:
            self.renew_own()
        member = self.roster.member(self.id)
        if member is not None and len(self.roster.members) == 1 and member.name != name:
            self._sign(self.roster.with_member(msgspec.structs.replace(member, name=name)))

    def _check_own(self, certificate: x509.Certificate, ca: x509.Certificate) -> None:
        x.check_issued(certificate, ca, self.now())
        if x.certificate_id(certificate) != self.id:
            raise Refused("The certificate is not for this device's key.")

    def _need_ca_key(self, what: str) -> Ed25519PrivateKey:
        if self.removed:
            raise Refused(str(self.problem))
        if self._ca_key is None:
            raise Refused(f"Only a device that holds the swarm's CA key can {what}: run this on {self.holders()}.")
        return self._ca_key


def _public(ca: x509.Certificate) -> Ed25519PublicKey:
    public = ca.public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise Refused("The CA's key is not an Ed25519 key.")
    return public


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
