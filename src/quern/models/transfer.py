"""The one HTTP download: continues what is there, survives broken connections, gives up on a source that is dead."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2

from quern.models.hubs import USER_AGENT, Hubs, RemoteFile, safe_message
from quern.models.partial import PartialFile
from quern.models.upstream import SourceFailed, StaleBytes

ATTEMPTS_WITHOUT_PROGRESS = 4
PAUSE_SECONDS = 0.5


class _Interrupted(Exception):
    """The transfer stopped early in a way that another attempt may get past."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A hub's file, as an Upstream."""

    remote: RemoteFile
    hubs: Hubs
    temporary_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.remote.size

    @property
    def sha256(self) -> str:
        """Checksum of the whole file, as the hub states it."""
        return self.remote.sha256

    def fetch(self, part: PartialFile, on_bytes: Callable[[int], None]) -> None:
        """Fetch what is missing. A source that sends nothing at all is given up at once, a slow one never.

        Raises SourceFailed, StaleBytes.
        """
        start = furthest = part.size
        fruitless = 0
        timeout = httpx2.Timeout(self.hubs.read_seconds, connect=self.hubs.connect_seconds)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self.remote.token:
            headers["Authorization"] = f"Bearer {self.remote.token}"
        with httpx2.Client(timeout=timeout, headers=headers, follow_redirects=True) as client:
            while part.size < self.size:
                problem = self._attempt(client, part, on_bytes)
                fruitless = 0 if part.size > furthest else fruitless + 1
                furthest = max(furthest, part.size)
                if fruitless == ATTEMPTS_WITHOUT_PROGRESS or (fruitless and part.size == start):
                    raise SourceFailed(f"the download stopped at {part.size} of {self.size} bytes ({problem})")
                if part.size < self.size:
                    time.sleep(PAUSE_SECONDS * 2**fruitless)

    def _attempt(self, client: httpx2.Client, part: PartialFile, on_bytes: Callable[[int], None]) -> str:
        """One request; returns what ended it."""
        offset = part.size
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with client.stream("GET", self.remote.url, headers=headers) as response:
                self._check(response, part, offset)
                part.append(self._limited(response.iter_raw(), part.size, on_bytes))
        except (httpx2.HTTPError, httpx2.InvalidURL, _Interrupted) as error:
            return safe_message(error)
        return "the connection was closed early"

    def _check(self, response: httpx2.Response, part: PartialFile, offset: int) -> None:
        status = response.status_code
        if status == 206:
            answer = response.headers.get("Content-Range", "")
            if not re.fullmatch(rf"bytes {offset}-\d+/({self.size}|\*)", answer):
                part.discard()
                raise StaleBytes("the file has changed there since it was last asked for")
        elif status == 200:
            part.rewind(0)
        elif status == 416:
            part.discard()
            raise StaleBytes("the file has become smaller there since it was last asked for")
        elif status == 429 or status >= 500:
            raise _Interrupted(f"it answered {status}")
        else:
            raise SourceFailed(f"it answered {status}")

    def _limited(self, chunks: Iterator[bytes], held: int, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
        for chunk in chunks:
            held += len(chunk)
            if held > self.size:
                raise StaleBytes(f"it sends more than the {self.size} bytes that it announced")
            yield chunk
            on_bytes(held)
