"""What strangers may have of this device: one allowance for all of them, as an identity costs nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ainet.economy.balance import Allowance, Balance


class SharedAllowance:
    """An allowance that many accounts use up together; what a device is owed is not part of it.

    Parameters
    ----------
    allowance
        What they may have, all together.
    before
        What was given away as time went by, and when that was counted last.
    had
        What each account has had beyond what it gave, by the ledger's number.
    """

    def __init__(self, allowance: Allowance, before: Balance, had: dict[int, int]) -> None:
        self.allowance = allowance
        self._had = had
        self._open: dict[int, Callable[[], int]] = {}
        #: `acknowledged` is what all have had or may have, `leaked` what was given away.
        self.balance = replace(before, acknowledged=sum(had.values()))

    def open(self, account: int, beyond: Callable[[], int]) -> None:
        """Follow an account from now on: `beyond` says what it has had beyond what it gave, and may yet have."""
        self._open[account] = beyond

    def close(self, account: int) -> None:
        """Remember an account of which no session goes on, as it is now."""
        beyond = self._open.pop(account, None)
        if beyond is not None:
            self._keep(account, beyond())

    def left(self, moment: int) -> int:
        """Return what all may have together, besides what sessions may take."""
        for account, beyond in self._open.items():
            self._keep(account, beyond())
        had = sum(self._had.values())
        # What a session has not taken was never had: it cannot have been given away either.
        self.balance = replace(self.balance, acknowledged=had, leaked=min(self.balance.leaked, had))
        self.balance = self.balance.at(moment, self.allowance)
        return self.balance.left(self.allowance)

    def _keep(self, account: int, beyond: int) -> None:
        if beyond > 0:
            self._had[account] = beyond
        else:
            self._had.pop(account, None)


def had_beyond(balances: Iterable[tuple[int, Balance]]) -> dict[int, int]:
    """Return by account what its device has had beyond what it gave, where that is anything."""
    return {number: balance.level for number, balance in balances if balance.level > 0}
