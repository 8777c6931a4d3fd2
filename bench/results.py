"""Pairs of measurements, as a table for people and as JSON for docs/performance.md."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(slots=True)
class Paired:
    """One measure of both sides, in pairs taken right after each other, so that a busy machine disturbs both.

    `bar` is the ratio to reach, `limit` what the machine could do at most.
    """

    name: str
    title: str
    bar: float | None = None
    limit: float | None = None
    llama_cpp: list[float] = field(default_factory=list[float])
    quern: list[float] = field(default_factory=list[float])

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs, pair by pair."""
        return [ours / theirs for ours, theirs in zip(self.quern, self.llama_cpp, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, with their medians."""
        return {
            "name": self.name,
            "title": self.title,
            "llama_cpp": self.llama_cpp,
            "quern": self.quern,
            "llama_cpp_median": statistics.median(self.llama_cpp),
            "quern_median": statistics.median(self.quern),
            "ratios": self.ratios,
            "ratio_median": statistics.median(self.ratios),
            "bar": self.bar,
            "limit": self.limit,
        }


def markdown_table(rows: Iterable[Paired], unit: str = "tokens/s") -> str:
    """Medians, the median of the pairs' ratios with its range, the bar, and ours as a share of the limit."""
    lines = [
        f"| {unit} | llama.cpp | quern | ratio | range of ratios | at least | of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, ratios = statistics.median(row.quern), row.ratios
        cells = [
            row.title,
            f"{statistics.median(row.llama_cpp):.4g}",
            f"{ours:.4g}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            "" if row.bar is None else f"{row.bar:g}",
            "" if row.limit is None else f"{ours / row.limit:.0%} of {row.limit:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What a reader needs to know of this machine, how busy it is, and of the commit that is measured."""
    cpu = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines())
    }
    flags = cpu.get("flags", "").split()
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "commit": _commit(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """Write results where a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
