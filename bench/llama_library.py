"""Logits from llama.cpp's own library, in this process: every token's, in float32, which none of its programs gives.

`llama-perplexity --save-all-logits` rounds to 16 bits, cuts off at 16 below the best, and skips half of each window.

The two parameter structures differ between versions, so their defaults are passed back as they came: as bytes of which
only the first four of the context's, `n_ctx`, are written. x86-64's calling convention allows a structure to be
declared longer than it is, as the last argument and as a result.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quern.engine.llamacpp.process import SPINNING

MAX_BATCH = 2048
"""llama.cpp's default `n_batch`; longer prompts would have to be decoded in parts."""
DEFAULTS = [512, MAX_BATCH, 512]
"""`n_ctx`, `n_batch`, `n_ubatch`: what the context's parameters begin with."""

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _Parameters(ctypes.Structure):
    """At least as long as `llama_model_params` and `llama_context_params`."""

    _fields_ = (("words", ctypes.c_uint64 * 64),)


class _Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class LlamaLibrary:
    """A model in libllama.so with its default settings: f16 KV cache. Close it, or use it in a `with` statement.

    `folder` has libllama.so. Raises OSError where it is missing, RuntimeError where it is of an unknown version or
    can't load the model.
    """

    def __init__(self, folder: Path, model: Path, *, threads: int, context: int) -> None:
        self._library = _load(folder)
        self._silence = _LogCallback(lambda *_: None)
        self._library.llama_log_set(self._silence, None)
        self._library.llama_backend_init()
        parameters = self._library.llama_context_default_params()
        settings = (ctypes.c_uint32 * 3).from_buffer(parameters)
        if list(settings) != DEFAULTS:
            raise RuntimeError(
                f"{folder} holds a llama.cpp whose parameters begin with {list(settings)}, not {DEFAULTS}"
            )
        settings[0] = context
        self._model = self._library.llama_model_load_from_file(
            str(model).encode(), self._library.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {model}")
        self._context = self._library.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise RuntimeError(f"llama.cpp can't make a context of {context} tokens for {model}")
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary: int = self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(self._model))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each of `ids`, a sequence of its own: [n, vocabulary]. Raises RuntimeError, ValueError."""
        if len(ids) > MAX_BATCH:
            raise ValueError(f"{len(ids)} tokens; one batch of llama.cpp has {MAX_BATCH} at most")
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        batch = self._library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token in enumerate(ids):
                batch.token[index], batch.pos[index], batch.logits[index] = token, index, 1
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            status = self._library.llama_decode(self._context, batch)
        finally:
            self._library.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {len(ids)} tokens")
        result = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(result, shape=(len(ids), self._vocabulary)).copy()


def _load(folder: Path) -> Any:
    os.environ.update(SPINNING)  # read by OpenMP when it is loaded
    library: Any = ctypes.CDLL(str(folder / "libllama.so"))
    pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_log_set": (None, [_LogCallback, pointer]),
        "llama_backend_init": (None, []),
        "llama_model_default_params": (_Parameters, []),
        "llama_context_default_params": (_Parameters, []),
        "llama_model_load_from_file": (pointer, [text, _Parameters]),
        "llama_init_from_model": (pointer, [pointer, _Parameters]),
        "llama_set_n_threads": (None, [pointer, integer, integer]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_vocab_n_tokens": (integer, [pointer]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_batch_init": (_Batch, [integer, integer, integer]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (integer, [pointer, _Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
        "llama_free": (None, [pointer]),
        "llama_model_free": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
