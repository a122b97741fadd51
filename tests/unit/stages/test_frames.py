"""The data path: frames survive, strangers do not, and what is no frame is refused."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.whole_stage import EPOCH

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.credentials import client_context
from ainet.identity.identity import Identity
from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.frames import HEADER, PLAIN_WORD, Kind, RingConnection, RingListener, connect
from ainet.stages.ring.hidden_states import HiddenStates
from ainet.stages.ring.inbox import Inbox

LIMIT = 1 << 16
FORM, EIGHT = HiddenStates("float32", 576), HiddenStates("float32", 8)


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return Identity.open(tmp_path_factory.mktemp("node"), "node")


@pytest.fixture
def ring(identity):
    """Two ends of one connection: (sender, receiver)."""
    refusals: list[str] = []
    credentials = identity.local_credentials()
    listener = RingListener(credentials, "127.0.0.1", refusals.append)
    found: list[RingConnection] = []
    thread = threading.Thread(target=lambda: found.append(listener.accept(identity.id, EPOCH, LIMIT)))
    thread.start()
    sender = connect(credentials, ("127.0.0.1", listener.port), identity.id, EPOCH, LIMIT)
    thread.join()
    yield sender, found[0]
    sender.close()
    found[0].close()


def test_hidden_states_arrive_as_they_were_sent(ring):
    sender, receiver = ring
    hidden = np.random.default_rng(0).standard_normal((3, 576), np.float32)
    segments = [Segment(7, 40, 2, 1), Segment(3, 0, 1)]
    sender.send(Kind.HIDDEN, segments, FORM.write(hidden))
    frame = receiver.receive()
    assert (frame.kind, frame.segments) == (Kind.HIDDEN, segments)
    assert np.array_equal(FORM.read(frame), hidden)
    assert sender.bytes_sent <= 1.2 * hidden.nbytes + 100


def test_an_unblocked_end_waits_for_nobody_and_keeps_the_order(ring):
    sender, receiver = ring
    sender.unblock()
    tokens = np.arange(LIMIT // 4 - 10, dtype=np.int32)
    n = 300  # 19 MB: more than any socket holds
    for i in range(n):  # nobody reads yet
        sender.send_tokens(Kind.PROMPT, [Segment(i, 0, len(tokens))], tokens)
        sender.send(Kind.RELEASE, [Segment(i, 0, 0)])
    for i in range(n):
        frame = receiver.receive()
        assert (frame.kind, frame.segments[0].slot) == (Kind.PROMPT, i)
        assert np.array_equal(frame.tokens(), tokens)
        frame = receiver.receive()
        assert (frame.kind, frame.segments[0].slot) == (Kind.RELEASE, i)
    sender.send(Kind.CLEAR)  # at once again
    assert receiver.receive().kind == Kind.CLEAR


def test_an_unblocked_end_says_that_the_other_one_is_gone(ring):
    sender, receiver = ring
    sender.unblock()
    receiver.close()

    def flood() -> None:
        for _ in range(1000):
            sender.send(Kind.PROMPT, payload=bytes(LIMIT - 100))
            threading.Event().wait(0.001)

    with pytest.raises(ConnectionResetError):
        flood()


def plain_link(sock: socket.socket) -> RingConnection:
    """Return a link without TLS."""
    link = RingConnection.__new__(RingConnection)
    link.socket, link._max_payload = sock, LIMIT
    link._received, link._sending = bytearray(HEADER.size), bytearray(HEADER.size)
    link._start = link._end = link.bytes_sent = link.frames_sent = 0
    link._lock = threading.Lock()
    link._overflow = None
    return link


class Cut:
    """A socket that delivers what it has in pieces of the given sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self.data = bytearray()
        self._sizes = itertools.cycle(sizes)

    def sendall(self, data: memoryview) -> None:
        self.data += data

    def recv_into(self, target: memoryview) -> int:
        n = min(next(self._sizes), len(target), len(self.data))
        target[:n] = self.data[:n]
        del self.data[:n]
        return n

    def pending(self) -> int:
        return 0


@settings(max_examples=examples(300), deadline=None)
@given(
    rows=st.lists(st.integers(0, 9), max_size=12),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=8),
    ahead=st.integers(1, 4),
)
def test_frames_arrive_whole_however_the_bytes_are_cut(rows, sizes, ahead):
    cut = Cut(sizes)
    sender, receiver = plain_link(cut), plain_link(cut)
    for begun in range(0, len(rows), ahead):
        batch = list(enumerate(rows))[begun : begun + ahead]
        for position, n in batch:
            sender.send(Kind.HIDDEN, [Segment(1, position, n)], EIGHT.write(np.full((n, 8), position, np.float32)))
            sender.send_tokens(Kind.PROMPT, [Segment(2, position, n, 1)], np.arange(n, dtype=np.int32))
        for position, n in batch:
            frame = receiver.receive()
            assert (frame.kind, frame.segments) == (Kind.HIDDEN, [Segment(1, position, n)])
            assert np.array_equal(EIGHT.read(frame), np.full((n, 8), position, np.float32))
            frame = receiver.receive()
            assert (frame.kind, frame.segments) == (Kind.PROMPT, [Segment(2, position, n, 1)])
            assert frame.tokens().tolist() == list(range(n))
        assert not cut.data
        assert not receiver.buffered
    with pytest.raises(ConnectionResetError):
        receiver.receive()


