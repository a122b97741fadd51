"""Hidden states taken out of a running graph, by C and by Python."""

from __future__ import annotations

import numpy as np
import pytest
from llama_cpp import llama_cpp as C  # noqa: N812
from support.tiny_models import write_model

from ainet.errors import ModelError
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.llama import native as compiled
from ainet.stages.llama.hidden_output import HiddenOutput
from ainet.stages.llama.llama import Llama, Rows
from ainet.stages.llama.native import FORCE_PYTHON, native_library
from ainet.stages.protocol.segments import Segment

N_EMBD = 64
STATES = np.random.default_rng(3).normal(0, 1, (24, N_EMBD)).astype(np.float32)


@pytest.fixture
def shard(tmp_path):
    with TensorStore(tmp_path / "store") as store:
        manifest = store.register(write_model(tmp_path / "tiny.gguf", "llama", 6))
        yield ShardStore(store).assemble(manifest, 2, 3).path


def test_the_native_callback_was_built():
    """`make setup` finds a compiler: llama.cpp needs one."""
    assert native_library() is not None


def test_both_callbacks_give_the_same_rows(shard):
    found = []
    for native in (False, True):
        with Llama(shard, hidden_out=True, n_ctx=256, n_ubatch=16, native=native) as llama:
            found.append(
                [
                    llama.decode(STATES[begin:end], [Segment(0, begin, end - begin, 0)])
                    for begin, end in ((0, 16), (16, 17), (17, 24))
                ]
            )
    for in_python, in_c in zip(*found, strict=True):
        assert np.array_equal(in_python, in_c)
        assert in_c.std() > 0.01


@pytest.mark.parametrize("native", [False, True])
def test_rows_of_several_micro_batches_are_all_kept(shard, native):
    """llama.cpp divides a batch that is longer than a micro-batch, and asks once for each part."""
    whole = decoded(shard, HiddenOutput("l_out-1", N_EMBD, native=native), n_ubatch=8)
    parts = decoded(shard, HiddenOutput("l_out-1", N_EMBD, native=native), n_ubatch=3)
    assert whole.shape == (8, N_EMBD)
    assert np.abs(whole - parts).max() < 1e-4  # other shapes of a matrix product round in another way
    assert whole.std() > 0.01


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("room", "words"), [(5, "did not compute the 5 rows"), (9, "did not compute the 9 rows")])
def test_more_or_fewer_rows_than_there_is_room_for_are_an_error(shard, native, room, words):
    output = HiddenOutput("l_out-1", N_EMBD, native=native)
    with pytest.raises(ModelError, match=words):
        decoded(shard, output, n_ubatch=3, room=room)


@pytest.mark.parametrize("native", [False, True])
def test_a_tensor_that_no_graph_names_is_an_error(shard, native):
    with pytest.raises(ModelError, match="does not name the output of its last layer"):
        decoded(shard, HiddenOutput("l_out-7", N_EMBD, native=native), n_ubatch=8)


def test_python_takes_over_where_the_library_is_missing_or_another_one(shard, tmp_path, monkeypatch):
    for missing in (tmp_path / "nothing.so", compiled.LIBRARY.with_name("llama.py")):
        monkeypatch.setattr(compiled, "LIBRARY", missing)
        native_library.cache_clear()
        assert not HiddenOutput("l_out-1", N_EMBD).is_native
    with pytest.raises(ModelError, match="installed without a C compiler"):
        HiddenOutput("l_out-1", N_EMBD, native=True)
    monkeypatch.undo()
    native_library.cache_clear()
    assert HiddenOutput("l_out-1", N_EMBD).is_native
    monkeypatch.setenv(FORCE_PYTHON, "1")
    native_library.cache_clear()
    assert not HiddenOutput("l_out-1", N_EMBD).is_native
    monkeypatch.undo()
    native_library.cache_clear()


def decoded(path: str, output: HiddenOutput, *, n_ubatch: int, room: int = 8) -> np.ndarray:
    """Decode eight hidden states in micro-batches of this size, without `Llama`, which makes no longer batches."""
    model = C.llama_model_load_from_file(path.encode(), C.llama_model_default_params())
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_outputs_max = 256, 8, n_ubatch, 8
    params.cb_eval, params.cb_eval_user_data = output.callback, output.user_data
    context = C.llama_init_from_model(model, params)
    rows = Rows(8, N_EMBD)
    rows.input[:], rows.positions[:], rows.wanted[:] = STATES[:8], np.arange(8), 1
    rows.batch.n_tokens = 8
    try:
        output.begin(room)
        assert C.llama_decode(context, rows.batch) == 0
        return output.rows()
    finally:
        C.llama_free(context)
        C.llama_model_free(model)
