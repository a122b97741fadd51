"""How a stage on a GPU works is chosen by what it costs there: chunks, and groups of sessions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ainet.hosting.hosted_stage import HostedStage
from ainet.stages import loading
from ainet.stages.loading import measure_pace
from ainet.stages.protocol.spec import StageSpec

SPEC = {
    "pipeline": "p", "epoch": b"e" * 16, "owner": "o", "model": "m", "first_layer": 0, "last_layer": 9, "n_stages": 1,
    "n_ctx": 4096, "n_ubatch": 512, "threads": 1, "gpu": True, "sessions": 8, "queue": 8,
}  # fmt: skip


class Clock:
    """A device that takes a fixed time for a decode, and some for each row."""

    n_embd, n_slots = 4, 8

    def __init__(self, fixed, row, n_ctx):
        self.fixed, self.row, self.n_ctx, self.now = fixed, row, n_ctx, 0.0
        self.pending = 0.0

    def decode(self, x, segments):
        assert len(x) == sum(segment.rows for segment in segments)
        assert all(segment.position + segment.rows <= self.n_ctx for segment in segments)
        self.pending = self.fixed + self.row * len(x)  # as on a GPU, it is not done yet

    def synchronize(self):
        self.now += self.pending
        self.pending = 0.0

    def clear(self):
        pass


@pytest.fixture
def pace(monkeypatch):
    def measured(fixed, row, **options):
        clock = Clock(fixed, row, options.get("n_ctx", 4096))
        monkeypatch.setattr(loading.time, "perf_counter", lambda: clock.now)
        shard = SimpleNamespace(is_first=options.pop("is_first", True), is_last=True)
        return measure_pace(clock, None, StageSpec(**SPEC | options), shard)

    return measured


def test_rows_that_cost_nothing_make_long_chunks_and_one_group(pace):
    found = pace(3e-3, 1e-6, n_stages=2, n_devices=2)
    assert found.token_seconds == pytest.approx(3.001e-3)
    assert (found.chunk, found.rows_are_free) == (512, True)


def test_rows_that_cost_as_much_as_a_token_make_short_chunks_and_groups(pace):
    found = pace(1e-4, 1e-2, n_stages=2, n_devices=2)
    assert (found.chunk, found.rows_are_free) == (64, False)


def test_processors_keep_what_they_were_given(pace):
    found = pace(3e-3, 1e-6, gpu=False, n_ubatch=96, n_stages=3)
    assert (found.chunk, found.rows_are_free) == (96, False)


def test_hidden_states_are_timed_as_tokens_are(pace):
    assert pace(3e-3, 1e-6, is_first=False).token_seconds == pytest.approx(3.001e-3)


def test_a_small_window_is_enough(pace):
    assert pace(3e-3, 1e-6, n_ctx=128, n_ubatch=128).chunk == 64


def test_a_slow_gpu_keeps_nobody_waiting(pace):
    assert pace(1.0, 1e-6).chunk == 64


def test_a_kept_model_serves_a_pipeline_of_another_number_of_stages():
    kept = HostedStage(StageSpec(**SPEC | {"gpu": False, "n_stages": 3, "n_devices": 3}), None, None)
    assert kept.is_like(StageSpec(**SPEC | {"gpu": False, "n_stages": 2, "n_devices": 2}), local=True)
    assert not kept.is_like(StageSpec(**SPEC | {"gpu": True, "n_stages": 2, "n_devices": 2}), local=True)
