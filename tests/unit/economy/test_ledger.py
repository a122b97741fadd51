"""The ledger: what was signed for is on the disk, adds up, and cannot be changed unnoticed."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.market_pair import ALLOWANCE, ANA, BEN, RATE, raw

from ainet.economy import receipt as receipts
from ainet.economy.audit import audit
from ainet.economy.balance import Balance
from ainet.economy.ledger import NO_SESSION, DistributedLedger, Model, RowKind
from ainet.economy.order import Order
from ainet.economy.receipt import Finish, ReceiptBody, digest_of
from ainet.economy.signed import Parties
from ainet.economy.voucher import Body, Kind, sign
from ainet.errors import AinetError, ProtocolError

MODEL = Model(b"m" * 32, "tiny", RATE.parameters)
#: Ben buys from Ana; each keeps a ledger.
BUYS = Parties(raw(BEN), raw(ANA), b"b" * 32, b"a" * 32)


class Books:
    """The two ledgers of an account, and what is signed between them."""

    def __init__(self, folder):
        self.ana = DistributedLedger(folder / "ana.sqlite", raw(ANA), BUYS.payee_swarm)
        self.ben = DistributedLedger(folder / "ben.sqlite", raw(BEN), BUYS.payer_swarm)
        self.at_ana = self.ana.account(raw(BEN), BUYS.payer_swarm, new=Balance.new(0, ALLOWANCE)).id
        self.at_ben = self.ben.account(raw(ANA), BUYS.payee_swarm).id
        self.total = self.gifts = self.sessions = 0

    def session(self):
        self.sessions += 1
        return self.sessions.to_bytes(16, "big")

    def pay(self, amount, session, *, kind=Kind.WORK, tokens=(), arrives=True, parts=None):
        """Sign for more, and note it on both sides."""
        self.total += amount
        self.gifts += amount if kind is not Kind.WORK else 0
        body = Body(
            BUYS.payer, BUYS.payee, self.total, self.gifts, kind, session, len(tokens), digest_of(tokens), self.total
        )
        voucher = sign(body, BUYS, BEN.sign)
        own = {session: amount} if kind is Kind.WORK and parts is None else parts or {}
        assert self.ben.note_voucher(self.at_ben, voucher, body, own, is_own=True)
        if arrives:
            self.ana.note_voucher(self.at_ana, voucher, body, own, is_own=False)
        return voucher, body

    def answer(self, prompt, n, *, arrives=True, ends=True):
        """Play a session: vouchers, then a receipt."""
        order = Order(self.session(), RATE, prompt, n)
        tokens = list(range(n))
        self.ben.begin(self.at_ben, order, MODEL, is_own=True)
        self.ana.begin(self.at_ana, order, MODEL, is_own=False, at_risk=50)
        paid = order.half
        if paid:
            self.pay(paid, order.session, arrives=arrives)
        for done in range(16, n, 16):
            self.pay(order.so_far(done) - paid, order.session, tokens=tokens[:done], arrives=arrives)
            paid = order.so_far(done)
        if not ends:
            return order
        body = ReceiptBody(
            raw(ANA), raw(BEN), order.session, MODEL.digest, RATE.parameters, RATE.price, 7, prompt, n,
            digest_of([1] * prompt), digest_of(tokens), Finish.LENGTH, 9,
        )  # fmt: skip
        receipt = receipts.sign(body, BUYS, ANA.sign), body
        self.ben.end(self.at_ben, order.session, is_own=True, generated=n, receipt=receipt)
        self.ana.end(self.at_ana, order.session, is_own=False, generated=n, receipt=receipt)
        if order.so_far(n) > paid:
            self.pay(order.so_far(n) - paid, order.session, tokens=tokens, arrives=arrives)
        return order

    def check(self):
        assert audit(self.ana, raw(ANA)) == []
        assert audit(self.ben, raw(BEN)) == []

    def close(self):
        self.ana.close()
        self.ben.close()


@pytest.fixture
def books(tmp_path):
    found = Books(tmp_path)
    yield found
    found.close()


def test_both_sides_keep_the_same_rows(books):
    books.answer(100, 50)
    books.pay(500, NO_SESSION, kind=Kind.GIFT)
    books.answer(1, 5)
    books.check()
    sold, bought = list(books.ana.rows()), list(books.ben.rows())
    assert [(one.kind, one.credits) for one in sold] == [(one.kind, one.credits) for one in bought]
    assert [one.kind for one in sold] == [RowKind.SESSION, RowKind.GIFT, RowKind.SESSION]
    assert sold[0].credits == RATE.cost(100, 50)
    assert (sold[0].peer, sold[0].is_own, sold[0].model) == (raw(BEN), False, "tiny")
    assert (bought[0].peer, bought[0].is_own, bought[0].generated) == (raw(ANA), True, 50)
    ana = books.ana.account(raw(BEN), BUYS.payer_swarm)
    assert (ana.balance.acknowledged, ana.balance.acknowledged_gifts) == (books.total, 500)
    assert books.ben.account(raw(ANA), BUYS.payee_swarm).balance.signed == books.total


def test_a_voucher_that_is_not_higher_is_not_noted(books):
    books.answer(10, 5)
    voucher, body = books.pay(10, NO_SESSION, kind=Kind.GIFT)
    lower = replace_total(body, body.total - 1)
    for one in (body, lower):
        assert not books.ana.note_voucher(books.at_ana, voucher, one, {}, is_own=False)
    books.check()


def replace_total(body, total):
    return Body(**{name: total if name == "total" else getattr(body, name) for name in Body.__struct_fields__})


def test_what_comes_back_after_a_backup_is_a_row_of_its_own(books):
    books.answer(10, 5)
    books.answer(10, 40, arrives=False, ends=False)
    books.pay(7, b"x" * 16, parts={})
    (recovered,) = [one for one in books.ana.rows() if one.kind is RowKind.RECOVERED]
    assert recovered.credits == books.total - RATE.cost(10, 5)
    books.check()


def test_what_may_have_been_lost_with_the_process_is_written_off_once(books, tmp_path):
    books.answer(10, 40, ends=False)
    books.ana.close()
    for _ in range(2):
        books.ana = DistributedLedger(tmp_path / "ana.sqlite", raw(ANA), BUYS.payee_swarm)
        assert books.ana.account(raw(BEN), BUYS.payer_swarm).balance.written_off == 50
        books.ana.close()
    books.ana = DistributedLedger(tmp_path / "ana.sqlite", raw(ANA), BUYS.payee_swarm)


def test_another_swarm_is_another_account(books, tmp_path):
    books.answer(10, 5)
    other = books.ana.account(raw(BEN), b"z" * 32)
    assert other.balance.acknowledged == 0
    assert other.id != books.at_ana
    assert len(books.ana.accounts()) == 2


@settings(max_examples=examples(40))
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("answer"), st.integers(1, 60), st.integers(1, 70), st.booleans(), st.booleans()),
            st.tuples(st.just("gift"), st.integers(1, 1000)),
        ),
        max_size=8,
    )
)
def test_whatever_happens_the_rows_add_up_to_what_was_signed_for(tmp_path_factory, played):
    books = Books(tmp_path_factory.mktemp("books"))
    for what, *rest in played:
        if what == "gift":
            books.pay(rest[0], NO_SESSION, kind=Kind.GIFT)
        else:
            prompt, n, arrives, ends = rest
            books.answer(prompt, n, arrives=arrives, ends=ends)
    books.pay(1, NO_SESSION, kind=Kind.BONUS)  # and all that was on its way arrives
    books.check()
    assert sum(one.credits for one in books.ana.rows()) == books.total == sum(one.credits for one in books.ben.rows())
    books.close()


#: What a cheat, or a bad disk, may change, and in which row.
CHANGES = {
    "credits": "UPDATE rows SET credits = credits + 1 WHERE id = 2",
    "two rows": "UPDATE rows SET credits = credits + iif(id = 2, 10, -10) WHERE id IN (2, 3)",
    "total": "UPDATE rows SET total = total + 1 WHERE id = 2",
    "tokens": "UPDATE rows SET tokens = tokens + 1 WHERE id = 2",
    "digest": "UPDATE rows SET digest = zeroblob(32) WHERE id = 2",
    "session": "UPDATE rows SET session = zeroblob(16) WHERE id = 2",
    "signature": "UPDATE rows SET signature = zeroblob(64) WHERE id = 2",
    "voucher of another row": "UPDATE rows SET signature = (SELECT signature FROM rows WHERE id = 1) WHERE id = 2",
    "receipt": "UPDATE rows SET receipt = zeroblob(64) WHERE id = 2",
    "prompt": "UPDATE rows SET prompt = prompt + 1 WHERE id = 2",
    "generated": "UPDATE rows SET generated = generated + 1 WHERE id = 2",
    "price": "UPDATE rows SET price = price - 1 WHERE id = 2",
    "model": "UPDATE models SET digest = zeroblob(32)",
    "parameters": "UPDATE models SET parameters = parameters + 1",
    "a row less": "DELETE FROM rows WHERE id = 2",
    "the newest": "UPDATE vouchers SET signature = zeroblob(64)",
    "no newest": "DELETE FROM vouchers",
    "peer": "UPDATE accounts SET peer = zeroblob(32)",
    "swarm": "UPDATE accounts SET peer_swarm = zeroblob(32)",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", ["ana", "ben"])
def test_every_change_is_found_and_the_first_bad_row_is_named(books, change, side):
    for n in (20, 33, 50):
        books.answer(30, n)
    books.check()
    ledger = getattr(books, side)
    ledger.file.execute(CHANGES[change])
    problems = audit(ledger, raw(ANA if side == "ana" else BEN))
    assert problems
    if "id = 2" in CHANGES[change] and change not in ("credits", "two rows", "a row less"):
        assert problems[0].row == 2
    assert all(one.words for one in problems)


def test_a_row_takes_little_room(tmp_path):
    books = Books(tmp_path)
    for _ in range(100):
        books.answer(30, 10)
    books.close()
    size = sum(path.stat().st_size for path in tmp_path.glob("ben*"))
    assert size / 100 <= 1000


def test_the_file_is_the_owner_s_and_damage_has_words(tmp_path):
    path = tmp_path / "ledger.sqlite"
    DistributedLedger(path, raw(ANA), b"a" * 32).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(AinetError, match=r"damaged.*Move it away"):
        DistributedLedger(path, raw(ANA), b"a" * 32)


def test_nothing_is_half_noted_when_the_disk_fails(books):
    books.answer(10, 5)
    before = list(books.ana.rows())
    books.ana.file.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError):
        books.pay(10, NO_SESSION, kind=Kind.GIFT)
    books.ana.file.execute("PRAGMA query_only = OFF")
    assert list(books.ana.rows()) == before
    assert not books.ana.file.in_transaction


RECEIPT = ReceiptBody(
    raw(ANA), raw(BEN), b"s" * 16, b"m" * 32, 135, 1000, 7, 10, 20, b"p" * 32, b"o" * 32, Finish.STOP, 9
)


def test_a_receipt_is_its_seller_s_for_its_buyer_in_their_swarms():
    receipt = receipts.sign(RECEIPT, BUYS, ANA.sign)
    assert receipts.read(receipt, BUYS, ANA.public_key()) == RECEIPT
    for parties in (BUYS.reversed, BUYS._replace(payer_swarm=b"x" * 32)):
        with pytest.raises(ProtocolError, match="receipt"):
            receipts.read(receipt, parties, ANA.public_key())
    with pytest.raises(ProtocolError, match="not signed"):
        receipts.read(receipts.sign(RECEIPT, BUYS, BEN.sign), BUYS, ANA.public_key())
    with pytest.raises(ProtocolError, match="cannot be read"):
        receipts.read(receipts.Receipt(b"", receipt.signature), BUYS, ANA.public_key())


def test_a_session_that_began_long_ago_is_still_paid(books):
    """Others may begin any number of sessions meanwhile, for next to nothing."""
    long = Order(books.session(), RATE, 10, 100)
    for ledger, account, is_own in ((books.ben, books.at_ben, True), (books.ana, books.at_ana, False)):
        ledger.begin(account, long, MODEL, is_own=is_own)
        for n in range(1100):
            ledger.begin(account, Order((10**6 + n).to_bytes(16, "big"), RATE, 1, 1), MODEL, is_own=is_own)
    books.pay(500, long.session)
    books.ana.end(books.at_ana, long.session, is_own=False, generated=9)
    assert [row.credits for row in books.ana.rows() if row.session == long.session] == [500]


def test_of_strangers_that_only_came_nothing_is_kept(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger = DistributedLedger(path, raw(ANA), BUYS.payee_swarm)
    ledger.account(raw(BEN), BUYS.payer_swarm, is_stranger=True)
    ledger.close()
    ledger = DistributedLedger(path, raw(ANA), BUYS.payee_swarm)
    assert ledger.accounts() == []
    ledger.close()


def test_a_stranger_that_is_introduced_begins_like_other_contacts(tmp_path):
    ledger = DistributedLedger(tmp_path / "ledger.sqlite", raw(ANA), BUYS.payee_swarm)
    ledger.account(raw(BEN), BUYS.payer_swarm, is_stranger=True)
    new = Balance.new(1_000, ALLOWANCE)
    assert ledger.account(raw(BEN), BUYS.payer_swarm, new=new).balance.left(ALLOWANCE) == new.left(ALLOWANCE)
    ledger.close()


def test_a_contact_that_was_a_stranger_meanwhile_is_not_owed_what_it_had(tmp_path):
    ledger = DistributedLedger(tmp_path / "ledger.sqlite", raw(ANA), BUYS.payee_swarm)
    rich = Balance(begun_at=5_000, moment=1)
    ledger.account(raw(BEN), BUYS.payer_swarm, new=rich)
    ledger.account(raw(BEN), BUYS.payer_swarm, is_stranger=True)
    assert ledger.account(raw(BEN), BUYS.payer_swarm, new=Balance(begun_at=10)).balance.level >= 0
    ledger.close()
