"""A llama.cpp server in a process of its own: `python llamacpp_server.py MODEL`; the key comes as the first line of
standard input. It prints its address once it answers, and ends with its standard input.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.api_keys = [sys.stdin.readline().strip()]
    params.port = 0
    params.n_parallel = 1
    params.n_ctx = 256
    params.warmup = False
    params.ui = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"address {server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
