"""The owner's caps hold, whatever is asked for in whatever order."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from support.effort import examples
from support.processes import running

from ainet.api.node import Caps
from ainet.config import AinetConfig
from ainet.errors import NotEnough
from ainet.resources.allocator import Allocator, Reservation, caps_of
from ainet.resources.gpus import Gpu
from ainet.resources.monitor import cores, total_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GB = 10**9
MB = 10**6
CAPS = Caps(memory=1000, threads=8, disk=500)


class AnyOrder(RuleBasedStateMachine):
    """Reserve, resize and release in any order; the model is a plain dictionary of amounts."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(CAPS)
        self.held: dict[Reservation, tuple[int, int, int]] = {}

    def fits(self, memory: int, disk: int, threads: int, without: Reservation | None = None) -> bool:
        others = [amounts for one, amounts in self.held.items() if one is not without]
        sums = [sum(column) for column in zip((memory, disk, threads), *others, strict=True)]
        return sums[0] <= CAPS.memory and sums[1] <= CAPS.disk and sums[2] <= CAPS.threads

    @rule(
        target=reservations,
        memory=st.integers(0, 1200),
        disk=st.integers(0, 600),
        threads=st.integers(0, 9),
    )
    def reserve(self, memory: int, disk: int, threads: int) -> Reservation | None:
        if not self.fits(memory, disk, threads):
            with pytest.raises(NotEnough):
                self.allocator.reserve("a model", memory, disk, threads)
            return None
        reservation = self.allocator.reserve("a model", memory, disk, threads)
        self.held[reservation] = (memory, disk, threads)
        return reservation

    @rule(reservation=reservations, memory=st.integers(0, 1200))
    def resize(self, reservation: Reservation | None, memory: int) -> None:
        if reservation is None or reservation not in self.held:
            return
        _, disk, threads = self.held[reservation]
        if self.fits(memory, disk, threads, without=reservation):
            reservation.resize(memory=memory)
            self.held[reservation] = (memory, disk, threads)
        else:
            with pytest.raises(NotEnough):
                reservation.resize(memory=memory)

    @rule(reservation=consumes(reservations), times=st.integers(1, 2))
    def release(self, reservation: Reservation | None, times: int) -> None:
        if reservation is not None:
            for _ in range(times):
                reservation.release()
            self.held.pop(reservation, None)
            assert reservation.released

    @invariant()
    def sums_agree_and_never_exceed_the_caps(self) -> None:
        memory, disk, threads = (sum(column) for column in zip((0, 0, 0), *self.held.values(), strict=True))
        assert self.allocator.reserved == Caps(memory=memory, disk=disk, threads=threads)
        assert self.allocator.free == Caps(memory=1000 - memory, disk=500 - disk, threads=8 - threads)
        assert memory <= CAPS.memory
        assert disk <= CAPS.disk
        assert threads <= CAPS.threads


