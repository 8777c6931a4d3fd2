"""What the commands that talk to a server share."""

from __future__ import annotations

import subprocess
import sys

UNNOTICED = """
import signal, socket, threading, time
from quern.cli.terminal import noticing_ctrl_c

def interrupt_unnoticed():
    # Taken by another thread, the signal does not wake the one that waits, as if it had come just before.
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

ours, theirs = socket.socketpair()
threading.Thread(target=interrupt_unnoticed, daemon=True).start()
with noticing_ctrl_c():
    try:
        ours.recv(1)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_is_noticed_when_the_signal_comes_just_before_the_wait_for_a_silent_server() -> None:
    program = [sys.executable, "-c", UNNOTICED]
    assert subprocess.run(program, capture_output=True, text=True, timeout=30, check=True).stdout == "interrupted\n"
