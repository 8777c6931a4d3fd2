"""A child's lines, its end, and what it leaves behind."""

from __future__ import annotations

import asyncio
import signal
import sys

import psutil
import pytest

from quern.engine.served.child_process import ChildProcess, how_it_ended, last_words, lost
from quern.errors import ModelLoadError


async def start(program: str, lines: list[str] | None = None) -> ChildProcess:
    told = lines if lines is not None else list[str]()
    return await ChildProcess.start((sys.executable, "-c", program), on_line=told.append, variables={})


async def test_lines_end_where_progress_bars_end_theirs_too_and_empty_ones_are_none() -> None:
    lines: list[str] = []
    child = await start(r"import sys; sys.stderr.write('one\r\ntwo\rthree\n\n  \nfour')", lines)
    assert await child.ended() == 0
    assert lines == ["one", "two", "three", "four"]
    await child.stop()


async def test_only_the_last_lines_are_remembered() -> None:
    child = await start("import sys; [print(n, file=sys.stderr) for n in range(20)]")
    await child.ended()
    assert list(child.last_lines) == [str(number) for number in range(12, 20)]
    assert last_words(child.last_lines).startswith(" Its last lines:\n  12\n")
    await child.stop()


async def test_a_line_without_an_end_is_told_in_parts() -> None:
    lines: list[str] = []
    child = await start("import sys; sys.stderr.write('x' * (3 * 2**20))", lines)
    await child.ended()
    assert 1 < len(lines) <= 8
    assert "".join(lines) == "x" * (3 * 2**20)
    await child.stop()


async def test_what_it_answers_is_read_from_its_standard_output() -> None:
    child = await start("import sys; print('got', sys.stdin.readline().strip())")
    child.write_line(b"word")
    assert await child.read_line() == b"got word\n"
    assert await child.read_line() == b""
    await child.stop()


ORPHANS = """
import subprocess, sys
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], stdout=subprocess.DEVNULL)
print(other.pid)
"""


async def test_its_end_is_seen_and_what_it_has_started_ends_too() -> None:
    child = await start(ORPHANS)
    orphan = psutil.Process(int(await child.read_line()))
    async with asyncio.timeout(20):
        assert await child.ended() == 0
        while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
    await child.stop()


async def _never_ready() -> bool:
    raise ConnectionError


async def test_one_that_ends_and_one_that_answers_nothing_are_lost_with_a_sentence() -> None:
    child = await start("import sys; print('bye', file=sys.stderr); sys.exit(3)")
    assert await lost(child, _never_ready, 60) == (
        "The inference process ended with exit code 3. Its last lines:\n  bye"
    )
    hanging = await start("import time; time.sleep(99)")
    assert "answered nothing for 0.3 s (engine.hung_seconds)" in await lost(hanging, _never_ready, 0.3)
    assert hanging.running
    await hanging.stop()
    assert not hanging.running
    await child.stop()


async def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(ModelLoadError, match="can't be started: No such file"):
        await ChildProcess.start(("/no/such/program",), on_line=lambda _: None, variables={})


def test_a_signal_has_a_name_where_it_has_one() -> None:
    assert how_it_ended(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert how_it_ended(-250) == "was ended by signal 250"
