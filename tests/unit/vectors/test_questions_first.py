"""A question does not wait for vectors of passages."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from ainet.vectors.actor import AT_ONCE, VectorActor


class Gate:
    """Tells that somebody waits, and lets nobody through until it is opened."""

    def __init__(self):
        self.asked, self.open = threading.Event(), threading.Event()

    def wait(self, _seconds):
        self.asked.set()
        return self.open.wait(20)


class Model:
    def __init__(self, order):
        self.order = order

    def passages(self, texts):
        self.order.append(len(texts))
        return np.zeros((len(texts), 4), np.float32)


async def test_vectors_of_passages_wait_for_a_question(tmp_path):
    actor, order = VectorActor(str(tmp_path)), []
    actor._unasked = gate = Gate()
    making = asyncio.create_task(asyncio.to_thread(actor._embed, Model(order), ["text"] * (AT_ONCE + 3)))
    await asyncio.to_thread(gate.asked.wait, 20)
    order.append("answered")
    gate.open.set()
    assert (await making).shape == (AT_ONCE + 3, 4)
    assert order == ["answered", AT_ONCE, 3]
