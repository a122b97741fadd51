"""The owner's caps for stages, and reservations within them."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from ainet.api.node import Caps
from ainet.errors import NotEnough
from ainet.resources.monitor import alive, cores, total_memory
from ainet.units import parse_bytes, show_bytes

if TYPE_CHECKING:
    from types import TracebackType

    from ainet.config import AinetConfig
    from ainet.resources.gpus import Gpu

#: Part of the device's memory, and of its free disk space, that is given where the owner says nothing.
DEFAULT_MEMORY = 0.75
DEFAULT_DISK = 0.5
#: Part of the GPU's free memory; the rest is for what its driver takes while it computes.
DEFAULT_GPU_MEMORY = 0.9
RESOURCES = ("memory", "disk", "threads", "gpu_memory")


def caps_of(config: AinetConfig, gpu: Gpu | None = None) -> Caps:
    """Return the owner's caps; memory is never more than the device has, nor than is free on its `gpu`."""
    total = total_memory()
    return Caps(
        memory=min(parse_bytes(config.memory), total) if config.memory else int(total * DEFAULT_MEMORY),
        threads=config.threads or cores(),
        disk=parse_bytes(config.disk)
        if config.disk
        else int(shutil.disk_usage(config.make_data_dir()).free * DEFAULT_DISK),
        gpu_memory=_gpu_memory(config, gpu) if gpu is not None else 0,
    )


def _gpu_memory(config: AinetConfig, gpu: Gpu) -> int:
    if not config.gpu_memory:
        return int(gpu.free * DEFAULT_GPU_MEMORY)
    return min(parse_bytes(config.gpu_memory), gpu.free)


#: Names of resources in words.
NAMES = {"gpu_memory": "GPU memory"}


class Reservation:
    """An amount that nobody else gets until `release`; also a context manager. Made by `Allocator.reserve`."""

    def __init__(self, allocator: Allocator, what: str, amounts: dict[str, int]) -> None:
        self.what = what
        self._allocator = allocator
        self._amounts = amounts
        self._process: psutil.Process | None = None

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Reservation of {self._amounts} for {self.what}>"

    @property
    def memory(self) -> int:
        """Bytes of memory."""
        return self._amounts["memory"]

    @property
    def gpu_memory(self) -> int:
        """Bytes of the GPU's memory."""
        return self._amounts["gpu_memory"]

    @property
    def disk(self) -> int:
        """Bytes of disk space."""
        return self._amounts["disk"]

    @property
    def threads(self) -> int:
        return self._amounts["threads"]

    @property
    def pid(self) -> int | None:
        """The process with which it ends, if bound."""
        return self._process.pid if self._process is not None else None

    @property
    def released(self) -> bool:
        """Whether the amounts are free again."""
        return self not in self._allocator.reservations()

    def resize(self, memory: int | None = None, disk: int | None = None, threads: int | None = None) -> None:
        """Change some of the amounts.

        Raises
        ------
        NotEnough
            More is wanted than is free; nothing changed.
        """
        wanted = {"memory": memory, "disk": disk, "threads": threads}
        self._allocator.resize(self, {name: amount for name, amount in wanted.items() if amount is not None})

    def release(self) -> None:
        """Give the amounts back; a second time does nothing."""
        self._allocator.release(self)


