"""Asking Hugging Face and ModelScope for a file's address, size and checksum.

Hugging Face states both in the headers of a HEAD request, read as `get_hf_file_metadata` of its own client library
does it: of a large file in `X-Linked-Size` and `X-Linked-Etag`, beside a redirect to where the bytes are. ModelScope
does in its list of a repository's files (`Path`, `Size`, `Sha256`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from pydantic import BaseModel, Field, ValidationError

from quern import __version__
from quern.environment import hub_environment
from quern.models.catalog import HubSource, SourceKind
from quern.models.upstream import SourceFailed

USER_AGENT = f"quern/{__version__}"
SHA256_PATTERN = re.compile("[0-9a-f]{64}")

Answer = TypeVar("Answer")

MOST_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Hubs:
    """Where the hubs are and how long to wait for them, in seconds.

    `answer_seconds` is the most that asking a hub may take in all, however many addresses its name has.
    """

    hugging_face: str = "https://huggingface.co"
    hugging_face_token: str | None = field(default=None, repr=False)
    modelscope: str = "https://modelscope.cn"
    connect_seconds: float = 5.0
    answer_seconds: float = 10.0
    read_seconds: float = 30.0

    @classmethod
    def from_environment(cls) -> Self:
        """The public hubs, or the mirror and the token that Hugging Face's own variables name."""
        variables = hub_environment()
        return cls(
            hugging_face=variables.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co",
            hugging_face_token=variables.get("HF_TOKEN") or None,
        )


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a hub: `size` in bytes, `sha256` of the whole, `token` for the address itself and nobody else."""

    url: str
    size: int
    sha256: str
    token: str | None = field(default=None, repr=False)


class _ListedFile(BaseModel):
    path: str = Field(alias="Path")
    size: int = Field(alias="Size", ge=1)
    sha256: str = Field(alias="Sha256", default="")


class _ListedFiles(BaseModel):
    files: list[_ListedFile] = Field(alias="Files")


class _Listing(BaseModel):
    data: _ListedFiles = Field(alias="Data")


def find_file(source: HubSource, hubs: Hubs) -> RemoteFile:
    """Find out where the hub has the file now. Raises SourceFailed within `hubs.answer_seconds`."""
    find = _find_at_hugging_face if source.kind is SourceKind.HUGGING_FACE else _find_at_modelscope
    try:
        remote = within(hubs.answer_seconds, lambda: find(source, hubs))
    except TimeoutError as error:
        raise SourceFailed(f"no answer within {hubs.answer_seconds:g} seconds") from error
    except httpx2.HTTPStatusError as error:
        raise SourceFailed(f"it answered {error.response.status_code} for {source.repo}/{source.file}") from error
    # A proxy setting that httpx2 can't use is a ValueError or an ImportError.
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
        raise SourceFailed(f"it can't be reached ({safe_message(error)})") from error
    if not SHA256_PATTERN.fullmatch(remote.sha256):
        raise SourceFailed(f"it states no SHA-256 for {source.repo}/{source.file}, so the file could not be checked")
    if source.sha256 not in (None, remote.sha256):
        raise SourceFailed(f"its {source.repo}/{source.file} is not the file that is expected: the SHA-256 differs")
    return remote


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """Run `call`, but wait no longer than `seconds` for it; then it is left behind. Raises TimeoutError.

    Time-outs of connections count per address, and looking a name up has none: behind a firewall that drops packets
    the sum is minutes.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="quern-hub", daemon=True).start()
    return future.result(timeout=seconds)


def safe_message(error: Exception) -> str:
    """A transport error's own message; of URLs, which may hold a signature or a password, only the host."""
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"\w+://[^\s'\"]+", lambda url: urlsplit(url[0]).hostname or "", message)


def _find_at_hugging_face(source: HubSource, hubs: Hubs) -> RemoteFile:
    # The download asks this address again: the one that it redirects to is signed and expires meanwhile.
    url = f"{hubs.hugging_face}/{source.repo}/resolve/main/{quote(source.file)}"
    response = _head(url, hubs)
    answer = response.headers
    size = answer.get("X-Linked-Size") or ("" if response.has_redirect_location else answer.get("Content-Length", ""))
    if not size.isdecimal():
        raise SourceFailed(f"it states no size for {source.repo}/{source.file}")
    sha256 = (answer.get("X-Linked-Etag") or answer.get("ETag", "")).removeprefix("W/").strip('"').lower()
    return RemoteFile(url, int(size), sha256, hubs.hugging_face_token)


def _head(url: str, hubs: Hubs) -> httpx2.Response:
    """The hub's own answer: a redirect is followed where it stays at the hub, so that nobody else gets the token."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if hubs.hugging_face_token:
        headers["Authorization"] = f"Bearer {hubs.hugging_face_token}"
    with httpx2.Client(headers=headers, timeout=hubs.connect_seconds) as client:
        for _ in range(MOST_REDIRECTS):
            response = client.head(url)
            if response.is_error:
                response.raise_for_status()
            if not response.has_redirect_location:
                return response
            target = urljoin(url, response.headers["Location"])
            if _origin(target) != _origin(url):
                return response
            url = target
    msg = f"more than {MOST_REDIRECTS} redirects"
    raise httpx2.TooManyRedirects(msg)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _find_at_modelscope(source: HubSource, hubs: Hubs) -> RemoteFile:
    response = httpx2.get(
        f"{hubs.modelscope}/api/v1/models/{source.repo}/repo/files",
        params={"Revision": "master", "Recursive": "true"},
        headers={"User-Agent": USER_AGENT},
        timeout=hubs.connect_seconds,
        follow_redirects=True,
    )
    response.raise_for_status()
    try:
        listing = _Listing.model_validate_json(response.content)
    except ValidationError as error:
        raise SourceFailed(f"it has no list of files for {source.repo}") from error
    for listed in listing.data.files:
        if listed.path == source.file:
            url = f"{hubs.modelscope}/models/{source.repo}/resolve/master/{quote(source.file)}"
            return RemoteFile(url, listed.size, listed.sha256.lower())
    raise SourceFailed(f"it has no file {source.file} in {source.repo}")
