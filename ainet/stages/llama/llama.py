"""One GGUF file loaded by llama.cpp: tokens or hidden states in, hidden states or logits out.

llama.cpp has no call for a range of layers, but a shard is a model of its own whose first layer takes
``llama_batch.embd``, and whose last layer's output is taken before the final norm (`HiddenOutput`).
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError, NotEnough
from ainet.models.architectures.table import architecture_of
from ainet.stages.llama.devices import find_gpu, host_overrides
from ainet.stages.llama.hidden_output import HiddenOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from ainet.stages.llama.hidden_output import Watcher
    from ainet.stages.protocol.segments import Segment

_BYTES = ctypes.POINTER(ctypes.c_uint8)
#: Up to this many cells, a single row is computed as it is among others; beyond, threads share its attention.
SHORT = 256
#: Sections of RoPE (GGML_MROPE_SECTIONS), and the kinds of RoPE that have them (LLAMA_ROPE_TYPE_MROPE, _IMROPE).
SECTIONS, SECTIONED = 4, (8, 40)
ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
#: A regular expression for the tensors of experts.
EXPERTS = rb"_exps\.weight"
BUFFER_LINE = re.compile(r"(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")


class _Log:
    """llama.cpp's log while something is loaded: sizes of buffers, and the reason of a failure."""

    #: Who listens: the log that was begun last, since llama.cpp has one for the whole process.
    current: ClassVar[_Log | None] = None

    def __init__(self) -> None:
        self.buffers: dict[str, int] = {}
        self.errors: list[str] = []
        _Log.current = self
        C.llama_log_set(_ON_LOG, ctypes.c_void_p(0))

    def receive(self, level: int, text: bytes) -> None:
        """Note what is of interest in a line."""
        line = text.decode(errors="replace")
        if found := BUFFER_LINE.search(line):
            kind, size = found[1].lower(), float(found[2])
            self.buffers[kind] = self.buffers.get(kind, 0) + int(size * 1024**2)
        if level == ERROR_LEVEL and len(self.errors) < 20:
            self.errors.append(line.strip())


def _pass_on(level: int, text: bytes, _data: object) -> None:
    if _Log.current is not None:
        _Log.current.receive(level, text)


# It outlives every model: llama.cpp also logs while it frees one, long after another was loaded and forgotten.
_ON_LOG = C.llama_log_callback(_pass_on)


class Rows:
    """A batch of llama.cpp's in arrays of our own, so that filling it needs no call.

    Parameters
    ----------
    n
        Most rows.
    n_embd
        Length of a hidden state; 0 for tokens.
    sections
        Positions of each row: the hidden states of some architectures have one for each section of RoPE.
    """

    def __init__(self, n: int, n_embd: int, sections: int = 1) -> None:
        self.input = np.zeros((n, n_embd), np.float32) if n_embd else np.zeros(n, np.int32)
        self.positions = np.zeros(n * sections, np.int32)
        self.slots = np.zeros(n, np.int32)
        self.wanted = np.zeros(n, np.int8)
        self._counts = np.ones(n, np.int32)  # sequences that each row belongs to
        self._addresses = self.slots.ctypes.data + 4 * np.arange(n, dtype=np.uint64)
        self.batch = C.llama_batch()
        field, kind = ("embd", ctypes.c_float) if n_embd else ("token", C.llama_token)
        setattr(self.batch, field, self.input.ctypes.data_as(ctypes.POINTER(kind)))
        self.batch.pos = self.positions.ctypes.data_as(ctypes.POINTER(C.llama_pos))
        self.batch.n_seq_id = self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.batch.seq_id = self._addresses.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(C.llama_seq_id)))
        self.batch.logits = self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def repeat_positions(self, n: int) -> None:
        """Write the positions of `n` rows for each section, as llama.cpp does for tokens: the last one has none."""
        for section in range(1, SECTIONS - 1):
            self.positions[section * n : (section + 1) * n] = self.positions[:n]
        self.positions[(SECTIONS - 1) * n : SECTIONS * n] = 0


