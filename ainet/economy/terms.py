"""The terms on which the owner lets others have something of this device, and how they are typed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ainet.economy.balance import Allowance
from ainet.economy.credits import HIGHEST_PRICE, LOWEST_PRICE, UNIT_PRICE
from ainet.errors import UsageError
from ainet.files import write_private

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds of this device that another one may have each day, and how much of it may be saved up.
DAILY, SAVED_DAYS, MOST_SAVED = 1800, 2, 24 * 3600
#: Seconds of this device that all strangers together may have in a day.
STRANGERS = 600
MOST_MODELS = 16
AUTO = "auto"
HOURS = 24


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is sold, and how.

    Attributes
    ----------
    models
        Names of the models that are sold; none: the one that is answered with when none is named.
    max_load
        The part of the time in which others' sessions may run, from 0 to 1.
    hours
        The hours of the day between which anything is sold; the first may be the later one. None: always.
    price
        In thousandths of what is computed; None: by load.
    allow
        Seconds of this device that each contact may have each day beyond what it gave.
    strangers
        Whether devices of which nothing is known may buy, too.
    pace
        Credits of what the device computes in a second, as it was when it began to sell: what a minute of it is worth
        must not change with its load. 0: not known yet.
    """

    models: list[str] = []
    max_load: float = 0.5
    hours: tuple[int, int] | None = None
    price: int | None = None
    allow: int = DAILY
    strangers: bool = False
    pace: int = 0

    def allowance(self, pace: int) -> Allowance:
        """Return what each contact may have, where the device computes so many credits a second."""
        return Allowance(self.allow * pace, SAVED_DAYS * self.allow * pace, MOST_SAVED * pace)

    def shared_allowance(self, pace: int) -> Allowance:
        """Return what strangers may have, all together; nothing of it is saved up."""
        daily = STRANGERS * pace if self.strangers else 0
        return Allowance(daily, daily, daily)

    def is_open(self, hour: int) -> bool:
        """Whether anything is sold in this hour of the day (0 to 23)."""
        if self.hours is None:
            return True
        first, last = self.hours
        return first <= hour < last if first < last else hour >= first or hour < last


def read_terms(path: Path) -> Terms | None:
    """Return the terms in a file; None where nothing is sold. What cannot be read sells nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Terms)
    except (OSError, msgspec.MsgspecError):
        return None


def write_terms(path: Path, terms: Terms | None) -> None:
    """Keep terms; None: nothing is sold."""
    if terms is None:
        path.unlink(missing_ok=True)
    else:
        write_private(path, msgspec.json.encode(terms))


def parse_share(text: str) -> float:
    """Return a part of the time: ``50%`` or ``0.5``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < share <= 1:
        raise UsageError(f"{text[:40]!r} is no part of the time. Write a percentage, such as 50%.")
    return share


def parse_hours(text: str) -> tuple[int, int] | None:
    """Return the hours in ``22-7``; None for ``always``."""
    if text == "always":
        return None
    found = re.fullmatch(r"([0-9]{1,2})\s*-\s*([0-9]{1,2})", text.strip())
    hours = (int(found[1]), int(found[2]) % HOURS) if found and int(found[2]) <= HOURS else (HOURS, 0)
    if hours[0] >= HOURS or hours[0] == hours[1]:
        raise UsageError(f"{text[:40]!r} are no hours. Write the first and the last one, such as 22-7, or always.")
    return hours


def parse_price(text: str) -> int | None:
    """Return a price in thousandths of what is computed; None for ``auto``."""
    if text == AUTO:
        return None
    found = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip())
    price = round(float(text) * UNIT_PRICE) if found else 0
    if not LOWEST_PRICE <= price <= HIGHEST_PRICE:
        raise UsageError(
            f"{text[:40]!r} is no price. Write auto, or by what the work is multiplied: 1 is minute for minute, "
            f"{LOWEST_PRICE / UNIT_PRICE:g} the least and {HIGHEST_PRICE / UNIT_PRICE:g} the most."
        )
    return price
