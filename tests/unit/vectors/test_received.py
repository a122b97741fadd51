"""Vectors of other devices are taken only where they are some."""

from __future__ import annotations

import numpy as np
import pytest

from ainet.errors import Refused
from ainet.vectors.actor import VectorActor


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0, 3.0])
async def test_what_is_no_vector_is_refused_and_nothing_of_it_kept(tmp_path, broken):
    actor = VectorActor(str(tmp_path))
    numbers = np.array([1, 2], np.int64).tobytes()
    vectors = np.zeros((2, 256), "<f4")
    vectors[:, 0] = 1
    vectors[1, 0] = broken
    with pytest.raises(Refused, match="their lengths are not 1"):
        await actor.put("t", numbers, vectors.tobytes())
    assert await actor.read("t", numbers) == ([], b"")
    vectors[1] = np.roll(vectors[0], 1)
    await actor.put("t", numbers, vectors.tobytes())
    assert await actor.read("t", numbers) == ([1, 2], vectors.tobytes())
