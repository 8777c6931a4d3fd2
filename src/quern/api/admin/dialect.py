"""What whoever runs the server asks for; `quern keys`, `quern top` and `quern reload` speak it."""

from __future__ import annotations

from quern.api.admin import activity, keys, settings
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

ADMIN = Dialect((keys.router, activity.router, settings.router), errors=OPENAI_ERRORS, prefixes=("/v1/admin/",))
