"""What vLLM writes while it loads and serves, as levels, texts and progress. Pure.

Source of the form: vLLM 0.32, `logger.py` and `logging_utils/formatter.py`: `(EngineCore pid=7) INFO 11-28 16:50:01
[gpu_model_runner.py:123] Starting to load model …`. Progress bars are lines of tqdm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(
    r"(?:\((?P<process>[^)]*)\)\s+)?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? "
    r"\[(?P<place>[^\]]*)\]\s?(?P<text>.*)"
)
BAR = re.compile(r":\s+(?P<percent>\d+)%")


@dataclass(frozen=True, slots=True)
class LogLine:
    """`level`: as vLLM has it; empty where the line has none, as those of a traceback."""

    level: str
    text: str
    process: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a load, which begins when a line has `sign`; `begin` and `end`: of the whole load's time."""

    name: str
    sign: str
    begin: float
    end: float


PHASES = (
    Phase("starting", "non-default args", 0.02, 0.05),
    Phase("initialising", "Initializing a V1 LLM engine", 0.05, 0.1),
    Phase("reading weights", "Starting to load model", 0.1, 0.5),
    Phase("reading weights", "Loading safetensors checkpoint shards", 0.1, 0.5),
    Phase("compiling", "Loading weights took", 0.5, 0.75),
    Phase("compiling", "Compiling a graph", 0.55, 0.75),
    Phase("measuring the KV cache", "torch.compile takes", 0.75, 0.8),
    Phase("capturing graphs", "KV cache size", 0.8, 0.97),
    Phase("capturing graphs", "Capturing CUDA graphs", 0.8, 0.97),
    Phase("ready", "Application startup complete", 0.99, 0.99),
)


def read_line(line: str) -> LogLine:
    """A line as it was written."""
    plain = COLOURS.sub("", line).strip()
    found = LINE.fullmatch(plain)
    if found is None:
        return LogLine("", plain)
    return LogLine(found["level"], found["text"], found["process"] or "")


class LoadProgress:
    """How far a load is, by what it has written: `fraction` never falls."""

    def __init__(self) -> None:
        self.fraction = 0.0
        self.phase = ""

    def take(self, text: str) -> bool:
        """A line's text; whether another phase has begun with it."""
        phase = next((phase for phase in PHASES if phase.sign in text), None)
        if phase is None:
            return False
        bar = BAR.search(text)
        part = int(bar["percent"]) / 100 if bar else 0.0
        self.fraction = max(self.fraction, phase.begin + part * (phase.end - phase.begin))
        begins, self.phase = phase.name != self.phase, phase.name
        return begins
