"""Typed requests between nodes. Other layers define their own by subclassing `Request`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from ainet.links.standing import Standing


class Request(msgspec.Struct, frozen=True):
    """Base of everything that one node asks of another; the name of the class is its name on the wire.

    Class attributes
    ----------------
    reply
        Type of the answer; None when the answer is only that it was done.
    progress
        Type of what may come before the answer; None when nothing does.
    audience
        The lowest standing of those who may ask.
    """

    reply: ClassVar[type[msgspec.Struct] | None] = None
    progress: ClassVar[type[msgspec.Struct] | None] = None
    audience: ClassVar[Standing] = Standing.MEMBER


#: Bytes that a bandwidth is measured with.
PROBE_BYTES = 512 * 1024


class Payload(msgspec.Struct, frozen=True):
    """Bytes that mean nothing."""

    data: Annotated[bytes, msgspec.Meta(max_length=PROBE_BYTES)]


class Probe(Request, frozen=True):
    """Ask for this many bytes, to see how long they take."""

    reply = Payload
    audience = Standing.CONTACT

    size: Annotated[int, msgspec.Meta(ge=0, le=PROBE_BYTES)]


class Renewed(msgspec.Struct, frozen=True):
    """A renewed certificate (DER)."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=8192)]


class RenewCertificate(Request, frozen=True):
    """Ask a device that holds the CA key for a new certificate.

    Attributes
    ----------
    request
        Certificate signing request (DER) of the asker's device key.
    """

    reply = Renewed

    request: Annotated[bytes, msgspec.Meta(max_length=8192)]
