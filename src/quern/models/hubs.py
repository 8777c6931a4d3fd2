"""Asking Hugging Face and ModelScope for a file's address, size and checksum.

Hugging Face states both in the headers of a HEAD request (`X-Linked-Size`, `X-Linked-Etag`; the client library reads
them), ModelScope in its list of a repository's files (`Path`, `Size`, `Sha256`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]
    hf_hub_url,
)
from huggingface_hub.errors import HfHubHTTPError
from pydantic import BaseModel, Field, ValidationError

from quern import __version__
from quern.config import hub_environment
from quern.models.catalog import HubSource, SourceKind
from quern.models.upstream import SourceFailed

USER_AGENT = f"quern/{__version__}"
SHA256_PATTERN = re.compile("[0-9a-f]{64}")

Answer = TypeVar("Answer")

# Else the library also fetches a list of coding agents, looks for them on this machine and tells the hub.
constants.HF_HUB_DISABLE_TELEMETRY = True


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


def ask(source: HubSource, hubs: Hubs) -> RemoteFile:
    """Find out where the hub has the file now. Raises SourceFailed within `hubs.answer_seconds`."""
    question = _ask_hugging_face if source.kind is SourceKind.HUGGING_FACE else _ask_modelscope
    try:
        remote = within(hubs.answer_seconds, lambda: question(source, hubs))
    except TimeoutError as error:
        raise SourceFailed(f"no answer within {hubs.answer_seconds:g} seconds") from error
    except (httpx2.HTTPStatusError, HfHubHTTPError) as error:
        raise SourceFailed(f"it answered {error.response.status_code} for {source.repo}/{source.file}") from error
    # A proxy setting that httpx2 can't use is a ValueError or an ImportError.
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
        raise SourceFailed(f"it can't be reached ({reason(error)})") from error
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


def reason(error: Exception) -> str:
    """A transport error's own words; of URLs, which may hold a signature or a password, only the host."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"\w+://[^\s'\"]+", lambda url: urlsplit(url[0]).hostname or "", words)


def _ask_hugging_face(source: HubSource, hubs: Hubs) -> RemoteFile:
    url = hf_hub_url(source.repo, source.file, endpoint=hubs.hugging_face)
    metadata = get_hf_file_metadata(
        url,
        token=hubs.hugging_face_token or False,
        timeout=hubs.connect_seconds,
        endpoint=hubs.hugging_face,
        user_agent=USER_AGENT,
    )
    if metadata.size is None:
        raise SourceFailed(f"it states no size for {source.repo}/{source.file}")
    # The hub's address, not `metadata.location`: that one is signed and expires during a long download.
    return RemoteFile(url, metadata.size, (metadata.etag or "").lower(), hubs.hugging_face_token)


def _ask_modelscope(source: HubSource, hubs: Hubs) -> RemoteFile:
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
