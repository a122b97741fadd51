"""What services on the local network say of themselves, which anybody may be: read within limits, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from zeroconf.asyncio import AsyncServiceInfo

from ainet.links.discovery import SERVICE, Sighting, read_sighting
from ainet.wire.interfaces import MOST

ID = "a" * 52
SWARM = "0" * 32
HONEST = {b"id": ID.encode(), b"swarm": SWARM.encode(), b"v": b"1"}


def service(properties=HONEST, *, port=4711, hosts=("192.0.2.1",)):
    return AsyncServiceInfo(SERVICE, f"x.{SERVICE}", port=port, properties=properties, parsed_addresses=list(hosts))


def text(*entries):
    """Return a TXT record of these entries as it travels."""
    return b"".join(bytes([len(entry)]) + entry for entry in entries)


def test_what_a_node_says_is_read():
    hosts = ("192.0.2.1", "2001:db8::1")
    expected = Sighting(ID, SWARM, ("192.0.2.1:4711", "[2001:db8::1]:4711"), 1)
    assert read_sighting(service(hosts=hosts)) == expected
    assert read_sighting(service(HONEST | {b"more": b"\xff", b"alone": None}, hosts=hosts)) == expected
    assert read_sighting(service(hosts=())) == Sighting(ID, SWARM, (), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {b"id": "ä".encode() * 26},
        {b"swarm": "größe".encode()},
        {b"v": "\u0661".encode()},  # a digit, though not one of ASCII
        {b"id": None},
        {b"id": b""},
        {b"id": b"A" * 52},
        {b"id": b"a" * 51},
        {b"id": b"a" * 53},
        {b"id": b"a" * 52 + b"\n"},
        {b"id": b"../" + b"a" * 49},
        {b"swarm": b"0" * 65},
        {b"v": None},
        {b"v": b"-1"},
        {b"v": b"1.5"},
        {b"v": b" 1"},
        {b"v": b"one"},
        {b"v": b"1" * 6},
        {b"v": b"1" * 200},
    ],
    ids=repr,
)
def test_what_no_node_says_is_left_alone(wrong):
    assert read_sighting(service(HONEST | wrong)) is None


@pytest.mark.parametrize("missing", [b"id", b"v"])
def test_what_is_missing_is_not_made_up(missing):
    assert read_sighting(service({key: value for key, value in HONEST.items() if key != missing})) is None
    assert read_sighting(service({})) is None


@pytest.mark.parametrize("port", [None, 0])
def test_without_a_port_nobody_can_be_linked(port):
    assert read_sighting(service(port=port)) is None


@pytest.mark.parametrize("hosts", [[f"192.0.2.{i}" for i in range(250)], [f"2001:db8::{i:x}" for i in range(1, 900)]])
def test_of_hundreds_of_addresses_a_few_are_taken(hosts):
    found = read_sighting(service(hosts=hosts))
    assert found is not None
    assert len(set(found.addresses)) == MOST
    assert all(address.endswith(":4711") and address[:-5].strip("[]") in hosts for address in found.addresses)


entries = st.one_of(
    st.binary(max_size=60),
    st.builds(bytes.__add__, st.sampled_from([b"id=", b"swarm=", b"v=", b"id", b"v"]), st.binary(max_size=60)),
    st.sampled_from([b"id=" + ID.encode(), b"swarm=" + SWARM.encode(), b"v=1"]),
)


@settings(max_examples=examples(1000))
@given(st.one_of(st.binary(max_size=400), st.lists(entries, max_size=8).map(lambda some: text(*some))))
def test_records_of_any_bytes_are_read_within_limits_or_not_at_all(record):
    found = read_sighting(service(record))
    if found is not None:
        assert found.id == ID
        assert len(found.swarm) <= 64
        assert found.swarm.isascii()
        assert 0 <= found.protocol < 100_000


def test_records_as_they_travel_are_read():
    record = text(b"id=" + ID.encode(), b"swarm=" + SWARM.encode(), b"v=1")
    assert read_sighting(service(record)) == read_sighting(service())
    assert read_sighting(service(record[:-1])) is None  # it ends in the middle
