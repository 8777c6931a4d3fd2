"""What whoever runs the server asks for; `quern keys` and `quern top` speak it."""

from __future__ import annotations

from quern.api.admin import activity, keys
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS

ADMIN = Dialect((keys.router, activity.router), errors=OPENAI_ERRORS, prefixes=("/v1/admin/",))
