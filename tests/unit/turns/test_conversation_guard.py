"""One turn of a conversation at a time, and none while it is changed."""

from __future__ import annotations

import pytest
from tests.unit.turns.live_turns import live_turn

from quern.errors import ConversationBusy
from quern.turns.conversation_guard import ConversationGuard


def test_one_turn_of_a_conversation_is_admitted_at_a_time() -> None:
    guard = ConversationGuard()
    with guard.alone_in("c1", "ann", []):
        with pytest.raises(ConversationBusy, match="never interleave"), guard.alone_in("c1", "ann", []):
            pass
        with guard.alone_in("c2", "ann", []):
            pass
    with guard.alone_in("c1", "ann", []):
        pass


def test_a_conversation_with_an_active_turn_admits_none() -> None:
    guard, active = ConversationGuard(), [live_turn(conversation_id="c1")]
    with pytest.raises(ConversationBusy), guard.alone_in("c1", "ann", active):
        pass
    with guard.alone_in("c2", "ann", active):
        pass


def test_turns_outside_of_conversations_are_in_nobodys_way() -> None:
    guard, active = ConversationGuard(), [live_turn(), live_turn()]
    with guard.alone_in(None, "ann", active), guard.alone_in(None, "ann", active):
        pass


def test_a_refusal_leaves_the_one_that_is_being_admitted_alone() -> None:
    guard = ConversationGuard()
    with guard.alone_in("c1", "ann", []):
        for _ in range(2):
            with pytest.raises(ConversationBusy), guard.alone_in("c1", "ann", []):
                pass


def test_no_turn_begins_while_something_is_put_into_its_conversation_and_the_other_way_round() -> None:
    guard = ConversationGuard()
    with guard.changing("c1", "ann", []):
        with guard.changing("c1", "ann", []):
            pass
        with pytest.raises(ConversationBusy), guard.alone_in("c1", "ann", []):
            pass
        with guard.alone_in("c2", "ann", []), pytest.raises(ConversationBusy), guard.changing("c2", "ann", []):
            pass
    with guard.alone_in("c1", "ann", []):
        pass
    with pytest.raises(ConversationBusy), guard.changing("c1", "ann", [live_turn(conversation_id="c1")]):
        pass


def test_what_happens_in_somebody_elses_conversation_is_not_told() -> None:
    guard, active = ConversationGuard(), [live_turn(conversation_id="c1")]
    with guard.changing("c2", "ann", []), guard.alone_in("c1", "bob", active), guard.alone_in("c2", "bob", active):
        pass
