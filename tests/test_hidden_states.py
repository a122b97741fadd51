"""Hidden states in fewer bytes: how far they are from what was sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from ainet.errors import ProtocolError
from ainet.executor.stages.frames import Frame, Kind
from ainet.executor.stages.hidden_states import HiddenStates
from ainet.executor.stages.segments import Segment

ROWS = some.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(16)), elements=st.floats(-9e4, 9e4, width=32))


def sent(form, hidden):
    states = HiddenStates(form, hidden.shape[1])
    payload = states.write(hidden)
    assert len(payload) == states.row_bytes * len(hidden)
    return states.read(Frame(Kind.HIDDEN, [Segment(0, 0, len(hidden))], payload))


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_the_error_is_that_of_the_form(hidden):
    largest = np.abs(hidden).max(axis=1, keepdims=True)
    assert np.array_equal(sent("float32", hidden), hidden)
    halved = np.clip(hidden, -65504, 65504)
    assert np.all(np.abs(sent("float16", hidden) - halved) <= np.maximum(np.abs(halved) * 2.0**-11, 2.0**-25))
    assert np.all(np.abs(sent("int8", hidden) - hidden) <= largest / 254 * (1 + 1e-5) + 1e-37)


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
def test_bytes_that_are_not_as_many_as_the_rows_need_are_refused(form):
    states = HiddenStates(form, 16)
    payload = states.write(np.ones((2, 16), np.float32))
    for segments in ([Segment(0, 0, 1)], [Segment(0, 0, 3)], [], [Segment(0, 0, 2**32 - 1)]):
        with pytest.raises(ProtocolError, match="HIDDEN frame of"):
            states.read(Frame(Kind.HIDDEN, segments, payload))
