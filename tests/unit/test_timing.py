"""Who waits for whom: each of these relations has a reason, and what breaks it breaks a promise."""

from __future__ import annotations

import dataclasses

from ainet.api.verb import LONG, SHORT
from ainet.config import AinetConfig
from ainet.timing import TIMING, Timing


def test_all_of_them_are_times():
    assert all(getattr(TIMING, field.name) > 0 for field in dataclasses.fields(Timing))


def test_signs_of_life_come_often_enough():
    config = AinetConfig()
    assert 3 * config.link_keepalive <= config.link_timeout  # two may be lost
    assert 2 * TIMING.alive < TIMING.silence
    assert TIMING.silence < TIMING.first_silence


def test_a_link_that_is_lost_comes_back_before_anything_is_given_up():
    """A link is noticed to be lost, and dialled anew, while channels and what is held for its peer wait."""
    config = AinetConfig()
    noticed = config.link_timeout
    assert noticed + TIMING.dial + TIMING.last_retry <= TIMING.resume
    # A stage behind a forwarder outlives a link that is noticed to be lost and dialled at once.
    assert TIMING.forwarded_silence > noticed + TIMING.dial
    assert TIMING.owner_look < TIMING.owner_grace
    assert TIMING.untold_again < TIMING.owner_grace


def test_what_a_lost_pipeline_leaves_is_there_for_the_next_one():
    """A stage is noticed to be lost; the next pipeline is placed, loaded and asked, and finds what was kept."""
    noticed = max(TIMING.silence, TIMING.vanished)
    assert noticed + TIMING.settle + TIMING.capacity_asked + TIMING.session_dial <= TIMING.claim + TIMING.session_left
    assert TIMING.claim <= TIMING.park
    assert TIMING.owner_away + TIMING.pipeline_close <= TIMING.park


def test_an_answer_waits_for_devices_longer_than_they_need_to_come_back():
    config = AinetConfig()
    back = config.link_timeout + TIMING.last_retry + TIMING.dial
    assert back + TIMING.pipeline_link < TIMING.devices_awaited
    assert TIMING.devices_looked_for < TIMING.devices_awaited / 10


def test_who_is_asked_has_less_time_than_who_asks():
    assert TIMING.ring_greeting < TIMING.ring_dial < TIMING.first_silence <= TIMING.pipeline_link
    assert TIMING.stage_stop < TIMING.stage_close < TIMING.pipeline_close
    assert TIMING.load_asked < TIMING.capacity_asked < SHORT
    assert TIMING.lent_dial < TIMING.lend <= TIMING.worker_start
    assert TIMING.pairing < SHORT < LONG
    assert TIMING.lease_look < TIMING.lease_ask < TIMING.lease_grant
    assert TIMING.devices_awaited < LONG


def test_whoever_pays_late_is_waited_for_and_whoever_never_pays_is_not():
    assert TIMING.sold_load < TIMING.voucher_late < TIMING.session_silence
    assert TIMING.price_asked < TIMING.meeting < TIMING.session_silence < TIMING.tokenizer


def test_whoever_ends_gets_to_it_before_it_is_ended():
    """A child ends itself and all beneath it before its parent ends it, and so on up to the command."""
    assert TIMING.stop_steps + TIMING.child_orderly < TIMING.server_stop
    assert TIMING.worker_return < TIMING.child_stop
    assert TIMING.child_orderly + TIMING.child_kill < TIMING.child_stop
    assert TIMING.child_stop < TIMING.server_stop < TIMING.node_stop < TIMING.node_start
    assert TIMING.cluster_close < TIMING.child_orderly


def test_workers_are_kept_until_the_next_pipeline_is_placed():
    assert TIMING.park <= TIMING.worker_idle
    assert TIMING.settle <= TIMING.spare_start < TIMING.worker_idle
