"""A cable between two bridges that takes its time and loses frames: for kernels that cannot do so themselves.

Run as ``python slow_cable.py INTERFACE INTERFACE DELAY LOSS``: makes both interfaces (TAP devices) and carries frames
from one to the other, each after DELAY seconds, a share LOSS of them never. Prints ``ready``; ends when terminated.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MAX_FRAME = 2048  # bytes
MAX_WAITING = 5000  # frames: what is more is lost, as in a switch


def make_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def carry(one: int, other: int, delay: float, loss: float) -> None:
    across = {one: other, other: one}
    waiting: deque[tuple[float, int, bytes]] = deque()  # when due, where to, what
    poll = select.epoll()
    for end in across:
        poll.register(end, select.EPOLLIN)
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else -1
        for end, _ in poll.poll(pause):
            try:
                frame = os.read(end, MAX_FRAME)
            except OSError:  # the interface is down
                time.sleep(0.001)
                continue
            if random.random() >= loss and len(waiting) < MAX_WAITING:
                waiting.append((time.monotonic() + delay, across[end], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # the interface is down
                os.write(end, frame)


if __name__ == "__main__":
    _, one, other, delay, loss = sys.argv
    ends = make_tap(one), make_tap(other)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(*ends, float(delay), float(loss))
