"""What whoever runs the server asks for; `quern keys` speaks it."""

from __future__ import annotations

from quern.api.admin import keys
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

ADMIN = Dialect((keys.router,), errors=OPENAI_ERRORS, prefixes=("/v1/admin/",))
