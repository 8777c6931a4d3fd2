"""What can be wrong with a PromQL expression, told without a Prometheus: those parts of the language that deploy/ uses.

Source of the grammar: "Querying basics", "Operators" and "Functions" of Prometheus' documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prometheus_client import Metric

OF_PROMETHEUS = frozenset({"job", "instance"})
AGGREGATIONS = frozenset({"sum", "max", "min", "avg", "count"})
RATES = frozenset({"rate", "irate", "increase"})
OPERATORS = ({"or"}, {"and", "unless"}, {"==", "!=", ">", "<", ">=", "<="}, {"+", "-"}, {"*", "/", "%"})
"""Those that bind loosest first."""

TOKEN = re.compile(
    r"\s*(?:(?P<range>\[(?:[1-9]\d*[smhd]|\$__rate_interval|\$__range)\])|(?P<number>\d+(?:\.\d+)?)"
    r'|(?P<string>"[^"\\]*")|(?P<name>[a-zA-Z_:][\w:]*)|(?P<sign>=~|!~|==|!=|>=|<=|[-+*/%<>=(){},]))'
)


class PromqlError(Exception):
    """What is wrong with an expression."""


@dataclass(frozen=True)
class Vector:
    """What an expression gives: series with these labels, or a number, which has none (`labels` is None).

    `counter`: it only grows, so that its value says nothing; `ranged`: values over a time.
    """

    labels: frozenset[str] | None
    counter: bool = False
    ranged: bool = False
    bucket: bool = False


def series_of(families: Iterable[Metric]) -> dict[str, Vector]:
    """What can be selected of metrics that were scraped, by name; with `up`, which Prometheus itself writes."""
    series = {"up": Vector(OF_PROMETHEUS)}
    for family in families:
        for sample in family.samples:
            known = series.get(sample.name, Vector(OF_PROMETHEUS)).labels or frozenset()
            grows = family.type in {"counter", "histogram"}
            bucket = family.type == "histogram" and sample.name.endswith("_bucket")
            series[sample.name] = Vector(known | set(sample.labels), counter=grows, bucket=bucket)
    return series


def check(expression: str, series: Mapping[str, Vector]) -> frozenset[str]:
    """The labels of what an expression gives. Raises PromqlError."""
    parser = _Parser(expression, series)
    found = parser.expression()
    if parser.peek():
        raise PromqlError(f"{parser.peek()!r} is too much")
    return _shown(found).labels or frozenset()


def _shown(found: Vector) -> Vector:
    """Something that can be computed with. A counter's value can't: it begins anew with every start."""
    if found.ranged:
        raise PromqlError("a range of values is no value: rate() makes one of it")
    if found.counter:
        raise PromqlError("a counter without rate() or increase()")
    return found


class _Parser:
    def __init__(self, text: str, series: Mapping[str, Vector]) -> None:
        self._series = series
        self._tokens: list[tuple[str, str]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            token = TOKEN.match(text, position)
            if token is None:
                raise PromqlError(f"{text[position:]!r} can't be read")
            kind = str(token.lastgroup)
            self._tokens.append((kind, token[kind]))
            position = token.end()

    def peek(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def expression(self, level: int = 0) -> Vector:
        if level == len(OPERATORS):
            return self._operand()
        left = self.expression(level + 1)
        while self.peek() in OPERATORS[level]:
            operator = self._take()
            left = _combined(_shown(left), operator, _shown(self.expression(level + 1)))
        return left

    def _take(self, *wanted: str, kind: str = "") -> str:
        found, text = self._tokens.pop(0) if self._tokens else ("end", "the end")
        if (wanted and text not in wanted) or (kind and found != kind):
            raise PromqlError(f"there is {text} where {' or '.join(wanted) or f'a {kind}'} should be")
        return text

    def _operand(self) -> Vector:
        if self.peek() == "(":
            return self._inside()
        if self._tokens and self._tokens[0][0] == "number":
            self._take()
            return Vector(None)
        name = self._take(kind="name")
        if name in AGGREGATIONS:
            return self._aggregation(name)
        if name in RATES:
            return _rate(name, self._inside())
        if name == "histogram_quantile":
            return self._quantile()
        return self._selector(name)

    def _inside(self) -> Vector:
        self._take("(")
        found = self.expression()
        self._take(")")
        return found

    def _aggregation(self, name: str) -> Vector:
        by = self._by()
        inner = _shown(self._inside())
        by = by if by is not None else self._by()
        if inner.labels is None:
            raise PromqlError(f"{name}() of a number")
        if missing := (by or frozenset()) - inner.labels:
            raise PromqlError(f"{name}() by {', '.join(missing)}, which it is not given")
        return replace(inner, labels=by or frozenset())

    def _by(self) -> frozenset[str] | None:
        if self.peek() != "by":
            return None
        self._take("by")
        self._take("(")
        labels = {self._take(kind="name")}
        while self._take(",", ")") == ",":
            labels.add(self._take(kind="name"))
        return frozenset(labels)

    def _quantile(self) -> Vector:
        self._take("(")
        share = float(self._take(kind="number"))
        self._take(",")
        inner = _shown(self.expression())
        self._take(")")
        if not 0 <= share <= 1:
            raise PromqlError(f"the quantile {share}")
        if not inner.bucket or "le" not in (inner.labels or ()):
            raise PromqlError("histogram_quantile() of something that has no buckets, or not le any more")
        return Vector((inner.labels or frozenset()) - {"le"})

    def _selector(self, name: str) -> Vector:
        found = self._series.get(name)
        if found is None:
            raise PromqlError(f"there is no metric {name}")
        if self.peek() == "{":
            self._take("{")
            while self.peek() != "}":
                label = self._take(kind="name")
                if label not in (found.labels or ()):
                    raise PromqlError(f"{name} has no label {label}")
                self._take("=", "!=", "=~", "!~")
                self._take(kind="string")
                if self.peek() != "}":
                    self._take(",")
            self._take("}")
        if self._tokens and self._tokens[0][0] == "range":
            self._take()
            found = replace(found, ranged=True)
        return found


def _rate(name: str, inner: Vector) -> Vector:
    if not inner.ranged:
        raise PromqlError(f"{name}() of something that is no range")
    if not inner.counter:
        raise PromqlError(f"{name}() of something that is no counter")
    return replace(inner, counter=False, ranged=False)


def _combined(left: Vector, operator: str, right: Vector) -> Vector:
    """Of two vectors those series meet that have the same labels."""
    if left.labels is None or right.labels is None:
        return Vector(left.labels if left.labels is not None else right.labels)
    if left.labels != right.labels:
        raise PromqlError(f"{operator} of series with {sorted(left.labels)} and {sorted(right.labels)} meets nothing")
    return Vector(left.labels)
