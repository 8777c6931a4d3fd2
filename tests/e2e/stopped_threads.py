"""One thread of another process, made to stand while its other threads go on: what no signal can do, ptrace(2) can."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import psutil
import pytest

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WAIT_FOR_THREADS = 0x40000000
"""`__WALL`: a thread is waited for, too, which is no child of ours."""

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, thread_id: int) -> None:
    _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if _libc.ptrace(request, thread_id, None, None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@contextmanager
def standing(thread_id: int) -> Generator[None]:
    """The thread computes nothing until the block ends. Skips the test where the system forbids ptrace.

    Enter and leave it in one thread: the kernel takes orders only from the one that attached.
    """
    attached_by = threading.get_ident()
    try:
        _ptrace(PTRACE_SEIZE, thread_id)
    except PermissionError:
        pytest.skip("this system lets nobody stop a thread of another process; tests/unit/engine makes one stand")
    _ptrace(PTRACE_INTERRUPT, thread_id)
    os.waitpid(thread_id, WAIT_FOR_THREADS)
    try:
        yield
    finally:
        assert threading.get_ident() == attached_by
        try:
            _ptrace(PTRACE_DETACH, thread_id)
        except ProcessLookupError:  # it was killed, and its own parent learns of that once we have
            os.waitpid(thread_id, WAIT_FOR_THREADS)


def busiest_thread(process_id: int, seconds: float = 0.5) -> int:
    """The thread that computes most for so long: of a process that writes an answer, the engine's."""
    process = psutil.Process(process_id)
    before = {thread.id: thread.user_time for thread in process.threads()}
    time.sleep(seconds)
    return max(process.threads(), key=lambda thread: thread.user_time - before.get(thread.id, 0.0)).id
