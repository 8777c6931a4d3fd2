"""The API's interactive page, with all that it needs: in a closed network nothing comes from elsewhere.

`swagger_ui/` holds the files of npm's `swagger-ui-dist` 5.35.0 that a page needs, under its licence (Apache-2.0). Only
the comment that names a source map is taken off the style sheet.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import DETAIL_ERRORS

FILES = Path(__file__).with_name("swagger_ui")
A_DAY = "public, max-age=86400"

router = APIRouter(include_in_schema=False)

API_PAGE = Dialect((router,), errors=DETAIL_ERRORS, prefixes=("/docs", "/openapi.json"))


SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
MEDIA_TYPES = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}


@router.get("/docs")
async def api_page() -> Response:
    """The page. It names its files and the API's description by relative paths, so it works behind a proxy's prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Quern's API",
        swagger_js_url=f"docs/{SCRIPT}",
        swagger_css_url=f"docs/{STYLE}",
        swagger_favicon_url=f"docs/{ICON}",
        # Else the description would be sent to a validator elsewhere.
        swagger_ui_parameters={"validatorUrl": None},
    )


@router.get("/docs/{name}")
async def page_file(name: str) -> Response:
    """What the page is made of."""
    if name not in MEDIA_TYPES:
        raise HTTPException(404)
    return FileResponse(FILES / name, media_type=MEDIA_TYPES[name], headers={"cache-control": A_DAY})
