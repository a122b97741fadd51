"""Hidden states in fewer bytes: how far they are from what was sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from support.effort import examples

from ainet.errors import ProtocolError
from ainet.models.shards import ShardStore
from ainet.stages.llama.embedding import Embedding
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.frames import Frame, Kind
from ainet.stages.ring.hidden_states import HiddenStates

TEXT = (
    "The fox lives at the edge of the forest, where the river bends towards the mill. In spring it teaches its cubs to "
    "hunt, and in the evening they play in the meadow until their mother calls them. The miller knows them well, and "
    "when the nights are cold he leaves the door of the old barn open, so that they can sleep in the hay."
)

ROWS = some.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(16)), elements=st.floats(-9e4, 9e4, width=32))


def sent(form, hidden):
    states = HiddenStates(form, hidden.shape[1])
    payload = states.write(hidden)
    assert len(payload) == states.row_bytes * len(hidden)
    return states.read(Frame(Kind.HIDDEN, [Segment(0, 0, len(hidden))], payload))


@settings(max_examples=examples(200), deadline=None)
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


@pytest.fixture(scope="module")
def halves(smollm2_store, smollm2_manifest):
    """Two stages of SmolLM2 and its embeddings."""
    shards = [ShardStore(smollm2_store).assemble(smollm2_manifest, *layers) for layers in ((0, 14), (15, 29))]
    embedding = Embedding(shards[0])
    stages = [Llama(shard.path, hidden_out=not shard.is_last, n_ctx=256) for shard in shards]
    yield embedding, *stages
    for one in (embedding, *stages):
        one.close()


@pytest.mark.parametrize(("form", "most", "usual"), [("float32", 0, 0), ("float16", 1.5, 0.2), ("int8", 10.0, 1.2)])
def test_what_rounding_does_to_the_logits(halves, form, most, usual):
    """At each position of a text: the largest and the mean difference of any logit (docs/architecture.md)."""
    embedding, first, last = halves
    tokens = Vocabulary(last).tokenize(TEXT, special=True)
    found = []
    for exact in (True, False):
        first.clear()
        last.clear()
        rows = []
        for position, token in enumerate(tokens):
            segments = [Segment(0, position, 1, 1)]
            hidden = first.decode(embedding.look_up(np.array([token], np.int32)), segments)
            last.decode(hidden if exact else sent(form, hidden), segments)
            rows.append(last.logits().copy())
        found.append(np.array(rows))
    differences = np.abs(found[0] - found[1])
    agree = (found[0].argmax(axis=1) == found[1].argmax(axis=1)).mean()
    assert differences.max() <= most
    assert differences.mean() <= usual
    assert agree >= {"float32": 1.0, "float16": 0.95, "int8": 0.85}[form]
