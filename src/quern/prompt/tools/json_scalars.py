"""Numbers and words that stand without quotes, as JSON: those that Python writes another way, and any other as a
string.
"""

from __future__ import annotations

import json
import math
import re

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
LITERALS = frozenset({"true", "false", "null"})
PYTHON_LITERALS = {"True": "true", "False": "false", "None": "null"}
LONGEST_NUMBER = 1000
"""Characters; Python refuses integers of more than 4300 digits."""


def is_json(text: str) -> bool:
    """Whether JSON writes a number, a boolean or nothing like that."""
    return text in LITERALS or _is_number(text)


def is_literal(text: str) -> bool:
    """Whether JSON or Python does."""
    return is_json(text) or text in PYTHON_LITERALS


def mended(text: str) -> str:
    """What JSON does not write like that, as JSON."""
    return PYTHON_LITERALS.get(text) or _python_number(text) or json.dumps(text, ensure_ascii=False)


def _is_number(text: str) -> bool:
    return len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _python_number(text: str) -> str | None:
    """A number that Python reads and JSON does not: `+1`, `.5`, `007`, `1_000`, `0x1F`; None where it is none."""
    if len(text) > LONGEST_NUMBER:
        return None
    for base in (0, 10):
        try:
            return str(int(text, base))
        except ValueError:
            continue
    try:
        number = float(text)
    except ValueError:
        return None
    return repr(number) if math.isfinite(number) else None