@settings(max_examples=examples(200), deadline=None)
@given(junk=st.binary(min_size=HEADER.size, max_size=200))
def test_bytes_that_are_no_frame_are_refused(junk):
    left, right = socket.socketpair()
    with left, right:
        link = plain_link(right)
        left.sendall(junk)
        left.shutdown(socket.SHUT_WR)
        try:
            frame = link.receive()
            assert frame.kind in Kind
            FORM.read(frame)
        except (ProtocolError, ConnectionResetError):
            pass


def test_a_receiver_that_computes_for_long_is_not_dead(ring):
    sender, receiver = ring
    sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rows = np.ones((16, 576), np.float32)
    n = 200  # 7 MB: more than the system keeps for a receiver that does not read
    thread = threading.Thread(
        target=lambda: [sender.send(Kind.HIDDEN, [Segment(1, i, 16)], FORM.write(rows)) for i in range(n)]
    )
    thread.start()
    thread.join(timeout=4.5)  # longer than any time after which a silent connection is given up
    assert thread.is_alive()
    assert [receiver.receive().segments[0].position for _ in range(n)] == list(range(n))
    thread.join()


def test_a_frame_over_the_limit_is_refused(ring):
    sender, receiver = ring
    sender.send(Kind.HIDDEN, payload=b"x" * (LIMIT + 1))
    with pytest.raises(ProtocolError, match="frame of 65537 bytes; at most 65536 are allowed"):
        receiver.receive()


@pytest.mark.parametrize("case", ["plain", "stranger", "epoch"])
def test_who_does_not_belong_to_the_placement_is_refused(identity, tmp_path, case):
    refusals: list[str] = []
    credentials = identity.local_credentials()
    listener = RingListener(credentials, "127.0.0.1", refusals.append)
    address = ("127.0.0.1", listener.port)
    found: list[RingConnection] = []
    thread = threading.Thread(target=lambda: found.append(listener.accept(identity.id, EPOCH, LIMIT)))
    thread.start()
    if case == "plain":
        with socket.create_connection(address) as plain:
            plain.sendall(b"hello, I speak no TLS\n" * 20)
            plain.settimeout(5)
            assert plain.makefile("rb").read() == PLAIN_WORD
    elif case == "stranger":
        stranger = Identity.open(tmp_path, "stranger").local_credentials()
        with pytest.raises((PeerUnreachable, OSError, AinetError)):
            connect(stranger, address, identity.id, EPOCH, LIMIT).receive()
    else:
        link = connect(credentials, address, identity.id, b"f" * 16, LIMIT)
        with pytest.raises((OSError, ssl.SSLError)):
            link.receive()
        link.close()
    # The right one still gets in, once.
    link = connect(credentials, address, identity.id, EPOCH, LIMIT)
    thread.join()
    assert len(refusals) == 1
    assert "Refused a stage's connection" in refusals[0]
    if case != "stranger":
        assert {"plain": "does not speak TLS", "epoch": "another placement"}[case] in refusals[0]
    for end in (link, found[0]):
        end.close()


def test_another_device_at_the_address_is_noticed(identity):
    credentials = identity.local_credentials()
    listener = RingListener(credentials, "127.0.0.1", lambda _: None)
    found: list[RingConnection] = []
    thread = threading.Thread(target=lambda: found.append(listener.accept(identity.id, EPOCH, LIMIT)))
    thread.start()
    with pytest.raises(Refused, match="Another device"):
        connect(credentials, ("127.0.0.1", listener.port), "b" * 52, EPOCH, LIMIT)
    link = connect(credentials, ("127.0.0.1", listener.port), identity.id, EPOCH, LIMIT)
    thread.join()
    for end in (link, found[0]):
        end.close()


def test_nobody_at_the_address_is_said(identity):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PeerUnreachable, match=f"next stage at 127.0.0.1:{port} cannot be reached"):
        connect(identity.local_credentials(), ("127.0.0.1", port), identity.id, EPOCH, LIMIT)


def test_a_command_wakes_a_waiting_thread():
    inbox = Inbox()
    done: list[int] = []

    def wait() -> None:
        while not done:
            inbox.wait(None, 10.0)
            for command in inbox.drain():
                command()

    thread = threading.Thread(target=wait)
    thread.start()
    inbox.put(lambda: done.append(1))
    thread.join(timeout=10)
    assert done
    inbox.close()


def test_the_context_demands_a_certificate(identity):
    context = client_context(identity.local_credentials())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_sender_that_stops_in_the_middle_of_a_frame_is_noticed(ring):
    sender, receiver = ring
    receiver.within(0.2)
    sender.socket.sendall(HEADER.pack(Kind.HIDDEN, 0, 1000) + bytes(10))
    with pytest.raises(TimeoutError):
        receiver.receive()