AnyOrder.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until it is killed."""
    with running([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


@pytest.mark.node
def test_what_a_dead_process_had_is_free_again(sleeper: subprocess.Popen[bytes]) -> None:
    allocator = Allocator(CAPS)
    bound = allocator.reserve("smollm2 layers 0–9", memory=900)
    other = allocator.reserve("smollm2 layers 10–29", memory=100)
    allocator.bind(bound, sleeper.pid)
    assert bound.pid == sleeper.pid
    assert allocator.free.memory == 0
    sleeper.kill()
    psutil.Process(sleeper.pid).wait(10)
    assert allocator.free.memory == 900
    assert bound.released
    assert allocator.reservations() == [other]
    assert allocator.reserve("another model", memory=900).memory == 900


@pytest.mark.node
def test_binding_to_a_process_that_is_gone_releases_at_once(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    allocator = Allocator(CAPS)
    allocator.bind(allocator.reserve("a model", memory=900), sleeper.pid)
    assert allocator.free == CAPS


def test_a_failure_inside_the_with_statement_releases() -> None:
    allocator = Allocator(CAPS)
    with pytest.raises(NotEnough), allocator.reserve("a model", memory=10):
        allocator.reserve("more", memory=991)
    assert allocator.free == CAPS


def test_a_released_reservation_cannot_be_resized() -> None:
    reservation = Allocator(CAPS).reserve("a model", memory=10)
    reservation.release()
    with pytest.raises(ValueError, match="was released"):
        reservation.resize(memory=5)


def test_negative_amounts_are_an_error_of_the_caller() -> None:
    allocator = Allocator(CAPS)
    with pytest.raises(ValueError, match="cannot be negative"):
        allocator.reserve("a model", memory=-1)
    assert allocator.free == CAPS


def test_the_refusal_names_the_numbers_and_who_has_the_rest() -> None:
    allocator = Allocator(Caps(memory=GB, threads=2, disk=GB))
    allocator.reserve("smollm2 layers 0–9", memory=500 * MB, threads=1)
    allocator.reserve("qwen layers 0–4", memory=200 * MB)
    with pytest.raises(NotEnough) as caught:
        allocator.reserve("The model", memory=1200 * MB)
    assert caught.value.message == (
        "The model needs 1.2 GB of memory, but only 300 MB of this device's cap of 1 GB are free (500 MB are used by "
        "smollm2 layers 0–9, 200 MB by qwen layers 0–4). Raise the cap with `ainet up --memory 1.9GB` or unload "
        "something with `ainet unload`."
    )
    assert caught.value.details == {"resource": "memory", "needed": 1200 * MB, "free": 300 * MB, "cap": GB}

    with pytest.raises(NotEnough) as caught:
        allocator.reserve("smollm2 layers 10–29", memory=0, threads=2)
    assert caught.value.message == (
        "smollm2 layers 10–29 needs 2 threads, but only 1 thread of this device's cap of 2 threads is free (1 thread "
        "is used by smollm2 layers 0–9). Raise the cap with `ainet up --threads 3` or unload something with "
        "`ainet unload`."
    )

    with pytest.raises(NotEnough) as caught:
        allocator.reserve("The model", memory=0, disk=2 * GB)
    assert caught.value.message == (
        "The model needs 2 GB of disk, but only 1 GB of this device's cap of 1 GB are free. Raise the cap with "
        "`ainet up --disk 2GB`."
    )


def test_what_the_device_does_not_have_is_not_advised() -> None:
    allocator = Allocator(Caps(memory=GB, threads=2, disk=GB))
    with pytest.raises(
        NotEnough, match=r"This device has .*B in all\. Use a smaller model or add a device with `ainet "
    ):
        allocator.reserve("The model", memory=total_memory())


def test_caps_come_from_the_configuration(tmp_path: Path) -> None:
    config = AinetConfig(data_dir=str(tmp_path), memory="1GB", threads=3, disk="2GB")
    assert caps_of(config) == Caps(memory=GB, threads=3, disk=2 * GB)
    default = caps_of(AinetConfig(data_dir=str(tmp_path)))
    assert default.memory == int(total_memory() * 0.75)
    assert default.threads == cores()
    assert 0 < default.disk < psutil.disk_usage(str(tmp_path)).total
    assert not default.gpu
    assert caps_of(AinetConfig(data_dir=str(tmp_path), memory="100TB")).memory == total_memory()
    gpu = Gpu("CUDA0", "a GPU", free=10 * GB, total=16 * GB, speed=5e11)
    for wanted, given in (("", 9 * GB), ("4GB", 4 * GB), ("100GB", 10 * GB)):
        caps = caps_of(AinetConfig(data_dir=str(tmp_path), gpu_memory=wanted), gpu)
        assert caps.gpu
        assert caps.gpu_memory == given


def test_the_memory_of_a_gpu_is_reserved_apart() -> None:
    allocator = Allocator(Caps(memory=4 * GB, threads=2, disk=GB, gpu_memory=2 * GB))
    with allocator.reserve("smollm2", memory=GB, gpu_memory=GB):
        assert allocator.free == Caps(memory=3 * GB, threads=2, disk=GB, gpu_memory=GB)
        with pytest.raises(NotEnough) as refused:
            allocator.reserve("other", memory=GB, gpu_memory=GB + GB // 2)
        assert refused.value.message == (
            "other needs 1.5 GB of GPU memory, but only 1 GB of this device's cap of 2 GB are free (1 GB are used by "
            "smollm2). Raise the cap with `ainet up --gpu-memory 2.5GB` or unload something with `ainet unload`, as "
            "far as the GPU has that much."
        )
    assert allocator.free.gpu_memory == 2 * GB
