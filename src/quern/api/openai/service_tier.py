"""OpenAI's `service_tier`: `flex` is for what can wait."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

FLEX = "flex"

ServiceTier = Annotated[
    Any, Field(description="`flex`: everybody else's requests go first. There are no other tiers here.")
]