class Allocator:
    """Hands out reservations whose sum never exceeds the caps. Belongs to one event loop; nothing is persisted."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self._reservations: list[Reservation] = []

    def reservations(self) -> list[Reservation]:
        """Return what is reserved; a reservation bound to a process that died is gone."""
        self._reservations = [one for one in self._reservations if one._process is None or alive(one._process)]
        return list(self._reservations)

    @property
    def reserved(self) -> Caps:
        """The sum of all reservations."""
        held = self.reservations()
        return Caps(**{name: sum(getattr(one, name) for one in held) for name in RESOURCES})

    @property
    def free(self) -> Caps:
        """The rest of the caps."""
        reserved = self.reserved
        left = {name: getattr(self.caps, name) - getattr(reserved, name) for name in RESOURCES}
        return Caps(**left)

    def reserve(self, what: str, memory: int, disk: int = 0, threads: int = 0, gpu_memory: int = 0) -> Reservation:
        """Reserve amounts for `what` (in words, such as ``"smollm2 layers 0–9"``): bytes, and threads.

        Raises
        ------
        NotEnough
            With the numbers, and who has the rest.
        """
        reservation = Reservation(self, what, dict.fromkeys(RESOURCES, 0))
        self._change(reservation, {"memory": memory, "disk": disk, "threads": threads, "gpu_memory": gpu_memory})
        self._reservations.append(reservation)
        return reservation

    def resize(self, reservation: Reservation, amounts: dict[str, int]) -> None:
        """See `Reservation.resize`."""
        if reservation.released:
            raise ValueError(f"{reservation!r} was released and cannot be resized.")
        self._change(reservation, amounts)

    def bind(self, reservation: Reservation, pid: int) -> None:
        """Have `reservation` end with the process `pid` of this machine."""
        try:
            reservation._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self.release(reservation)

    def release(self, reservation: Reservation) -> None:
        """See `Reservation.release`."""
        if reservation in self._reservations:
            self._reservations.remove(reservation)

    def _change(self, reservation: Reservation, amounts: dict[str, int]) -> None:
        if any(amount < 0 for amount in amounts.values()):
            raise ValueError(f"amounts cannot be negative: {amounts}")
        free = self.free
        for name, amount in amounts.items():
            if amount - getattr(reservation, name) > getattr(free, name):
                self._refuse(reservation, name, amount)
        reservation._amounts |= amounts

    def _refuse(self, reservation: Reservation, name: str, amount: int) -> NoReturn:
        cap = getattr(self.caps, name)
        others = [(getattr(one, name), one.what) for one in self.reservations() if one is not reservation]
        used = [(size, what) for size, what in others if size]
        left = cap - sum(size for size, _ in used)
        holders = ", ".join(
            f"{_show(name, size)} {f'{_are(name, size)} used ' if number == 0 else ''}by {what}"
            for number, (size, what) in enumerate(sorted(used, reverse=True))
        )
        kind = f" of {NAMES.get(name, name)}" if name != "threads" else ""
        msg = (
            f"{reservation.what} needs {_show(name, amount)}{kind}, but only {_show(name, left)} of this device's cap "
            f"of {_show(name, cap)} {_are(name, left)} free{f' ({holders})' if holders else ''}. "
            f"{_advice(name, cap - left + amount, bool(holders))}"
        )
        details: dict[str, Any] = {"resource": name, "needed": amount, "free": left, "cap": cap}
        raise NotEnough(msg, **details)


def _show(name: str, amount: int) -> str:
    if name != "threads":
        return show_bytes(amount)
    return f"{amount} thread{'' if amount == 1 else 's'}"


def _are(name: str, amount: int) -> str:
    return "is" if name == "threads" and amount == 1 else "are"


def _advice(name: str, wanted: int, holders: bool) -> str:
    unload = " or unload something with `ainet unload`" if holders and name != "disk" else ""
    if name == "threads":
        return f"Raise the cap with `ainet up --threads {wanted}`{unload}."
    size = _round_up(wanted)
    if name == "gpu_memory":
        return f"Raise the cap with `ainet up --gpu-memory {size}`{unload}, as far as the GPU has that much."
    total = total_memory() if name == "memory" else None
    if total is not None and parse_bytes(size) > total:
        first = "Unload something with `ainet unload`, use" if holders else "Use"
        return f"This device has {show_bytes(total)} in all. {first} a smaller model or add a device with `ainet join`."
    return f"Raise the cap with `ainet up --{name} {size}`{unload}."


def _round_up(size: int) -> str:
    """Return `size` bytes, rounded up to two digits, in the form that `parse_bytes` reads."""
    step = 10 ** max(6, len(str(size)) - 2)
    megabytes = math.ceil(size / step) * step // 10**6
    return f"{megabytes / 1000:g}GB" if megabytes >= 1000 else f"{megabytes}MB"
