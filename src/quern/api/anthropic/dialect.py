"""Anthropic's dialect."""

from __future__ import annotations

from quern.api.anthropic import messages
from quern.api.anthropic.errors import ANTHROPIC_ERRORS
from quern.api.shared.dialect import Dialect

ANTHROPIC = Dialect((messages.router,), errors=ANTHROPIC_ERRORS, prefixes=("/v1/messages",))
