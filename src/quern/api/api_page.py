"""The API's interactive page, with all that it needs: in a closed network nothing comes from elsewhere. And the root,
where clients look whether a server runs.

`swagger_ui/` holds the files of npm's `swagger-ui-dist` 5.35.0 that a page needs, under its licence (Apache-2.0).
Script and style sheet are packed with gzip, the latter without the comment that names a source map.
"""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, PlainTextResponse

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import DETAIL_ERRORS, OPENAI_ERRORS

FILES = Path(__file__).with_name("swagger_ui")
CACHED = {"cache-control": "public, max-age=86400", "vary": "accept-encoding"}

router = APIRouter(include_in_schema=False)
root_router = APIRouter(include_in_schema=False)

API_PAGE = Dialect((router,), errors=DETAIL_ERRORS, prefixes=("/docs", "/openapi.json"))
ROOT = Dialect((root_router,), errors=OPENAI_ERRORS, prefixes=("/",))


SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
PACKED = {SCRIPT: "text/javascript", STYLE: "text/css"}


@root_router.get("/")
async def root() -> Response:
    """A sentence for those who only ask whether somebody is there, as Ollama has one."""
    return PlainTextResponse("Quern is running. /docs describes its API, /ready tells whether the model is there.\n")


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


@router.get(f"/docs/{ICON}")
async def icon() -> Response:
    """The page's icon."""
    return FileResponse(FILES / ICON, media_type="image/png", headers=CACHED)


@router.get("/docs/{name}")
async def page_file(request: Request, name: str) -> Response:
    """What the page is made of, packed for those who can unpack it."""
    if name not in PACKED:
        raise HTTPException(404)
    file = FILES / f"{name}.gz"
    if "gzip" in request.headers.get("accept-encoding", ""):
        return FileResponse(file, media_type=PACKED[name], headers={**CACHED, "content-encoding": "gzip"})
    return Response(await asyncio.to_thread(_unpacked, file), media_type=PACKED[name], headers=CACHED)


def _unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())
