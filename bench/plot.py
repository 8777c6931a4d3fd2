"""Draw what `engine.py --json` wrote: tokens per second by the number of sequences, as grouped bars in an SVG.

python bench/plot.py build/results/engine.json docs/performance.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 70, 50
BAR = 44
DECODES = ("decode1", "decode4", "decode8", "decode16")
STEPS = (1, 2, 2.5, 5, 10)  # what the axis counts in, times a power of ten
MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of bars."""

    title: str
    colour: str
    values: Sequence[float]


def axis_step(most: float) -> float:
    """The smallest round number that reaches `most` in at most `MOST_TICKS` steps."""
    power = 1.0
    while power * STEPS[-1] * MOST_TICKS < most:
        power *= 10
    return next(power * step for step in STEPS if power * step * MOST_TICKS >= most)


def _text(x: float, y: float, text: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(text)}</text>'


def _axis(most: float) -> Iterator[str]:
    step = axis_step(most)
    for number in range(MOST_TICKS + 1):
        value = number * step
        y = _height(value, most)
        if y < TOP - 1:
            break
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(LEFT - 8, y + 4, f"{value:g}", 'text-anchor="end" fill="#555"')


def _height(value: float, most: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most


def _bars(series: Sequence[Series], groups: Sequence[str], most: float) -> Iterator[str]:
    width = len(series) * BAR
    space = (WIDTH - LEFT - RIGHT - len(groups) * width) / len(groups)
    for index, group in enumerate(groups):
        start = LEFT + space / 2 + index * (width + space)
        for place, one in enumerate(series):
            value, x = one.values[index], start + place * BAR
            y = _height(value, most)
            bar_height = HEIGHT - BOTTOM - y
            yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{BAR - 3}" height="{bar_height:.1f}" fill="{one.colour}"/>'
            yield _text(x + (BAR - 3) / 2, y - 4, f"{value:.0f}", 'text-anchor="middle"')
        yield _text(start + width / 2, HEIGHT - BOTTOM + 20, group, 'text-anchor="middle"')


def _legend(series: Sequence[Series]) -> Iterator[str]:
    for index, one in enumerate(series):
        x = LEFT + index * 130
        yield f'<rect x="{x}" y="{TOP - 36}" width="12" height="12" fill="{one.colour}"/>'
        yield _text(x + 18, TOP - 26, one.title)


def draw(title: str, series: Sequence[Series], groups: Sequence[str]) -> str:
    """The whole picture."""
    most = max(value for one in series for value in one.values)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="13" '
            'font-family="system-ui, sans-serif" fill="#222">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 22, title, 'font-size="15" font-weight="600"'),
        *_legend(series),
        *_axis(most),
        *_bars(series, groups, most),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def decode_picture(results: dict[str, Any]) -> str:
    """Decode speeds of both sides and the limit, by the number of sequences. Raises ValueError without any."""
    rows = [row for row in results["measures"] if row["name"] in DECODES]
    if not rows:
        raise ValueError("these results have no decode speeds: run engine.py without --only")
    series = [
        Series("llama.cpp", "#9aa5b1", [row["llama_cpp_median"] for row in rows]),
        Series("quern", "#2563eb", [row["quern_median"] for row in rows]),
        Series("the machine's limit", "#f2c879", [row["limit"] for row in rows]),
    ]
    title = f"Decode, tokens/s of all sequences: {results['model']}, {results['threads']} threads"
    return draw(title, series, [row["title"].removeprefix("decode, ") for row in rows])


def main() -> None:
    """Read the results, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what engine.py --json wrote")
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    options.picture.write_text(decode_picture(results), encoding="utf-8")


if __name__ == "__main__":
    main()
