"""The audit of a ledger: every signature, every sum, from the first row on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ainet.economy import receipt as receipts
from ainet.economy import voucher as vouchers
from ainet.economy.credits import Rate
from ainet.economy.ledger import RowKind
from ainet.economy.receipt import Finish, Receipt, ReceiptBody
from ainet.economy.signed import Parties
from ainet.economy.voucher import Body, Kind, Voucher
from ainet.errors import AinetError

if TYPE_CHECKING:
    from ainet.economy.ledger import DistributedLedger


class Problem(NamedTuple):
    """Something that is wrong with a ledger: in a row (0: in an account), in words."""

    row: int
    words: str


class _Row(NamedTuple):
    id: int
    account: int
    is_own: int
    kind: int
    session: bytes
    credits: int
    written_off: int
    model: bytes | None
    parameters: int | None
    price: int | None
    prompt: int | None
    generated: int | None
    total: int | None
    gifts: int | None
    tokens: int | None
    digest: bytes | None
    signed: int | None
    signature: bytes | None
    seed: int | None
    finish: int | None
    prompt_digest: bytes | None
    output_digest: bytes | None
    receipted: int | None
    receipt: bytes | None


_KINDS = {RowKind.SESSION: Kind.WORK, RowKind.GIFT: Kind.GIFT, RowKind.BONUS: Kind.BONUS}


def audit(ledger: DistributedLedger, own_key: bytes) -> list[Problem]:
    """Return what is wrong with a ledger, the first row first; nothing where everything agrees."""
    problems: list[Problem] = []
    sums: dict[tuple[int, int], int] = defaultdict(int)
    gifts: dict[tuple[int, int], int] = defaultdict(int)
    totals: dict[tuple[int, int], set[int]] = defaultdict(set)
    parties = {
        number: Parties(own_key, peer, own_swarm, peer_swarm)
        for number, peer, peer_swarm, own_swarm in ledger.file.execute(
            "SELECT id, peer, peer_swarm, own_swarm FROM accounts"
        )
    }
    found = ledger.file.execute(
        "SELECT rows.id, account, is_own, kind, session, credits, written_off, models.digest, parameters, price, "
        "prompt, generated, total, gifts, tokens, rows.digest, signed, signature, seed, finish, prompt_digest, "
        "coalesce(output_digest, rows.digest), "
        "receipted, receipt FROM rows LEFT JOIN models ON models.id = model ORDER BY rows.id"
    )
    for one in map(_Row._make, found):
        direction = (one.account, one.is_own)
        between = parties[one.account] if one.is_own else parties[one.account].reversed
        problems += [Problem(one.id, words) for words in _check(one, between)]
        if one.kind == RowKind.SESSION and one.total is not None and one.total in totals[direction]:
            problems.append(Problem(one.id, "its voucher has the same total as an earlier one"))
        totals[direction].add(one.total or 0)
        sums[direction] += one.credits
        gifts[direction] += one.credits if one.kind in (RowKind.GIFT, RowKind.BONUS) else 0
    for number, between in parties.items():
        for is_own in (1, 0):
            newest = ledger.newest(number, is_own=bool(is_own))
            direction = (number, is_own)
            words = _check_newest(newest, between if is_own else between.reversed, sums[direction], gifts[direction])
            if newest is not None and max(totals[direction], default=0) > msgspec.msgpack.decode(newest.body)[2]:
                words.append("a row's voucher is higher than the highest one")
            problems += [Problem(0, f"account {number}: {one}") for one in words]
    return problems


def _check_newest(newest: Voucher | None, between: Parties, whole: int, gifts: int) -> list[str]:
    if newest is None:
        return [f"its rows add up to {whole:,} credits, and there is no voucher"] if whole else []
    try:
        body = vouchers.read(newest, between, Ed25519PublicKey.from_public_bytes(between.payer))
    except (AinetError, ValueError) as exc:
        return [str(exc)]
    if body is None:
        return ["its highest voucher is between other devices"]
    words = []
    if body.total != whole:
        words.append(f"its rows add up to {whole:,} credits; {body.total:,} were signed for")
    if body.gifts != gifts:
        words.append(f"its gifts add up to {gifts:,} credits; {body.gifts:,} were signed for")
    return words


def _check(row: _Row, between: Parties) -> list[str]:
    words = []
    if row.credits < 0 or row.written_off < 0:
        words.append("it has a negative amount")
    if row.signature is not None and not _is_signed(row, between):
        words.append("its voucher is not signed by its payer as it stands here")
    elif row.signature is None and row.kind != RowKind.SESSION:
        words.append("it has no voucher")
    if row.kind == RowKind.SESSION:
        most = Rate(row.parameters or 0, row.price or 0).cost(row.prompt or 0, row.generated or 0)
        if row.receipt is not None and row.credits > most:
            words.append(f"{row.credits:,} credits were signed for; the session cost {most:,}")
        if row.receipt is not None and not _is_receipted(row, between):
            words.append("its receipt is not signed by its seller as it stands here")
    return words


def _is_signed(row: _Row, between: Parties) -> bool:
    """Tell whether the voucher of a row was signed; what it was signed for last may be another kind than the row's."""
    key = Ed25519PublicKey.from_public_bytes(between.payer)
    kinds = [_KINDS[RowKind(row.kind)]] if row.kind in _KINDS else list(Kind)
    for kind in kinds:
        try:
            body = Body(
                between.payer,
                between.payee,
                row.total or 0,
                row.gifts or 0,
                kind,
                row.session,
                row.tokens or 0,
                row.digest or bytes(32),
                row.signed or 0,
            )
            encoded = msgspec.msgpack.encode(body)
            if vouchers.read(Voucher(encoded, row.signature or b""), between, key) is not None:
                return True
        except (AinetError, ValueError):
            continue
    return False


def _is_receipted(row: _Row, between: Parties) -> bool:
    key = Ed25519PublicKey.from_public_bytes(between.payee)
    body = ReceiptBody(
        between.payee,
        between.payer,
        row.session,
        row.model or b"",
        row.parameters or 0,
        row.price or 0,
        row.seed or 0,
        row.prompt or 0,
        row.generated or 0,
        row.prompt_digest or b"",
        row.output_digest or b"",
        Finish(row.finish or 0),
        row.receipted or 0,
    )
    try:
        receipts.read(Receipt(msgspec.msgpack.encode(body), row.receipt or b""), between, key)
    except (AinetError, ValueError):
        return False
    return True
