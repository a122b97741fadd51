"""TLS inside a byte stream.

The TLS engine works on memory (`ssl.MemoryBIO`), apart from what carries its bytes: both ends learn why a handshake
failed, and the same authentication will do over carriers that are not TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.credentials import peer_certificate
from ainet.wire.carrier import reason

if TYPE_CHECKING:
    from cryptography import x509

    from ainet.wire.carrier import Carrier

MAX_HANDSHAKE = 16 * 1024  # bytes
LINGER = 1.0  # seconds that a refused peer has to read why

_NOT_OURS = "{} showed a certificate that is not of this swarm. Is it a member? A ticket (`ainet invite`) makes it one."
_VERIFICATION = {
    9: "The certificate of {} is not valid yet: the clock of one of the two devices is wrong.",
    10: "The certificate of {} has expired. It must join again with a new ticket (`ainet invite`).",
}
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "{} showed no certificate. Only members of the swarm may connect.",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "{} demands a certificate of its swarm.",
    "TLSV1_ALERT_UNKNOWN_CA": "{} refused: this device's certificate is not of its swarm.",
    "SSLV3_ALERT_BAD_CERTIFICATE": "{} refused: this device's certificate is not valid there.",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "{} refused: this device's certificate has expired there.",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "{} refused: this device's certificate is not valid there.",
    "WRONG_VERSION_NUMBER": "{} does not speak TLS.",
    "HTTP_REQUEST": "{} does not speak TLS.",
    "UNSUPPORTED_PROTOCOL": "{} does not speak TLS 1.3.",
}


class SecureStream:
    """A TLS connection over a carrier.

    Parameters
    ----------
    carrier
        The carrier of its bytes.
    peer
        The name of the other end in messages, or "the …".
    """

    def __init__(
        self,
        carrier: Carrier,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        peer: str,
    ) -> None:
        self.peer = peer
        #: Bytes that came from the carrier.
        self.received = 0
        #: Most of them; None: any number.
        self.quota: int | None = MAX_HANDSHAKE
        #: When the last of them came, on the event loop's clock (s).
        self.heard_at = 0.0
        self._server_side = server_side
        self._is_plain = True
        self._carrier = carrier
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    @property
    def certificate(self) -> x509.Certificate:
        """The other end's certificate; raises `Refused` when it showed none."""
        return peer_certificate(self._tls)

    @property
    def local_host(self) -> str:
        """The address of this end, as the other end's network knows it."""
        return self._carrier.local_host

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._carrier.backlog

    async def handshake(self) -> None:
        """Negotiate TLS.

        Raises
        ------
        Refused
            One end does not accept the other's certificate, or does not speak TLS.
        PeerUnreachable
            The carrier ended.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                await self._fill()
            except ssl.SSLError as exc:
                if not self._is_plain:
                    self._flush()  # the alert, from which the other end learns why
                raise self._explain(exc) from exc
            else:
                self._flush()
                self.quota = None
                return

    async def read_exactly(self, count: int) -> bytearray:
        """Return the next `count` bytes; raises `PeerUnreachable` when the stream ends before."""
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            try:
                got = self._tls.read(count - done, view[done:])
            except ssl.SSLWantReadError:
                await self._fill()
                continue
            except ssl.SSLError as exc:
                raise self._explain(exc) from exc
            if not got:
                raise self._ended()
            done += int(got)
        return data

    def write(self, data: bytes) -> None:
        """Hand `data` to the carrier whole; `drain` waits until it can take more."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as exc:
            raise self._explain(exc) from exc
        self._flush()

    async def drain(self) -> None:
        """Wait until the carrier can take more; raises `PeerUnreachable` when it is gone."""
        try:
            await self._carrier.drain()
        except OSError as exc:
            raise self._ended(exc) from exc

    async def close(self) -> None:
        """Close in an orderly way: the other end can still read what was written."""
        try:
            async with asyncio.timeout(LINGER):
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
                self._carrier.write_eof()
                # Closing with unread bytes would reset the connection and destroy what is on its way.
                for _ in range(64):
                    if not await self._carrier.read():
                        break
        except OSError:
            pass  # gone, or (a TimeoutError) still there after all
        finally:
            self._carrier.cut()
        await self.abort()

    async def refuse(self, word: bytes) -> None:
        """Close after a failed handshake; an end that does not speak TLS reads `word`."""
        if self._server_side and self._is_plain:
            self._carrier.write(word)
        await self.close()

    def cut(self) -> None:
        """Close at once, without waiting."""
        self._carrier.cut()

    async def abort(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            await self._carrier.wait_closed()

    async def _fill(self) -> None:
        try:
            data = await self._carrier.read()
        except OSError as exc:
            raise self._ended(exc) from exc
        if not data:
            raise self._ended()
        if not self.received:
            self._is_plain = data[0] != 0x16  # the type of a TLS handshake record
        self.received += len(data)
        self.heard_at = asyncio.get_running_loop().time()
        if self.quota is not None and self.received > self.quota:
            raise ProtocolError(_sentence(f"{self.peer} sent more than {self.quota:,} bytes too early."))
        self._incoming.write(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._carrier.write(self._outgoing.read())

    def _ended(self, exc: OSError | None = None) -> PeerUnreachable:
        why = f": {reason(exc)}" if exc else ""
        return PeerUnreachable(_sentence(f"{self.peer} closed the connection{why}."))

    def _explain(self, exc: ssl.SSLError) -> AinetError:
        if isinstance(exc, ssl.SSLZeroReturnError | ssl.SSLEOFError):
            return self._ended()
        if isinstance(exc, ssl.SSLCertVerificationError):
            return Refused(_sentence(_VERIFICATION.get(exc.verify_code, _NOT_OURS).format(self.peer)))
        words = _REASONS.get(
            exc.reason or "", f"The TLS connection with {{}} failed: {exc.reason or 'no reason given'}."
        )
        return Refused(_sentence(words.format(self.peer)))


def _sentence(words: str) -> str:
    return f"T{words[1:]}" if words.startswith("the ") else words
