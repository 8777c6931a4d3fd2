"""How much a key may use: requests and tokens a minute, tokens a day. Decisions over times that the caller gives.

A minute's limit is a bucket (RFC 2697's kind): it holds what a minute allows, fills up evenly, and may be overdrawn by
turns that were let in before they were too many; who has overdrawn waits until that is made up for. A day's limit
counts from midnight, UTC. Tokens are those that cost work: of prompts what no cache had, and what was generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta

from quern.access.principal import Principal
from quern.config import LimitSettings
from quern.errors import LimitExceeded
from quern.records import KeyLimits

MINUTE = 60.0
MOST_IDLE_METERS = 1000
MOST_DAYS = 3


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a minute's limit, and in how many seconds all of it will be there again."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(slots=True)
class Bucket:
    """`level` of what a minute allows is left, as of `at` (seconds of a monotonic clock). Negative: overdrawn."""

    level: float
    at: float

    def fill(self, limit: int, now: float) -> None:
        """Let time pass. The limit may have changed meanwhile."""
        self.level = min(float(limit), self.level + (now - self.at) * limit / MINUTE)
        self.at = now

    def seconds_until(self, wanted: float, limit: int) -> float:
        """How long until so much will be there."""
        return max(0.0, (wanted - self.level) * MINUTE / limit)


@dataclass(slots=True)
class Meter:
    """What an owner has used lately; `days`: tokens of the last days that it used any on."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    days: dict[date, int] = field(default_factory=dict[date, int])


@dataclass(slots=True)
class Limits:
    """`defaults`: what holds for keys that say nothing else, and for whoever comes without one."""

    defaults: LimitSettings
    _meters: dict[str, Meter] = field(default_factory=dict[str, Meter])

    def of(self, principal: Principal) -> KeyLimits:
        """The limits in force; 0 is none."""
        own = principal.limits
        return KeyLimits(
            **{
                one.name: getattr(self.defaults, one.name) if getattr(own, one.name) is None else getattr(own, one.name)
                for one in fields(KeyLimits)
            }
        )

    def start_day(self, day: date, used: Mapping[str, int]) -> None:
        """Know what owners have used on a day before now."""
        for owner, tokens in used.items():
            self._meters.setdefault(owner, Meter()).days[day] = tokens

    def take_request(self, principal: Principal, now: float, at: datetime) -> None:
        """Count a request, unless that is more than the limits allow: then raise LimitExceeded. `at`: what the day's
        limit goes by.
        """
        limits = self.of(principal)
        day = at.astimezone(UTC).date()
        meter = self._meter(principal.owner, day)
        if limits.tokens_per_day and meter.days[day] >= limits.tokens_per_day:
            raise _exceeded(principal, "tokens_per_day", limits.tokens_per_day, "tokens a day", _until_midnight(at))
        if limits.tokens_per_minute:
            tokens = _filled(meter.tokens, limits.tokens_per_minute, now)
            meter.tokens = tokens
            if tokens.level <= 0:
                wait = tokens.seconds_until(1, limits.tokens_per_minute)
                raise _exceeded(principal, "tokens_per_minute", limits.tokens_per_minute, "tokens a minute", wait)
        if limits.requests_per_minute:
            requests = _filled(meter.requests, limits.requests_per_minute, now)
            meter.requests = requests
            if requests.level < 1:
                wait = requests.seconds_until(1, limits.requests_per_minute)
                raise _exceeded(principal, "requests_per_minute", limits.requests_per_minute, "requests a minute", wait)
            requests.level -= 1

    def charge(self, principal: Principal, tokens: int, now: float, at: datetime) -> None:
        """Count tokens that were computed for somebody."""
        day = at.astimezone(UTC).date()
        meter = self._meter(principal.owner, day)
        meter.days[day] += tokens
        limit = self.of(principal).tokens_per_minute
        if limit:
            meter.tokens = _filled(meter.tokens, limit, now)
            meter.tokens.level -= tokens

    def allowances(self, principal: Principal, now: float) -> dict[str, Allowance]:
        """What is left of the minute's limits that somebody has, as `requests` and `tokens`."""
        limits = self.of(principal)
        meter = self._meters.get(principal.owner, Meter())
        wanted = {
            "requests": (limits.requests_per_minute, meter.requests),
            "tokens": (limits.tokens_per_minute, meter.tokens),
        }
        found: dict[str, Allowance] = {}
        for name, (limit, bucket) in wanted.items():
            if limit:
                filled = _filled(bucket, limit, now)
                remaining = max(0, math.floor(filled.level))
                found[name] = Allowance(limit, remaining, filled.seconds_until(limit, limit))
        return found

    def _meter(self, owner: str, day: date) -> Meter:
        """An owner's, with a count for this day. Another day's is kept, since a clock that was set may be set back."""
        if len(self._meters) > MOST_IDLE_METERS:
            self._meters = {one: meter for one, meter in self._meters.items() if day in meter.days}
        meter = self._meters.setdefault(owner, Meter())
        if day not in meter.days:
            meter.days = dict([*meter.days.items()][1 - MOST_DAYS :]) | {day: 0}
        return meter


def _filled(bucket: Bucket | None, limit: int, now: float) -> Bucket:
    if bucket is None:
        return Bucket(limit, now)
    bucket.fill(limit, now)
    return bucket


def _until_midnight(at: datetime) -> float:
    now = at.astimezone(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    return (midnight - now).total_seconds()


def _exceeded(principal: Principal, name: str, limit: int, what: str, wait: float) -> LimitExceeded:
    seconds = max(1, math.ceil(wait))
    return LimitExceeded(
        f"The key {principal.name!r} may use {limit} {what} (limit {name}), and has. Try again in {seconds} s, or ask "
        f"whoever runs this server for more.",
        seconds,
    )
