"""Ed25519 keys: node ids, key files, and keys sealed under a passphrase."""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ainet.errors import AinetError, Refused, UsageError
from ainet.files import write_private

if TYPE_CHECKING:
    from pathlib import Path

_PRIME = 2**255 - 19
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
#: The y coordinates of the eight points of small order on edwards25519: of orders 1, 2, 4 (two) and 8 (four).
_SMALL_ORDER = {1, _PRIME - 1, 0, _ORDER_8, _PRIME - _ORDER_8}
SEALED_PREFIX = "ainetkey1-"
MIN_PASSPHRASE = 10  # characters
MAX_SEALED = 10_000  # characters


def node_id(public_key: Ed25519PublicKey) -> str:
    """Return the node id of a device key: lower-case base32 of the 32 raw bytes, 52 characters."""
    return base64.b32encode(public_key.public_bytes_raw()).decode().rstrip("=").lower()


def is_node_id(text: str) -> bool:
    """Tell whether `text` has the form of a node id."""
    return re.fullmatch(r"[a-z2-7]{52}", text) is not None


def is_weak(key: Ed25519PublicKey) -> bool:
    """Tell whether anybody can sign for a key, since its point has a small order; in whatever way it is written.

    RFC 8032 does not refuse such keys, and OpenSSL accepts forgeries under seven of the eight.
    """
    y = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)  # without the sign of x
    return y % _PRIME in _SMALL_ORDER


def is_weak_id(identity: str) -> bool:
    """Tell whether a node id is that of a weak key."""
    try:
        return is_weak(Ed25519PublicKey.from_public_bytes(base64.b32decode(identity.upper() + "====")))
    except ValueError:
        return False


def public_key_of(identity: str) -> Ed25519PublicKey:
    """Return the device key that a node id stands for.

    Raises
    ------
    Refused
        The text stands for none, or for one that anybody can sign for.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b32decode(identity.upper() + "===="))
    except ValueError as exc:
        raise Refused(f"{identity[:60]!r} is no node id.") from exc
    if node_id(key) != identity:  # base32 has room for four bits that mean nothing
        raise Refused(f"{identity[:60]!r} is no node id.")
    if is_weak(key):
        raise Refused(f"{identity} is the id of a key for which anybody can sign. It is accepted nowhere.")
    return key


def key_to_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> Ed25519PrivateKey:
    """Return the key in `pem`.

    Raises
    ------
    ValueError
        `pem` is not an unencrypted Ed25519 key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as exc:
        raise ValueError("an encrypted key") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def open_key(path: Path) -> Ed25519PrivateKey:
    """Return the key stored at `path`, a new one when there is none yet."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_private(path, key_to_pem(key))
        return key
    try:
        return key_from_pem(path.read_bytes())
    except ValueError as exc:
        raise AinetError(
            f"{path} is damaged ({exc}). Restore it from a backup, "
            f"or delete the folder {path.parent} to begin as a new device."
        ) from exc


def verifies(public_key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Tell whether `signature` is the key's signature of `message`; never of a weak key's."""
    if is_weak(public_key):
        return False
    try:
        public_key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def seal(secret: bytes, passphrase: str) -> str:
    """Return `secret` encrypted under `passphrase` (scrypt, AES-256-GCM), as one line of text."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise UsageError(f"The passphrase is too short: choose at least {MIN_PASSPHRASE} characters.")
    salt, nonce = os.urandom(16), os.urandom(12)
    box = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, secret, SEALED_PREFIX.encode())
    return SEALED_PREFIX + base64.urlsafe_b64encode(salt + nonce + box).decode()


def unseal(text: str, passphrase: str) -> bytes:
    """Return what `seal` encrypted; takes about half a second and 64 MiB.

    Raises
    ------
    Refused
        The passphrase is wrong, or the text is not, or no longer, an exported key.
    """
    text = "".join(text.split())
    try:
        if not text.startswith(SEALED_PREFIX) or len(text) > MAX_SEALED:
            raise ValueError
        data = base64.b64decode(text.removeprefix(SEALED_PREFIX), altchars=b"-_", validate=True)
        if len(data) < 44:
            raise ValueError
    except ValueError as exc:
        raise Refused(f"This is not an exported key: one begins with {SEALED_PREFIX} and is copied whole.") from exc
    try:
        return AESGCM(_stretch(passphrase, data[:16])).decrypt(data[16:28], data[28:], SEALED_PREFIX.encode())
    except InvalidTag as exc:
        raise Refused("The passphrase does not open this exported key, or the text was changed.") from exc


def _stretch(passphrase: str, salt: bytes) -> bytes:
    # OWASP's password storage cheat sheet: N = 2^16, r = 8, p = 2.
    return Scrypt(salt=salt, length=32, n=2**16, r=8, p=2).derive(passphrase.encode())
