"""The dialect of the two original endpoints."""

from __future__ import annotations

from quern.api.code import endpoints
from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import DETAIL_ERRORS

CODE = Dialect((endpoints.router,), errors=DETAIL_ERRORS, prefixes=("/v1/code/",))
