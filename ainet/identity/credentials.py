"""Credentials: what a process needs to speak mutual TLS as this node, and the contexts made from them.

Everything here is a pure function, for asyncio and for blocking sockets alike.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from ainet.errors import Refused
from ainet.identity.certificates import certificate_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class Credentials(msgspec.Struct, frozen=True):
    """A node's certificate, its private key, and the swarm's CA certificate, each as PEM."""

    certificate: bytes
    key: bytes
    ca: bytes

    def __repr__(self) -> str:
        return "Credentials(…)"  # the key must not end in a log


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a context for the accepting end: TLS 1.3, a certificate of the swarm's CA demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # No resumption: every connection proves its certificate again, so that a removal holds at once.
    context.num_tickets = 0
    return _member_context(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a context for the dialling end: TLS 1.3, a certificate of the swarm's CA demanded.

    Host names are not checked: the dialler compares `peer_id` with the node that it meant.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _member_context(context, credentials)


def pairing_server_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a context that shows the node's certificate and asks for none: the joiner has none yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_chain(context, credentials)
    return context


def pairing_client_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: the joiner checks it against its ticket afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_certificate(connection: ssl.SSLObject | ssl.SSLSocket) -> x509.Certificate:
    """Return the other end's certificate; raises `Refused` when it showed none that can be read."""
    der = connection.getpeercert(binary_form=True)
    try:
        if der:
            return x509.load_der_x509_certificate(der)
    except ValueError as exc:
        raise Refused("The other device's certificate cannot be read.") from exc
    raise Refused("The other device showed no certificate.")


def peer_id(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    """Return the node id that the other end of a finished handshake proved.

    Raises
    ------
    Refused
        The certificate does not name a node.
    """
    return certificate_id(peer_certificate(connection))


def _member_context(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=credentials.ca.decode())
    _load_chain(context, credentials)
    return context


def _load_chain(context: ssl.SSLContext, credentials: Credentials) -> None:
    with _as_file(credentials.certificate + credentials.key) as path:
        context.load_cert_chain(path)


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    # Python's ssl reads keys from files only. Where the kernel offers it, that file is memory.
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("ainet")
        try:
            os.write(handle, data)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
