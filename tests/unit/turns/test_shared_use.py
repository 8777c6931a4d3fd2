"""What owners use at other servers."""

from __future__ import annotations

from unittest.mock import AsyncMock, create_autospec

import pytest

from quern.access.usage import UsageMeter, Used
from quern.store.announcements import Announcements, Kind
from quern.turns import shared_use
from quern.turns.owner_turns import OwnerTurns
from quern.turns.shared_use import SharedUse


@pytest.fixture
def usage() -> UsageMeter:
    return create_autospec(UsageMeter, instance=True)


@pytest.fixture
def owner_turns() -> OwnerTurns:
    found = create_autospec(OwnerTurns, instance=True)
    found.here.return_value = {}
    return found


@pytest.fixture
def shared(usage: UsageMeter, owner_turns: OwnerTurns) -> SharedUse:
    return SharedUse("here", create_autospec(Announcements, instance=True), usage, owner_turns)


def test_what_others_used_is_counted_and_what_they_run_added_up(
    shared: SharedUse, usage: AsyncMock, owner_turns: AsyncMock
) -> None:
    shared.heard(Kind.USED, ["b 2 30 1 anna", "c 0 0 2 anna", "b 1 5 0 an owner with blanks"])
    assert [call.args for call in usage.used_elsewhere.call_args_list] == [
        ("anna", Used(2, 30)),
        ("anna", Used(0, 0)),
        ("an owner with blanks", Used(1, 5)),
    ]
    owner_turns.elsewhere.assert_called_with({"anna": 3})


def test_what_this_server_said_itself_is_not_counted_twice(shared: SharedUse, usage: AsyncMock) -> None:
    shared.heard(Kind.USED, ["here 2 30 1 anna"])
    usage.used_elsewhere.assert_not_called()


def test_a_server_that_says_nothing_any_more_runs_nothing(
    shared: SharedUse, owner_turns: AsyncMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.heard(Kind.USED, ["b 0 0 1 anna"])
    monkeypatch.setattr(shared_use, "FORGOTTEN_AFTER", 0.0)
    shared.heard(Kind.USED, ["c 0 0 0 anna"])
    owner_turns.elsewhere.assert_called_with({})


def test_an_end_is_told_once(shared: SharedUse, usage: AsyncMock, owner_turns: AsyncMock) -> None:
    usage.take_unsaid.return_value = {"anna": Used(1, 0)}
    owner_turns.here.return_value = {"anna": 1}
    assert shared._said() == ["here 1 0 1 anna"]
    usage.take_unsaid.return_value = {}
    owner_turns.here.return_value = {}
    assert shared._said() == ["here 0 0 0 anna"]
    assert shared._said() == []
