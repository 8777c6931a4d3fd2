"""All open connections: how many there are, in all and from each address, and who gives way when there are too many.

A connection without a request under way (between two requests, or with headers that don't come to their end) gives way
to a new one, the longest idle first. So neither slow headers nor forgotten keep-alive connections keep anybody out.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from quern.http_server import refusals
from quern.http_server.refusals import Refusal

log = structlog.get_logger(__name__)

GIVES_WAY_AFTER_SECONDS = 1.0
"""A connection that has just been opened has its request on the way; until then it keeps its place."""
LINGERING_AT_MOST = 256
"""Connections that have been refused and wait for their client to read why; for one more the eldest is cut off."""
IPV6_NETWORK_BITS = 64
"""One customer has a whole network of IPv6 addresses, at least so large."""


class Member(Protocol):
    """A connection, as far as others have a say in its end."""

    def give_way(self) -> None:
        """Close: nothing is lost but an incomplete request."""
        ...

    def cut_off(self) -> None:
        """Close at once: the client had its time to read why it was refused."""
        ...


@dataclass(slots=True)
class Place:
    """The connections of one address: how many, and which of them wait for a request, since when, eldest first."""

    address: str
    count: int = 0
    waiting: dict[Member, float] = field(default_factory=dict[Member, float])


class Connections:
    """Counts connections against two limits. `total` and `of` are for metrics and for whoever asks."""

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self.total = 0
        self._lingering: dict[Member, None] = {}
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._places: dict[str, Place] = {}

    def reload(self, limit: int, limit_per_address: int) -> None:
        """Other limits for new connections; those that are open stay."""
        self._limit = limit
        self._limit_per_address = limit_per_address

    def of(self, host: str) -> int:
        """How many connections this address has."""
        place = self._places.get(network(host))
        return place.count if place is not None else 0

    def admit(self, host: str) -> Place | Refusal:
        """A place for a new connection, to be left with `leave`, or why there is none. `host`: empty for a peer at a
        Unix socket, which has no address, so that only the limit in all counts for it.
        """
        now = time.monotonic()
        address = network(host)
        place = self._places.get(address) or Place(address)
        if host and place.count >= self._limit_per_address and not _evict([place], now):
            return refusals.too_many_of_address(self._limit_per_address)
        if self.total >= self._limit and not _evict(self._places.values(), now):
            return refusals.too_many_connections(self._limit)
        self._places[address] = place
        place.count += 1
        self.total += 1
        return place

    def linger(self, connection: Member) -> None:
        """The connection has been refused and stays open until its client has read so."""
        if len(self._lingering) >= LINGERING_AT_MOST:
            next(iter(self._lingering)).cut_off()
        self._lingering[connection] = None

    def closed(self, connection: Member) -> None:
        """It lingers no longer."""
        self._lingering.pop(connection, None)

    def leave(self, place: Place, connection: Member) -> None:
        """The connection counts no longer."""
        place.waiting.pop(connection, None)
        place.count -= 1
        self.total -= 1
        if place.count == 0:
            del self._places[place.address]


def _evict(places: Iterable[Place], now: float) -> bool:
    """Make the longest waiting connection of these give way; False where none has waited long enough."""
    eldest = min(
        (next(iter(place.waiting.items())) for place in places if place.waiting),
        key=lambda waiting: waiting[1],
        default=None,
    )
    if eldest is None or now - eldest[1] < GIVES_WAY_AFTER_SECONDS:
        return False
    eldest[0].give_way()
    return True


def network(host: str) -> str:
    """What counts as one address: an IPv4 address (also one written as IPv6), the network of an IPv6 address."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), IPV6_NETWORK_BITS), strict=False))
