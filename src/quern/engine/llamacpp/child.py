"""The inference process: one xllamacpp server on a loopback port. Run with `python -P -m quern.engine.llamacpp.child`.

Standard input: one line of JSON, the fields of `ChildConfig`; then nothing, and its end ends the process. Standard
output: one line of JSON, `{"address": ..., "system": ...}`, once the model is loaded. Logs go to standard error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from dataclasses import dataclass
from typing import Any

PR_SET_PDEATHSIG = 1
WARNINGS = 2


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What the process is to serve. `slot_tokens` is the most that one slot may hold of the `kv_tokens`. `embeds`: the
    model makes embeddings, of the last token's hidden state.
    """

    model: str
    api_key: str
    slots: int
    kv_tokens: int
    slot_tokens: int
    threads: int
    batch_tokens: int
    embeds: bool = False


def main() -> None:
    """Serve until standard input ends."""
    _belong_to_the_parent()
    config = ChildConfig(**json.loads(sys.stdin.buffer.readline()))
    if _standard_input_has_ended():
        sys.exit(1)
    answers = _reserve_standard_output()
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, config))
    except RuntimeError:
        sys.exit(1)  # llama.cpp has written why
    try:
        ready = {"address": server.listening_address, "system": xllamacpp.get_system_info()}
        os.write(answers, json.dumps(ready).encode() + b"\n")
        os.close(answers)
        sys.stdin.buffer.read()
    finally:
        os._exit(0)  # an orderly end would wait for connections that nobody reads


def _belong_to_the_parent() -> None:
    """Die with the parent, also while loading, when nothing here can run; let only the parent decide when."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _standard_input_has_ended() -> bool:
    """True where the parent died before we asked to die with it."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLHUP)
    return bool(poll.poll(0))


def _reserve_standard_output() -> int:
    """Keep standard output for our one line: whatever a library prints goes to standard error."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _parameters(xllamacpp: Any, config: ChildConfig) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = config.model
    parameters.api_keys = [config.api_key]
    parameters.port = 0
    parameters.n_threads_http = config.slots + 8
    parameters.verbosity = WARNINGS
    parameters.ui = False
    parameters.warmup = False
    # Fitting loads the model twice to find how much of it a GPU can take.
    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    parameters.fit_params = any(device["type"] != cpu for device in xllamacpp.get_device_info())
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = config.threads
    # Every running stream takes one token of each step; what is left must let prompts go on.
    parameters.n_batch = parameters.n_ubatch = max(config.batch_tokens, 2 * config.slots)
    parameters.n_parallel = config.slots
    parameters.n_ctx = config.kv_tokens
    # One pool for all slots costs attention over everybody's tokens; without need, each slot has its own part.
    parameters.kv_unified = config.slots * config.slot_tokens > config.kv_tokens
    parameters.kv_unified_per_slot = config.slot_tokens
    # We choose the slots, and no cache may pass from one salt to another behind our back.
    parameters.slot_prompt_similarity = 0.0
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    if config.embeds:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    return parameters


if __name__ == "__main__":
    main()
