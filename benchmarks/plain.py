"""One llama.cpp process without ainet, driven by lines of JSON: the limit that `pipeline.py` compares with.

Run by `rpc.py`, also with the Python of an environment whose llama.cpp has the RPC backend:

    python plain.py MODEL [HOST:PORT …]      # with addresses, the layers go to these RPC servers
    python plain.py MODEL --gpu              # on the GPU
    python plain.py --serve HOST:PORT        # be such a server
    python plain.py --serve HOST:PORT --gpu  # … of the GPU
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

N_CTX = 1024


def library(name: str) -> ctypes.CDLL:
    """Load one of the libraries that llama-cpp-python ships."""
    return ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob(f"*{name}.*"))), ctypes.RTLD_GLOBAL)


def serve(address: str, *, gpu: bool) -> None:
    """Serve this device's CPU, or its GPU, at HOST:PORT to one client after the other, with one thread."""
    base, cpu, rpc = library("ggml-base"), library("ggml-cpu"), library("ggml-rpc")
    cpu.ggml_backend_cpu_reg.restype = ctypes.c_void_p
    base.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    devices = (ctypes.c_void_p * 1)(base.ggml_backend_reg_dev_get(cpu.ggml_backend_cpu_reg(), 0))
    if gpu:
        C.llama_backend_init()
        registry = library("ggml")
        registry.ggml_backend_dev_by_type.restype = ctypes.c_void_p
        devices[0] = registry.ggml_backend_dev_by_type(1)  # GGML_BACKEND_DEVICE_TYPE_GPU
    rpc.ggml_backend_rpc_start_server.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    rpc.ggml_backend_rpc_start_server(address.encode(), None, 1, 1, devices)


class Plain:
    """A loaded model with llama.cpp's defaults and one thread."""

    def __init__(self, path: str, servers: list[str], *, gpu: bool = False) -> None:
        silent = C.llama_log_callback(lambda *_: None)
        C.llama_log_set(silent, ctypes.c_void_p(0))
        self._keep = silent
        C.llama_backend_init()
        model_params = C.llama_model_default_params()
        model_params.n_gpu_layers = 999 if servers or gpu else 0
        if not servers and not gpu:
            self._devices = (ctypes.c_void_p * 1)()
            model_params.devices = ctypes.cast(self._devices, ctypes.c_void_p)
        if servers:
            self._devices = self._remote(servers)
            model_params.devices = ctypes.cast(self._devices, ctypes.c_void_p)
            split = (ctypes.c_float * 128)(*[1.0] * len(servers))
            model_params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
        self.model = C.llama_model_load_from_file(path.encode(), model_params)
        params = C.llama_context_default_params()
        params.n_ctx = N_CTX
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = C.llama_init_from_model(self.model, params)
        self.n_vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))

    @staticmethod
    def _remote(servers: list[str]) -> ctypes.Array[ctypes.c_void_p]:
        rpc, base = library("ggml-rpc"), library("ggml-base")
        rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
        base.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
        base.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        found = []
        for server in servers:
            registry = rpc.ggml_backend_rpc_add_server(server.encode())
            found.append(base.ggml_backend_reg_dev_get(registry, 0))
        return (ctypes.c_void_p * (len(found) + 1))(*found, None)

    def run(self, prompt: list[int], n: int) -> dict[str, object]:
        """Process `prompt`, then generate `n` tokens greedily; returns seconds and tokens."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        begun = time.perf_counter()
        token = self._step(np.array(prompt, np.int32))
        prompted = time.perf_counter()
        tokens = [token]
        while len(tokens) < n:
            token = self._step(np.array([token], np.int32))
            tokens.append(token)
        return {"prompt_s": prompted - begun, "decode_s": time.perf_counter() - prompted, "tokens": tokens}

    def _step(self, tokens: np.ndarray) -> int:
        pointer = tokens.ctypes.data_as(ctypes.POINTER(C.llama_token))
        if C.llama_decode(self.context, C.llama_batch_get_one(pointer, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")
        logits = C.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.n_vocab,)).argmax())


def main() -> None:
    """Answer lines of JSON (`prompt`, `n`) with lines of JSON until the input ends."""
    gpu = "--gpu" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--gpu"]
    if words[0] == "--serve":
        serve(words[1], gpu=gpu)
        return
    plain = Plain(words[0], words[1:], gpu=gpu)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(plain.run(request["prompt"], request["n"])), flush=True)


if __name__ == "__main__":
    main()
