"""A client for Quern's own endpoints."""

from __future__ import annotations

from quern.client.answer import AnswerStream
from quern.client.client import GenerationOptions, QuernClient, ServedModel

__all__ = ["AnswerStream", "GenerationOptions", "QuernClient", "ServedModel"]
