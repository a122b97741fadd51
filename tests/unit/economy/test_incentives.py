"""What is promised, what is asked for in vain, and how busy a device is."""

from __future__ import annotations

import datetime
import logging

import pytest

from ainet.economy.demand import Demand
from ainet.economy.load import BusyTime
from ainet.economy.terms import Terms, parse_hours, parse_price, parse_share, read_terms, write_terms
from ainet.economy.wants import NEEDED, Want, Wants
from ainet.economy.words import span
from ainet.errors import UsageError
from ainet.units import parse_seconds

LOG = logging.getLogger("test")
TOMORROW = (datetime.date.today() + datetime.timedelta(days=1)).isoformat()
YESTERDAY = (datetime.date.today() - datetime.timedelta(days=1)).isoformat()


async def test_a_bonus_is_due_once_to_whoever_first_answers_well_enough(tmp_path):
    wants = Wants(tmp_path / "wants.json", LOG)
    want = Want("Large", 15.0, 1000, 7200.0, TOMORROW)
    wants.add(want)
    for _ in range(NEEDED - 1):
        assert wants.answered("ana", "large", 15.0) is None
        assert wants.answered("carl", "large", 14.9) is None  # too slow
        assert wants.answered("ana", "small", 99.0) is None
    assert wants.progress("LARGE") == NEEDED - 1
    await wants.flush()
    again = Wants(tmp_path / "wants.json", LOG)  # after a restart
    assert again.own() == [want]
    assert again.answered("carl", "large", 20.0) is None
    assert again.answered("ana", "large", 20.0) == want
    assert again.own() == [want]  # until it is paid
    assert again.remove("large")
    assert again.answered("ana", "large", 20.0) is None
    assert again.own() == []
    await again.flush()
    assert Wants(tmp_path / "wants.json", LOG).own() == []


def test_a_promise_ends_with_its_last_day(tmp_path):
    wants = Wants(tmp_path / "wants.json", LOG)
    wants.add(Want("large", 0.0, 1000, 7200.0, YESTERDAY))
    assert wants.own() == []
    assert all(wants.answered("ana", "large", 1.0) is None for _ in range(NEEDED + 1))
    assert not wants.remove("other")


async def test_what_was_asked_for_in_vain_is_counted_by_day(tmp_path):
    demand = Demand(tmp_path / "demand.json", LOG)
    for _ in range(3):
        demand.note("model", "large")
    demand.note("hour", "21 o'clock")
    await demand.flush()
    again = Demand(tmp_path / "demand.json", LOG)
    assert again.missed(7) == [("model", "large", 3), ("hour", "21 o'clock", 1)]
    for n in range(1000):  # one name after the other fills no disk
        again.note("model", f"m{n}")
    await again.flush()
    assert len(again.missed(1)) <= 200
    (tmp_path / "demand.json").write_text("nonsense")
    assert Demand(tmp_path / "demand.json", LOG).missed(7) == []


def test_a_device_is_busy_for_as_long_as_anything_is_done():
    now = 1000.0
    busy = BusyTime(lambda: now)
    assert busy.share == 0
    busy.begin()
    now += 15
    busy.begin()  # at the same time
    now += 15
    busy.end()
    assert busy.share == pytest.approx(0.5)
    busy.end()
    now += 45
    assert busy.share == pytest.approx(0.25)
    now += 60
    assert (busy.share, busy.running) == (0, 0)
    busy.begin()
    now += 1000
    assert busy.share == 1


def test_what_waits_is_not_busy():
    """Otherwise sessions that wait because others have had their part of the time would wait for ever."""
    now = 1000.0
    busy = BusyTime(lambda: now)
    busy.begin()
    now += 30
    busy.hold(is_held=True)
    assert busy.share == pytest.approx(0.5)
    now += 45
    busy.begin()
    busy.end()
    assert busy.share == pytest.approx(0.25)
    busy.hold(is_held=False)
    now += 15
    assert busy.share == pytest.approx(0.25)
    busy.end()
    busy.hold(is_held=True)
    busy.hold(is_held=False)
    now += 60
    assert busy.share == 0


@pytest.mark.parametrize(
    ("hours", "opened", "closed"),
    [("22-7", (22, 23, 0, 6), (7, 12, 21)), ("9-17", (9, 16), (8, 17, 0)), ("20-24", (20, 23), (0, 19))],
)
def test_hours_may_pass_midnight(hours, opened, closed):
    terms = Terms(hours=parse_hours(hours))
    assert all(terms.is_open(hour) for hour in opened)
    assert not any(terms.is_open(hour) for hour in closed)
    assert all(Terms().is_open(hour) for hour in range(24))


def test_terms_are_read_as_they_are_typed(tmp_path):
    assert (parse_share("50%"), parse_share("0.25"), parse_share("100 %")) == (0.5, 0.25, 1.0)
    assert (parse_price("auto"), parse_price("1"), parse_price("0.5")) == (None, 1000, 500)
    assert (parse_seconds("30m"), parse_seconds("1.5h"), parse_seconds("90s")) == (1800, 5400, 90)
    assert parse_hours("always") is None
    for parse, wrong in (
        (parse_share, ("0%", "101%", "half", "", "-5%", "nan", "1e9")),
        (parse_price, ("0", "1e3", "-1", "1001", "free", "nan")),
        (parse_seconds, ("30", "25h", "-1m", "1e3m", "m", "٣m ")),
        (parse_hours, ("7", "7-7", "24-7", "7-25", "a-b", "-1-5")),
    ):
        for text in wrong:
            with pytest.raises(UsageError):
                parse(text)
    path = tmp_path / "selling.json"
    assert read_terms(path) is None
    terms = Terms(models=["a"], hours=(22, 7), price=500)
    write_terms(path, terms)
    assert read_terms(path) == terms
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("nonsense")
    assert read_terms(path) is None  # what is not understood sells nothing
    write_terms(path, None)
    assert not path.exists()


def test_times_are_said_as_people_do():
    assert [span(n) for n in (0, 1, 40, 60, 114, 1860, 7200, 9000)] == [
        "0 seconds",
        "1 second",
        "40 seconds",
        "1 minute",
        "1.9 minutes",
        "31 minutes",
        "2 hours",
        "2.5 hours",
    ]
