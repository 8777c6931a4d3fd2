"""What is made of vLLM's lines."""

from __future__ import annotations

import pytest

from quern.engine.vllm.log_lines import LoadProgress, LogLine, read_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "(EngineCore pid=7) INFO 11-28 16:50:01 [core.py:123] Starting to load model /m...",
            LogLine("INFO", "Starting to load model /m...", "EngineCore pid=7"),
        ),
        ("WARNING 11-28 16:50:01 [envs.py:1] Old.", LogLine("WARNING", "Old.")),
        (
            "\x1b[0;36m(APIServer pid=1)\x1b[0;0m ERROR 11-28 16:50:01 [a.py:1] No.",
            LogLine("ERROR", "No.", "APIServer pid=1"),
        ),
        ("Traceback (most recent call last):", LogLine("", "Traceback (most recent call last):")),
    ],
)
def test_a_line_has_its_level_and_its_text(line: str, expected: LogLine) -> None:
    assert read_line(line) == expected


def test_a_load_goes_through_its_phases_and_never_backwards() -> None:
    progress, seen = LoadProgress(), list[tuple[str, float]]()
    for line in (
        "non-default args: {}",
        "Starting to load model /m...",
        "Loading safetensors checkpoint shards:  50%|#####     | 2/4",
        "Loading weights took 3.2 seconds",
        "something else",
        "Starting to load model /m...",
        "torch.compile takes 12 s in total",
        "Application startup complete.",
    ):
        if progress.take(line):
            seen.append((progress.phase, progress.fraction))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert progress.fraction < 1
    assert {"reading weights", "compiling"} <= {phase for phase, _ in seen}


def test_a_bar_tells_how_far_a_phase_is() -> None:
    progress = LoadProgress()
    progress.take("Loading safetensors checkpoint shards:   0% Completed | 0/2")
    begun = progress.fraction
    progress.take("Loading safetensors checkpoint shards:  50% Completed | 1/2")
    half = progress.fraction
    progress.take("Loading safetensors checkpoint shards: 100% Completed | 2/2")
    assert begun < half < progress.fraction <= 0.5
