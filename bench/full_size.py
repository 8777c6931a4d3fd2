"""The full-size model on this machine: load, memory, prefill and decode, ours next to llama.cpp, never both at once.

Made for the file that `write_full_size_model.py` writes, but takes any. The limit counts the weights that a step reads:
of the experts those that its tokens hit, if each chooses at random.

    python bench/full_size.py build/full-size/model.gguf --json build/results/full_size.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from code_prompts import CodeTokens
from limits import Limits, Peaks
from results import machine, write_json
from sides import Run, measure_llama_cpp, measure_quern
from workloads import FULL_SIZE_MEASURES, Measure, Workload

Values = dict[str, float]


def _values(measures: Sequence[Measure], workloads: Sequence[Workload], runs: Sequence[Run]) -> Values:
    """Each measure's tokens per second, and what the loads took."""
    speeds = dict(zip(workloads, [speed for run in runs for speed in run.speeds], strict=True))
    values = {measure.name: measure.of(speeds[measure.workload]) for measure in measures}
    values["load_seconds"] = max(run.load_seconds for run in runs)
    values["peak_bytes"] = max(run.peak_bytes for run in runs)
    return values


def llama_cpp(model: Path, measures: Sequence[Measure], threads: int) -> Values:
    """One process for each length of prompts."""
    groups: dict[tuple[int, int], list[Workload]] = {}
    for work in dict.fromkeys(measure.workload for measure in measures):
        groups.setdefault((work.prompt, work.generated), []).append(work)
    runs = [measure_llama_cpp(model, group, threads) for group in groups.values()]
    return _values(measures, [work for group in groups.values() for work in group], runs)


def quern(model: Path, measures: Sequence[Measure], threads: int) -> Values:
    """One process for everything."""
    workloads = list(dict.fromkeys(measure.workload for measure in measures))
    return _values(measures, workloads, [measure_quern(model, workloads, threads, CodeTokens(model))])


def _table(sides: dict[str, Values], limits: dict[str, float], measures: Sequence[Measure]) -> str:
    lines = [f"| tokens/s | {' | '.join(sides)} | limit |", "|---" * (len(sides) + 2) + "|"]
    for measure in measures:
        limit = limits[measure.name]
        speeds = [values[measure.name] for values in sides.values()]
        cells = [f"{speed:.1f} ({speed / limit:.0%})" for speed in speeds]
        lines.append(f"| {measure.title} | {' | '.join(cells)} | {limit:.1f} |")
    loads = [f"{values['load_seconds']:.1f}" for values in sides.values()]
    peaks = [f"{values['peak_bytes'] / 1e9:.2f}" for values in sides.values()]
    lines.append(f"| load, s | {' | '.join(loads)} | |")
    lines.append(f"| peak memory, GB | {' | '.join(peaks)} | |")
    return "\n".join(lines)


def main() -> None:
    """Measure one side after the other, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", action="append", choices=["llama.cpp", "quern"], help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    here = machine()
    known = {"llama.cpp": llama_cpp, "quern": quern}
    limits = Limits(options.model, Peaks.measure(options.threads))
    limit = {measure.name: limits.speed(measure) for measure in FULL_SIZE_MEASURES}
    sides: dict[str, Values] = {}
    for name in options.side or known:
        sides[name] = known[name](options.model, FULL_SIZE_MEASURES, options.threads)
    size = options.model.stat().st_size
    print(f"{options.model.name}, {size / 1e9:.2f} GB, of which one token reads {limits.weight_bytes(1) / 1e9:.2f} GB;")
    print(f"{limits.peaks}\n\n{_table(sides, limit, FULL_SIZE_MEASURES)}")
    results: dict[str, Any] = {
        "machine": here,
        "file_bytes": size,
        "bytes_per_token": limits.weight_bytes(1),
        "peaks": limits.peaks.as_dict(),
        "limit": limit,
        "sides": sides,
    }
    write_json(options.json, results)


if __name__ == "__main__":
    main()
