"""Who gets the next place of a device that sells."""

from __future__ import annotations

import contextlib

import pytest

from ainet.economy.contribution import Record
from ainet.economy.places import EACH, EACH_STRANGER, OWN_SLOTS, PLACES, WAITING, Places, Room
from ainet.errors import Busy

ROOM = Room(b"a model", 1000, PLACES + OWN_SLOTS)


def ask(places, device, moment=0, *, stranger=False, size=1, room=ROOM):
    return places.ask(device, moment, is_stranger=stranger, room=room, size=size)


@contextlib.contextmanager
def full(places, n=PLACES):
    """Places that are taken."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ask(places, f"early{i}")) for i in range(n)]


async def test_a_free_place_is_given_at_once():
    places = Places(lambda _: Record())
    with ask(places, "ben") as place:
        assert await place.wait(0)
        assert places.taken == 1
    assert places.taken == 0


async def test_whom_this_device_owes_most_is_next_then_who_came_first_and_strangers_last():
    gave = {"giver": Record(gave=500), "small giver": Record(gave=20), "taker": Record(had=500)}
    places = Places(lambda device: gave.get(device, Record()))
    with contextlib.ExitStack() as stack:
        with full(places):
            names = ("taker", "new", "later", "small giver", "giver")
            waiting = [stack.enter_context(ask(places, name, moment)) for moment, name in enumerate(names)]
            stranger = stack.enter_context(ask(places, "stranger", -1, stranger=True))
            assert not any([await place.wait(0) for place in waiting])
            order = [place.asker.device for place in places.order()]
            assert order == ["giver", "small giver", "new", "later", "stranger", "taker"]
            assert (waiting[4].before, stranger.before) == (0, 4)
        assert all([await place.wait(0) for place in waiting])


async def test_one_place_that_is_free_is_given_to_one():
    places = Places(lambda _: Record())
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(ask(places, f"early{i}")) for i in range(PLACES - 1)]
        with ask(places, "early"):
            first, second = (stack.enter_context(ask(places, name, i)) for i, name in enumerate(("ben", "carl")))
            assert (await first.wait(0), places.starts_in(ROOM)) == (False, 0.0)
        assert (await first.wait(0), await second.wait(0), places.taken) == (True, False, PLACES)
        assert len(taken) == PLACES - 1
        assert places.starts_in(ROOM) > 0  # a session has ended, so it is known how long one takes


async def test_each_has_a_few_and_the_queue_is_not_endless():
    places = Places(lambda _: Record())
    with contextlib.ExitStack() as stack:
        for _ in range(EACH):
            stack.enter_context(ask(places, "ben"))
        with pytest.raises(Busy, match=f"{EACH} of your questions"):
            ask(places, "ben")
        for _ in range(EACH_STRANGER):
            stack.enter_context(ask(places, "eve", stranger=True))
        with pytest.raises(Busy, match=f"{EACH_STRANGER} of your questions"):
            ask(places, "eve", stranger=True)
        for i in range(PLACES - places.taken + WAITING):
            stack.enter_context(ask(places, f"d{i}"))
        with pytest.raises(Busy, match="others wait already"):
            ask(places, "late")


async def test_who_needs_more_cells_than_are_free_is_not_overtaken_for_ever():
    places = Places(lambda _: Record())
    with ask(places, "ben", size=600):
        long = ask(places, "carl", 1, size=500)
        short = ask(places, "dora", 2, size=10)
        assert not any([await place.wait(0) for place in (long, short)])
    assert await long.wait(0)
    assert await short.wait(0)
    with long, short:
        pass
    assert places.taken == 0


async def test_who_gives_up_waiting_is_in_nobody_s_way():
    places = Places(lambda _: Record())
    with full(places):
        with ask(places, "ben") as ben:
            assert not await ben.wait(0)
        carl = ask(places, "carl")
    with carl:
        assert await carl.wait(0)
    assert places.taken == 0


async def test_slots_are_left_to_the_owner_as_far_as_there_are_any():
    assert [Room(b"", 1, slots).places for slots in (1, 2, 3, 4, 8, 10, 64)] == [1, 1, 1, 2, 6, PLACES, PLACES]
    places = Places(lambda _: Record())
    few = Room(b"few", 1000, 4)
    with ask(places, "ben", room=few), ask(places, "carl", room=few), ask(places, "dora", room=few) as third:
        assert not await third.wait(0)


async def test_nobody_gets_a_place_while_the_owner_asks():
    places = Places(lambda _: Record())
    places.hold(is_held=True)
    with ask(places, "ben") as place:
        assert not await place.wait(0)
        places.hold(is_held=False)
        assert await place.wait(0)


async def test_strangers_leave_half_of_the_places_to_contacts():
    places = Places(lambda _: Record())
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(ask(places, f"s{i}", i, stranger=True)) for i in range(PLACES)]
        assert [await one.wait(0) for one in names] == [i < PLACES // 2 for i in range(PLACES)]
        assert await stack.enter_context(ask(places, "ben", 99)).wait(0)


async def test_a_stranger_that_finds_no_room_is_in_no_contact_s_way():
    places = Places(lambda _: Record())
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(ask(places, "s0", 0, stranger=True, size=400))
        second = stack.enter_context(ask(places, "s1", 1, stranger=True, size=400))  # more than half of the cells
        contact = stack.enter_context(ask(places, "ben", 2, size=500))
        assert [await one.wait(0) for one in (first, second, contact)] == [True, False, True]


async def test_strangers_have_half_of_all_places_however_many_models_there_are():
    places = Places(lambda _: Record())
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(ask(places, f"s{i}", i, stranger=True, room=Room(bytes([i]), 1000, 8)))
            for i in range(PLACES)
        ]
        assert sum([await one.wait(0) for one in found]) == PLACES // 2
