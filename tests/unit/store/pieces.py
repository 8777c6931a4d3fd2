"""Pieces of a journal."""

from __future__ import annotations

from quern.store.turn_rows import JournalEntry


def piece(turn_id: str, number: int, text: str) -> JournalEntry:
    """One token's text."""
    return JournalEntry(turn_id, number, number, (text,))
