"""Whether the time that a wrong key takes tells how wrong it is: medians of interleaved samples, in nanoseconds.

    python bench/key_timing.py

An unknown id, a known one with another secret, and one whose last character is wrong must take the same; a difference
far below the spread of single samples can't be seen over a network. A text that has not a key's form is refused sooner,
and what form that is everybody may know. No test: what else the machine does would decide it.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from quern.access.key_changes import KeyChanges
from quern.access.keys import Keys
from quern.access.secrets import new_key
from quern.config import LogLevel, LogSettings, Settings
from quern.errors import Unauthorized
from quern.obs.logging import configure_logging
from quern.store.database import Database
from quern.store.keys import KeyStore

SAMPLES, KEYS = 30_000, 200


async def measured(folder: Path) -> dict[str, list[int]]:
    """Nanoseconds by kind of key."""
    database = Database(Settings(data_dir=folder).database_url)
    await database.open()
    keys = Keys(KeyStore(database), open_without_keys=True, anonymous=False)
    async with keys.running():
        made = [(await keys.create(f"k{number}", KeyChanges(), "bench"))[1] for number in range(KEYS)]
        key = made[KEYS // 2]
        kinds = {
            "unknown id": str(new_key()),
            "known id, another secret": str(new_key(key.split("_")[1])),
            "last character wrong": key[:-1] + ("0" if key[-1] != "0" else "1"),
        }
        times: dict[str, list[int]] = {kind: [] for kind in kinds}
        for _ in range(SAMPLES):
            for kind, presented in kinds.items():
                began = time.perf_counter_ns()
                try:
                    keys.authenticate(presented)
                except Unauthorized:
                    times[kind].append(time.perf_counter_ns() - began)
    await database.close()
    return times


def main() -> None:
    """Print medians, and the spread of the middle half."""
    with tempfile.TemporaryDirectory() as folder:
        configure_logging(LogSettings(level=LogLevel.WARNING))
        times = asyncio.run(measured(Path(folder)))
    for kind, samples in times.items():
        first, median, third = statistics.quantiles(samples, n=4)
        print(f"{kind:26} {median:8.0f} ns   (half of them within {third - first:.0f} ns)")


if __name__ == "__main__":
    main()
