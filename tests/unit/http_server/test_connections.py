"""Who gets a place, and who gives way."""

from __future__ import annotations

import pytest

from quern.http_server import connections
from quern.http_server.connections import Connections, Place, network
from quern.http_server.refusals import Refusal


class Held:
    """A connection of an address that holds a place until it is told to give way."""

    def __init__(self, everything: Connections, host: str = "192.0.2.1", waiting_since: float | None = None) -> None:
        place = everything.admit(host)
        assert isinstance(place, Place), place
        self._all = everything
        self.place: Place | None = place
        self.was_cut_off = False
        if waiting_since is not None:
            place.waiting[self] = waiting_since

    def give_way(self) -> None:
        self.leave()

    def cut_off(self) -> None:
        self.was_cut_off = True
        self._all.closed(self)

    def leave(self) -> None:
        assert self.place is not None
        self._all.leave(self.place, self)
        self.place = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 100 seconds past some time."""
    monkeypatch.setattr(connections.time, "monotonic", lambda: 100.0)


def refused(everything: Connections, host: str) -> str:
    refusal = everything.admit(host)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503
    return refusal.code


def test_a_place_that_is_left_can_be_taken_again() -> None:
    everything = Connections(2, 2)
    first, _ = Held(everything), Held(everything)
    assert refused(everything, "192.0.2.9") == "too_many_connections"
    first.leave()
    assert everything.total == 1
    Held(everything, "192.0.2.9")
    assert (everything.of("192.0.2.9"), everything.of("192.0.2.1"), everything.of("192.0.2.7")) == (1, 1, 0)


def test_one_address_takes_no_place_of_another() -> None:
    everything = Connections(10, 2)
    for _ in range(2):
        Held(everything)
    assert refused(everything, "192.0.2.1") == "too_many_connections_of_address"
    Held(everything, "192.0.2.2")


@pytest.mark.usefixtures("clock")
def test_the_longest_without_a_request_gives_way_and_whoever_has_one_never() -> None:
    everything = Connections(3, 3)
    busy = Held(everything, "192.0.2.1")
    later = Held(everything, "192.0.2.2", waiting_since=60.0)
    earlier = Held(everything, "192.0.2.3", waiting_since=50.0)
    Held(everything, "192.0.2.4")
    assert earlier.place is None
    assert later.place is not None
    Held(everything, "192.0.2.4")
    assert later.place is None
    assert refused(everything, "192.0.2.5") == "too_many_connections"
    assert busy.place is not None
    assert everything.total == 3


@pytest.mark.usefixtures("clock")
def test_at_its_own_limit_an_address_gives_way_to_itself_alone() -> None:
    everything = Connections(10, 1)
    other = Held(everything, "192.0.2.2", waiting_since=10.0)
    own = Held(everything, "192.0.2.1", waiting_since=50.0)
    Held(everything, "192.0.2.1")
    assert own.place is None
    assert other.place is not None


@pytest.mark.usefixtures("clock")
def test_a_connection_that_was_just_opened_gives_way_to_nobody() -> None:
    everything = Connections(1, 1)
    fresh = Held(everything, waiting_since=99.9)
    assert refused(everything, "192.0.2.1") == "too_many_connections_of_address"
    assert fresh.place is not None


def test_of_too_many_refused_connections_the_eldest_is_cut_off() -> None:
    everything = Connections(1000, 1000)
    held = [Held(everything) for _ in range(connections.LINGERING_AT_MOST + 3)]
    everything.linger(held[0])
    everything.closed(held[0])
    for connection in held[1:]:
        everything.linger(connection)
    assert [connection.was_cut_off for connection in held[:5]] == [False, True, True, False, False]


def test_addresses_that_one_customer_has_count_as_one() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9")
    assert network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network("fe80::1%eth0") == network("fe80::2%eth0")
    assert network("") == ""
