"""The CPU engine alone against llama.cpp alone: same GGUF, same threads, in pairs taken right after each other.

Each measurement is a process of its own, which loads the model, warms up and runs one workload. In every second pair
the order of the two is swapped. llama.cpp is measured by its own llama-batched-bench (`make peers` builds it), which
makes its prompts of random tokens and draws nothing; ours gets code of the standard library and draws greedily.
Neither matters to the speed of a dense model. No speculation on either side.

    python bench/engine.py --pairs 5 --json build/results/engine.json
    python bench/engine.py --only decode8 --only decode16
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from code_prompts import CodeTokens
from installed import installed
from limits import Limits, Peaks
from results import Paired, machine, markdown_table, write_json
from sides import Run, measure_llama_cpp, measure_quern
from workloads import ENGINE_MEASURES, Measure, Workload, chosen

MEMORY_BAR = 1.15  # peak memory over the file and the KV cache
FIRST_TOKEN_BAR = 4.0  # seconds from the start of the load, the file being in the page cache


def _quick(measures: Sequence[Measure]) -> list[Measure]:
    """Fewer tokens, and nothing long: to see that everything runs, not to quote."""
    return [
        replace(measure, workload=replace(measure.workload, generated=min(measure.workload.generated, 8)))
        for measure in measures
        if measure.workload.prompt <= 512
    ]


class Comparison:
    """Both sides of every measure, pair by pair."""

    def __init__(self, model: Path, threads: int, kv_type: str, measures: Sequence[Measure]) -> None:
        self._model = model
        self._threads = threads
        self._kv_type = kv_type
        self._measures = measures
        self._code = CodeTokens(model)
        self.rows = {measure.name: Paired(measure.name, measure.title, measure.bar) for measure in measures}
        self.runs: dict[Workload, Run] = {}

    def pair(self, number: int) -> None:
        """One more pair of every workload."""
        for work in dict.fromkeys(measure.workload for measure in self._measures):
            if number % 2:
                theirs, ours = self._theirs(work), self._ours(work)
            else:
                ours, theirs = self._ours(work), self._theirs(work)
            self.runs[work] = ours
            for measure in self._measures:
                if measure.workload == work:
                    row = self.rows[measure.name]
                    row.llama_cpp.append(measure.of(theirs.speeds[0]))
                    row.quern.append(measure.of(ours.speeds[0]))
                    print(f"pair {number}, {row.title}: {row.llama_cpp[-1]:.1f} {row.quern[-1]:.1f}", flush=True)

    def _theirs(self, work: Workload) -> Run:
        return measure_llama_cpp(self._model, [work], self._threads)

    def _ours(self, work: Workload) -> Run:
        return measure_quern(self._model, [work], self._threads, self._code, self._kv_type)


def _memory(model: Path, runs: dict[Workload, Run]) -> list[dict[str, float]]:
    """Peak memory of the largest runs against the file and the KV cache that they used."""
    facts: list[dict[str, float]] = []
    for work, run in runs.items():
        kv_bytes = work.sequences * (work.prompt + work.generated) * run.facts["kv_bytes_per_token"]
        expected = model.stat().st_size + kv_bytes
        facts.append(
            {
                "sequences": work.sequences,
                "tokens": work.prompt + work.generated,
                "kv_bytes": kv_bytes,
                "peak_bytes": run.peak_bytes,
                "ratio": run.peak_bytes / expected,
                "first_token_seconds": run.facts["first_token_seconds"],
            }
        )
    return facts


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a catalog name or a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--kv-type", default="bf16", choices=["bf16", "int8"])
    parser.add_argument("--only", action="append", default=[], metavar="MEASURE", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="one pair of short runs: to try, not to quote")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = _parse()
    here = machine()
    measures = chosen(ENGINE_MEASURES, options.only)
    if options.quick:
        measures = _quick(measures)
    model = installed(options.model)
    limits = Limits(model, Peaks.measure(options.threads))
    comparison = Comparison(model, options.threads, options.kv_type, measures)
    for number in range(1 if options.quick else options.pairs):
        comparison.pair(number)
    for measure in measures:
        comparison.rows[measure.name].limit = limits.speed(measure)
    print(f"\n{options.model}, {options.threads} threads, KV cache in {options.kv_type}; peaks of {limits.peaks}")
    print(f"load average before: {here['load_average']:.1f}; a busy machine disturbs spinning threads most\n")
    print(markdown_table(comparison.rows.values()))
    memory = _memory(model, comparison.runs)
    most = max(memory, key=lambda fact: fact["peak_bytes"])
    seconds = statistics.median(fact["first_token_seconds"] for fact in memory)
    print(
        f"\npeak memory {most['peak_bytes'] / 1e9:.2f} GB, {most['ratio']:.2f} of file and KV cache (bar {MEMORY_BAR})"
    )
    print(f"load to first token {seconds:.2f} s (bar {FIRST_TOKEN_BAR:g} s)")
    write_json(
        options.json,
        {
            "machine": here,
            "model": options.model,
            "file_bytes": model.stat().st_size,
            "threads": options.threads,
            "kv_type": options.kv_type,
            "peaks": limits.peaks.as_dict(),
            "measures": [row.as_dict() for row in comparison.rows.values()],
            "memory": memory,
        },
    )


if __name__ == "__main__":
    main()
