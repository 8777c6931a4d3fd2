"""Opens damaged model files by the thousand: `python -m tests.native.fuzz FOLDER --rounds 100000 --seed 7`.

Each must open and give all its tensors, or be refused with a sentence, within little memory. Anything else ends the
run; the files of the round that ended it stay in FOLDER. A process of its own, because a crash is an outcome too.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tests.native import model_files as files
from tests.native import mutations

from quern.engine.cpu import _native

MEMORY = 256 * 2**20
"""Address space that all rounds together may take; the files have a few kilobytes, the fattest JSON 200."""


@dataclass(frozen=True)
class Victim:
    """A sound model, and one of its files to damage."""

    opened: Path
    damaged: Path
    sound: bytes
    header: int
    mutate: mutations.Mutation


def victim(opened: Path, damaged: Path) -> Victim:
    """The way to damage a file follows from its name."""
    sound = damaged.read_bytes()
    if damaged.suffix == ".gguf":
        header = min(tensor.data_offset for tensor in gguf.GGUFReader(damaged).tensors)
        return Victim(opened, damaged, sound, header, mutations.damaged_bytes)
    if damaged.suffix == ".safetensors":
        header = 8 + int.from_bytes(sound[:8], "little")
        return Victim(opened, damaged, sound, header, mutations.damaged_safetensors)
    return Victim(opened, damaged, sound, len(sound), mutations.damaged_json)


def write_victims(folder: Path) -> list[Victim]:
    """Sound models of both formats and all architectures."""
    dense = files.write_gguf(folder / "dense.gguf", "qwen2")
    experts = files.write_gguf(folder / "experts.gguf", "qwen3moe")
    older = folder / "version2.gguf"
    older.write_bytes(dense.read_bytes()[:4] + struct.pack("<I", 2) + dense.read_bytes()[8:])
    files.write_gguf(folder / "split.gguf", "qwen3", parts_of=12)
    first, second, *_ = sorted(folder.glob("split-*.gguf"))
    single = files.write_folder(folder / "single", dtype="BF16")
    sharded = files.write_folder(folder / "sharded", "qwen3moe", dtype="F16", shards=2)
    return [
        victim(dense, dense),
        victim(experts, experts),
        victim(older, older),
        victim(first, first),
        victim(first, second),
        victim(single, single / "config.json"),
        victim(single, single / "model.safetensors"),
        victim(sharded, sharded / "config.json"),
        victim(sharded, sharded / "model.safetensors.index.json"),
        victim(sharded, min(sharded.glob("*.safetensors"))),
    ]


def is_refused(path: Path) -> bool:
    """Whether a model is refused with a sentence; if not, all its tensors were read."""
    try:
        model = _native.open_model(str(path))
        for name, _, shape in model.tensors:
            if "\ufffd" not in name and np.shape(np.asarray(model.read_floats(name))) != shape:
                sys.exit(f"{name} is not of shape {shape}")
        model.check_tensors()
    except _native.ModelFileError as error:
        message = str(error)
        if str(path.parent) not in message or not message.endswith("."):
            sys.exit(f"no sentence that names the file: {message}")
        return True
    return False


def truncated(victims: list[Victim]) -> Iterator[tuple[Victim, bytes]]:
    """One file of each kind, cut after every byte of its header."""
    one_of_each_kind = {one.damaged.suffix: one for one in reversed(victims)}
    for each in one_of_each_kind.values():
        for length in range(each.header):
            yield each, each.sound[:length]


def mutated(victims: list[Victim], rounds: int, seed: int) -> Iterator[tuple[Victim, bytes]]:
    """So many random mutations, each of a random file."""
    rng = random.Random(seed)
    for _ in range(rounds):
        one = rng.choice(victims)
        yield one, one.mutate(rng, one.sound, one.header)


def put(path: Path, data: bytes) -> None:
    """A new file in place of the old one: ext4 writes a file that was truncated to the disk at once."""
    path.unlink()
    path.write_bytes(data)


def run(cases: Iterator[tuple[Victim, bytes]]) -> tuple[int, int]:
    """Open each damaged model; how many there were, and how many were refused."""
    opened = refused = 0
    for one, data in cases:
        put(one.damaged, data)
        opened += 1
        refused += is_refused(one.opened)
        put(one.damaged, one.sound)
    return opened, refused


def limit_memory() -> None:
    """From here on only so much more address space."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    victims = write_victims(arguments.folder)
    if any(is_refused(one.opened) for one in victims):
        sys.exit("a sound model was refused")
    limit_memory()
    short, short_refused = run(truncated(victims))
    random_ones, random_refused = run(mutated(victims, arguments.rounds, arguments.seed))
    sys.stdout.write(f"truncated {short} refused {short_refused} mutated {random_ones} refused {random_refused}\n")


if __name__ == "__main__":
    main()
