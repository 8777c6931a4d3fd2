"""Ids of what a turn brings forth: the same whenever they are asked for, before it is stored and after."""

from __future__ import annotations

from uuid import NAMESPACE_OID, UUID, uuid5


def item_id(turn_id: str, index: int) -> str:
    """The id of an answer's item, counted from 0."""
    return str(uuid5(UUID(turn_id), f"item {index}"))


def call_id(turn_id: str, index: int) -> str:
    """The id that names an answer's call to its result; calls are counted from 0."""
    return f"call_{uuid5(UUID(turn_id), f'call {index}').hex[:24]}"


def is_derived(an_item_id: str) -> bool:
    """Whether an id is that of an answer's item: the ids of what was said to the model are random, of version 4."""
    return UUID(an_item_id).version == uuid5(NAMESPACE_OID, "").version
