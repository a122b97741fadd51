"""Addresses that members tell of each other: nonsense is passed over, and a message never has too many."""

from __future__ import annotations

import logging

import pytest

from ainet.errors import PeerUnreachable
from ainet.links.address_book import TOLD_ADDRESSES, AddressBook
from ainet.links.dialler import Attempts, first
from ainet.links.frames import MAX_HINTS, Hint
from ainet.wire.address import can_be_dialled
from ainet.wire.carrier import dial

LOG = logging.getLogger("ainet.tests")


@pytest.mark.parametrize("address", ["http://[", "http://", "https://:80/", "http://h:99999/", "h:0", "nonsense", "::"])
def test_what_is_no_address_is_not_kept(tmp_path, address):
    assert not can_be_dialled(address)
    book = AddressBook(tmp_path / "network.json", LOG)
    book.learn(Hint("a" * 52, address, 1.0), 2.0)
    assert book.addresses("a" * 52) == []


@pytest.mark.parametrize("address", ["a..b:80", f"{'a' * 70}.b:80", "http://a..b/"])
async def test_a_strange_host_is_unreachable_and_nothing_else(address):
    with pytest.raises(PeerUnreachable):
        await dial(address)


async def test_one_bad_address_does_not_spoil_the_others():
    async def attempt(address):
        if address == "bad":
            raise PeerUnreachable("bad: that is no address")
        return address

    assert await first(["bad", "good"], attempt) == "good"
    assert isinstance(await first(["bad"], attempt), Attempts)


def test_what_is_told_of_many_members_fits_into_a_message(tmp_path):
    book = AddressBook(tmp_path / "network.json", LOG)
    for member in range(1100):
        for i in range(12):
            book.learn(Hint(f"{member:052d}", f"10.0.0.{i + 1}:80", i + 1.0), 100.0)
    hints = book.hints()
    assert len(hints) == MAX_HINTS
    assert len(book.addresses(f"{5:052d}")) == 12
    of_one = [hint for hint in hints if hint.id == f"{5:052d}"]
    assert len(of_one) <= TOLD_ADDRESSES
