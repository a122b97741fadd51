"""Vouchers: written in one way, signed by their payer, and worth something only to their payee."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.market_pair import ANA, BEN, EVE, PARTIES, raw, voucher

from ainet.economy.voucher import DOMAIN, MAX_BODY, Body, Kind, Voucher, read, sign
from ainet.errors import ProtocolError

KEY = BEN.public_key()


@given(st.integers(0, 2**63 - 1), st.binary(min_size=16, max_size=16), st.integers(0, 2**31))
def test_a_voucher_says_what_was_signed(total, session, tokens):
    one = voucher(total, session, tokens=tokens, gifts=total // 2)
    body = read(one, PARTIES, KEY)
    assert body is not None
    assert (body.total, body.session, body.tokens, body.gifts) == (total, session, tokens, total // 2)
    assert (body.payer, body.payee) == (raw(BEN), raw(ANA))
    assert len(msgspec.msgpack.encode(one)) < 256


@given(st.integers(0, MAX_BODY * 8 - 1), st.booleans())
def test_one_bit_makes_it_worthless(bit, is_signature):
    one = voucher(1000, b"s" * 16)
    data = bytearray(one.signature if is_signature else one.body)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    changed = Voucher(one.body, bytes(data)) if is_signature else Voucher(bytes(data), one.signature)
    try:
        assert read(changed, PARTIES, KEY) is None  # for somebody else
    except ProtocolError:
        pass
    else:
        assert not is_signature


@pytest.mark.parametrize("field", ["payer", "payee"])
def test_it_adds_nothing_for_others(field):
    assert read(voucher(1000, **{field: raw(EVE)}), PARTIES, KEY) is None


@pytest.mark.parametrize("field", ["payer_swarm", "payee_swarm"])
def test_it_holds_in_its_swarms_only(field):
    with pytest.raises(ProtocolError, match="another swarm"):
        read(voucher(1000), PARTIES._replace(**{field: b"x" * 32}), KEY)


def test_it_holds_in_its_domain_only():
    one = voucher(1000)
    other = BEN.sign(b"ainet receipt 1\0" + PARTIES.payer_swarm + PARTIES.payee_swarm + one.body)
    with pytest.raises(ProtocolError, match="not signed"):
        read(Voucher(one.body, other), PARTIES, KEY)
    assert BEN.sign(DOMAIN + PARTIES.payer_swarm + PARTIES.payee_swarm + one.body) == one.signature


def test_the_other_direction_is_another_account():
    body = Body(raw(ANA), raw(BEN), 5, 0, Kind.WORK, bytes(16), 0, bytes(32), 0)
    one = sign(body, PARTIES.reversed, ANA.sign)
    assert read(one, PARTIES, KEY) is None
    assert read(one, PARTIES.reversed, ANA.public_key()) == body


def _with(**fields: object) -> list[object]:
    body = msgspec.structs.asdict(read(voucher(1000), PARTIES, KEY))
    return list((body | fields).values())


BAD = {
    "nothing": b"",
    "no array": msgspec.msgpack.encode({"total": 1}),
    "too few": msgspec.msgpack.encode(_with()[:-1]),
    "one more": msgspec.msgpack.encode([*_with(), 0]),
    "negative": msgspec.msgpack.encode(_with(total=-1)),
    "huge": msgspec.msgpack.encode(_with(total=2**63)),
    "a float": msgspec.msgpack.encode(_with(total=1.5)),
    "of no kind": msgspec.msgpack.encode(_with(kind=7)),
    "a short key": msgspec.msgpack.encode(_with(payee=b"short")),
    "a long session": msgspec.msgpack.encode(_with(session=bytes(17))),
    "a time of its own": msgspec.msgpack.encode(_with(time=1 << 50)),
    "a float that is whole": msgspec.msgpack.encode(_with(total=1000.0)),
    "an integer that is too long": msgspec.msgpack.encode(_with()).replace(b"\xcd\x03\xe8", b"\xce\x00\x00\x03\xe8"),
    "something behind it": msgspec.msgpack.encode(_with()) + b"\0",
    "deep": b"\x91" * 180,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_not_written_as_it_should_be_is_refused(body):
    signature = BEN.sign(DOMAIN + PARTIES.payer_swarm + PARTIES.payee_swarm + body)
    with pytest.raises(ProtocolError, match="voucher"):
        read(Voucher(body, signature), PARTIES, KEY)
