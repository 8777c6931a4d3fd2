"""What a turn does once its last reader has gone."""

from __future__ import annotations

import gc
import weakref

from quern.events import TurnEnded
from quern.turns.disconnect_policy import Abandonment, AttachedReaders
from quern.turns.event_log import TurnLog
from quern.types import DisconnectPolicy, TurnState


class _Turn:
    """Something that is kept alive by whoever may still cancel it."""

    def cancel(self, reason: str) -> None:
        raise AssertionError(reason)


async def test_a_turn_that_has_ended_is_not_held_for_a_reader_that_comes_back() -> None:
    turn, log = _Turn(), TurnLog()
    readers = AttachedReaders(Abandonment(DisconnectPolicy.HOLD, 3600), log, turn.cancel)
    with readers.attach():
        log.append(TurnEnded(TurnState.COMPLETED))
    alive = weakref.ref(turn)
    del readers, turn
    gc.collect()
    assert alive() is None