class Llama:
    """A loaded model or shard with a KV cache for several sequences.

    Parameters
    ----------
    path
        GGUF file. It was validated before: llama.cpp ends the process on some damaged files.
    hidden_out
        True for a stage that another one follows: `decode` then returns the last layer's output instead of computing
        logits.
    n_ctx
        Tokens that the KV cache holds, of all sequences together.
    n_ubatch
        Most rows of one `decode`.
    n_slots
        Sequences. Models that keep a state have one in exact mode, and some always, whatever is asked for.
    n_outputs
        Rows of one `decode` for which there may be logits.
    threads
        Threads of one `decode`.
    gpu
        Whether the layers go to the GPU (see `find_gpu`). Otherwise none is opened.
    experts_on_host
        Whether experts stay with the processors nevertheless.
    exact
        Whether a row's result must not depend on the rows beside it: where llama.cpp would compute a single row in
        another way than the same row among others, with another rounding, it gets one beside it.
    native
        Whether the output is taken out of the graph by C rather than by Python; None for wherever that is possible.
    mapped
        Whether the file is mapped rather than read: nothing is repacked, and what does not fit into memory is read
        again and again.
    watched
        Sees the tensors of the graph. With `hidden_out` that is the last layer's output.
    rollback
        Rows of the last `decode` that can be taken back although layers keep a state, if llama.cpp can do so.
    aborted
        Asked while the file is read, with the part that was (0 to 1); loading ends when it answers True.

    Raises
    ------
    ModelError
        If llama.cpp refuses the file, with its reason.
    NotEnough
        If the KV cache or the compute buffers cannot be allocated.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        hidden_out: bool,
        n_ctx: int,
        n_ubatch: int = 64,
        n_slots: int = 1,
        n_outputs: int = 1,
        threads: int = 1,
        gpu: bool = False,
        experts_on_host: bool = False,
        exact: bool = False,
        native: bool | None = None,
        mapped: bool = False,
        watched: Watcher | None = None,
        rollback: int = 0,
        aborted: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self._model: Any = None
        self._context: Any = None
        self._log = _Log()
        C.llama_backend_init()
        model_params = C.llama_model_default_params()
        model_params.n_gpu_layers = 999 if gpu else 0
        found = find_gpu() if gpu else None
        # They end with NULL: a GPU that is not wanted is not opened either.
        devices = (ctypes.c_void_p * 2)(found.handle if found is not None else None)
        model_params.devices = ctypes.cast(devices, ctypes.c_void_p)
        overrides = host_overrides(EXPERTS)
        if gpu and experts_on_host:
            model_params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        # Read, not mapped: tensors that llama.cpp repacks would otherwise occupy memory twice.
        model_params.load_mode = C.LLAMA_LOAD_MODE_MMAP if mapped else C.LLAMA_LOAD_MODE_NONE
        # Weights repacked for AMX end the process of a llama.cpp that GCC 12 compiled; otherwise they are not exact.
        model_params.use_extra_bufts = not mapped and b"AMX_INT8 = 1" not in C.llama_print_system_info()
        model_params.progress_callback = proceed = C.llama_progress_callback(lambda done, _data: not aborted(done))
        self._model = C.llama_model_load_from_file(str(path).encode(), model_params)
        del proceed  # was kept alive for the call
        if aborted(1.0):
            self.close()
            raise ModelError(f"Loading {Path(path).name} was stopped.")
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {Path(path).name}: {self._reason()}")
        self.n_embd = int(C.llama_model_n_embd(self._model))
        self.n_layers = int(C.llama_model_n_layer(self._model))
        self.n_vocab = int(C.llama_vocab_n_tokens(C.llama_model_get_vocab(self._model)))
        #: Whether layers keep a state of each sequence. Rows of one `decode` are then as many for each sequence.
        self.has_state = bool(C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model))
        architecture = architecture_of(self._architecture())
        one = architecture.alone or (self.has_state and exact)
        self.n_ctx, self.n_ubatch, self.n_slots = n_ctx, n_ubatch, 1 if one else n_slots
        #: Whether a part of a sequence can be kept: not where a window slides over it, or a state stands for it.
        self.can_keep = not self.has_state and C.llama_model_n_swa(self._model) == 0
        self._pads = exact and threads > 1
        self._used = 0  # cells, at most
        self._output: HiddenOutput | None = None
        self._logits: dict[int, NDArray[np.float32]] = {}  # views, by where llama.cpp keeps them

        params = C.llama_context_default_params()
        params.n_ctx = n_ctx + self._pads
        params.n_seq_max = n_sequences = self.n_slots + self._pads + exact
        params.n_batch = params.n_ubatch = n_ubatch + self._pads
        params.n_outputs_max = max((n_ubatch if hidden_out else n_outputs) + self._pads, n_sequences)
        params.n_rs_seq = rollback if self.has_state else 0
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True
        params.offload_kqv = params.op_offload = gpu
        # Cells that a window has left behind are used again, which sums the others up in another order.
        params.swa_full = exact
        params.no_perf = True
        if hidden_out:
            self._output = HiddenOutput(architecture.hidden_name(self.n_layers), self.n_embd, native=native)
        self._watched = self._output or watched  # alive as long as the context
        if self._watched is not None:
            params.cb_eval, params.cb_eval_user_data = self._watched.callback, self._watched.user_data
        self._context = C.llama_init_from_model(self._model, params)
        if not self._context:
            reason = self._reason()
            self.close()
            raise NotEnough(f"llama.cpp cannot allocate a context of {n_ctx} tokens for {Path(path).name}: {reason}")
        self._log.errors.clear()
        #: Rows of the last `decode`, but one, that `keep` can take back where `can_keep` is False.
        self.rollback = int(C.llama_n_rs_seq(self._context))
        self.hidden_out = hidden_out
        self._memory = C.llama_get_memory(self._context)
        self._sections = SECTIONS if C.llama_model_rope_type(self._model) in SECTIONED else 1
        self._tokens, self._hiddens = Rows(n_ubatch + 1, 0), Rows(n_ubatch + 1, self.n_embd, self._sections)

    @property
    def buffers(self) -> dict[str, int]:
        """Bytes of the buffers that llama.cpp reports: ``model``, ``kv``, ``compute``, ``output``."""
        return dict(self._log.buffers)

    @property
    def model(self) -> Any:
        """The ``llama_model`` pointer, for the vocabulary and the samplers."""
        return self._model

    @property
    def context(self) -> Any:
        """The ``llama_context`` pointer, for the samplers."""
        return self._context

    def decode(self, x: NDArray[Any], segments: Sequence[Segment]) -> NDArray[np.float32] | None:
        """Process the rows of one or several sessions.

        Parameters
        ----------
        x
            Tokens, int32 of shape (n,), or hidden states, float32 of shape (n, n_embd); n is at most `n_ubatch`.
        segments
            To whom the rows belong, in their order, and for which of them logits are wanted (read them with `logits`).

        Returns
        -------
        Hidden states, float32 of shape (n, n_embd), when the stage was loaded with `hidden_out`; else None.
        """
        n = len(x)
        rows = self._tokens if x.dtype == np.int32 else self._hiddens
        rows.input[:n] = x
        begin = 0
        for slot, position, count, outputs in segments:
            end = begin + count
            rows.slots[begin:end] = slot
            rows.positions[begin:end] = position if count == 1 else np.arange(position, position + count)
            # Without this flag llama.cpp drops the rows before the last layer's output.
            rows.wanted[begin:end] = self.hidden_out
            rows.wanted[end - outputs : end] = 1
            begin = end
        self._used += n
        pads = self._pads and n == 1 and self._used > SHORT
        if pads:
            rows.input[1], rows.slots[1], rows.positions[1], rows.wanted[1] = x[0], self.n_slots, 0, self.hidden_out
        rows.batch.n_tokens = n + pads
        if rows is self._hiddens and self._sections > 1:
            rows.repeat_positions(n + pads)
        if self._output is not None:
            self._output.begin(n + pads)
        result = C.llama_decode(self._context, rows.batch)
        if result == 1:
            raise NotEnough(f"The KV cache of {self.n_ctx} tokens is full at position {segments[0].position}.")
        if result != 0:
            raise ModelError(
                f"llama.cpp failed to decode {n} rows at position {segments[0].position} ({result}): {self._reason()}"
            )
        if pads:
            C.llama_memory_seq_rm(self._memory, self.n_slots, -1, -1)
        return self._output.rows()[:n] if self._output is not None else None

    def synchronize(self) -> None:
        """Wait until the results of the last `decode` are there: a GPU goes on while it returns."""
        C.llama_synchronize(self._context)

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """Return the logits of a row of the last `decode`, float32 of shape (n_vocab,): a view until the next one.

        Parameters
        ----------
        row
            Number of the row in the batch; -1 for the last one with logits.
        """
        pointer = C.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise ModelError(f"There are no logits for row {row}.")
        view = self._logits.get(address)
        if view is None:
            view = self._logits[address] = np.ctypeslib.as_array(pointer, (self.n_vocab,))
        return view

    def keep(self, slot: int, n: int) -> None:
        """Forget the sequence from position `n` on.

        Raises
        ------
        ModelError
            If llama.cpp cannot do so for this model.
        """
        if not C.llama_memory_seq_rm(self._memory, slot, n or -1, -1):
            raise ModelError(f"llama.cpp cannot keep {n} tokens of a sequence of this model.")

    def abandon(self, slot: int, n: int) -> None:
        """Forget the sequence from position `n` on, but leave its cells taken until `clear`. Only if loaded `exact`.

        What comes later into the cells of others would be summed up in another order.
        """
        C.llama_memory_seq_cp(self._memory, slot, self.n_slots + self._pads, n, -1)
        self.keep(slot, n)

    def clear(self) -> None:
        """Forget every sequence: the next one begins where the first one ever did."""
        C.llama_memory_clear(self._memory, False)
        self._used = 0

    def save(self, slot: int) -> NDArray[np.uint8]:
        """Return a copy of the keys and values of a sequence, in llama.cpp's own form."""
        size = C.llama_state_seq_get_size(self._context, slot)
        data = np.empty(size, np.uint8)
        written = C.llama_state_seq_get_data(self._context, data.ctypes.data_as(_BYTES), size, slot)
        return data[:written]

    def restore(self, slot: int, data: NDArray[np.uint8]) -> None:
        """Put a copy that `save` made in the place of a sequence.

        Raises
        ------
        ModelError
            If it does not fit.
        """
        if not C.llama_state_seq_set_data(self._context, data.ctypes.data_as(_BYTES), len(data), slot):
            raise ModelError(f"llama.cpp cannot put a sequence of {len(data)} bytes back: {self._reason()}")
        self._used += C.llama_memory_seq_pos_max(self._memory, slot) + 1

    def close(self) -> None:
        if self._context:
            C.llama_free(self._context)
            self._context = None
        if self._model:
            C.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _architecture(self) -> str:
        name = ctypes.create_string_buffer(64)
        C.llama_model_meta_val_str(self._model, b"general.architecture", name, len(name))
        return name.value.decode()

    def _reason(self) -> str:
        errors = self._log.errors  # the first says what is wrong; others follow from it
        return errors[0].rpartition("error loading model: ")[2] if errors else "it gave no reason"
