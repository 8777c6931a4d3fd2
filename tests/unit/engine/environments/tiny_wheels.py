"""Packages of a few bytes, a folder that is all that pip knows, and who listens to an installation."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path


def build_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module, which has the version as `VERSION`."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


@dataclass
class Recorder:
    """A listener that keeps everything, and can press Ctrl-C when a phase begins."""

    interrupt_at: str | None = None
    phases: list[str] = field(default_factory=list[str])
    notices: list[str] = field(default_factory=list[str])

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.phases.append(phase)
        if self.interrupt_at is not None and phase.startswith(self.interrupt_at):
            raise KeyboardInterrupt

    def notice(self, message: str) -> None:
        self.notices.append(message)

    @property
    def text(self) -> str:
        return "\n".join(self.notices)
