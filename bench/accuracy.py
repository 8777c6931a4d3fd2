"""How far an engine's next-token probabilities are from a float32 forward pass over the same dequantised weights.

Teacher-forced on real code: parts of Python's own standard library and code with Chinese comments, in windows that each
start anew. For every token but a window's first: KL(reference || engine), and whether the likeliest token is the same.
The engines are ours and, where its libllama.so is, llama.cpp as it comes (f16 KV cache). The reference's hidden states
are kept in the temporary directory, so only the first run with a model takes minutes.

    python -m bench.accuracy --model qwen2.5-coder-1.5b --llama-cpp build/peers/llama.cpp/bin
"""

from __future__ import annotations

import argparse
import hashlib
import sysconfig
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from bench.llama_library import LlamaLibrary
from numpy.typing import NDArray
from tests.native import reference as reference_module
from tests.native.reference import Array, Reference, log_softmax

from quern.cli.progress import progress_display
from quern.config import Settings
from quern.engine.cpu import _native
from quern.modelfiles.gguf import read_gguf
from quern.models.pull import ensure
from quern.prompt.tokenizer import Tokenizer

ENGINES = ("quern", "llama.cpp")
CHINESE = Path(__file__).parent / "data" / "chinese_comments.txt"
STANDARD_LIBRARY = (
    ("heapq.py", "def heappush"),
    ("json/decoder.py", "def py_scanstring"),
    ("argparse.py", "class HelpFormatter"),
)
"""Files, and where in them the code starts after the licences and manuals."""
UNSCORED = 1
"""Tokens at a window's start. After the first one alone, which nobody asks for, llama.cpp is 3.7 to 4.9 nats away with
the 1.5B model: it has the outliers on which attention rests. Those four of 2048 tokens were 85 % of the mean.
"""
ROWS = 64
"""Tokens whose probabilities are compared at a time: 80 MB in float64 for Qwen's vocabulary."""

Logits = Callable[[Sequence[int]], Array]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of each token scored: KL in nats, whether the likeliest token is the same, and the real next token's nats."""

    divergence: NDArray[np.float64]
    agreement: NDArray[np.bool_]
    surprise: NDArray[np.float64]


def texts() -> list[str]:
    """The code to score."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = [(folder / file).read_text(encoding="utf-8") for file, _ in STANDARD_LIBRARY]
    found = [text[text.index(start) :] for text, (_, start) in zip(found, STANDARD_LIBRARY, strict=True)]
    return [CHINESE.read_text(encoding="utf-8"), *found]


def windows(tokenised: Sequence[Sequence[int]], size: int, tokens: int) -> list[list[int]]:
    """`tokens` in windows of `size`, taken from the texts in turn. Raises ValueError where they are too short."""
    cut = [[list(ids[at : at + size]) for at in range(0, len(ids) - size + 1, size)] for ids in tokenised]
    deepest = max(map(len, cut))
    turns = [pieces[turn] for turn in range(deepest) for pieces in cut if turn < len(pieces)]
    if tokens > len(turns) * size:
        raise ValueError(f"the texts have {len(turns)} windows of {size} tokens; {tokens} tokens are more")
    return turns[: tokens // size]


def compare(truth: Array, logits: Array, following: Sequence[int]) -> Comparison:
    """Compare two engines' logits [n, vocabulary] where `following` are the n tokens that the text goes on with."""
    divergence: list[NDArray[np.float64]] = []
    surprise: list[NDArray[np.float64]] = []
    for start in range(0, len(truth), ROWS):
        rows = slice(start, start + ROWS)
        right, said = log_softmax(truth[rows]), log_softmax(logits[rows])
        divergence.append(np.sum(np.exp(right) * (right - said), axis=-1))
        surprise.append(-said[np.arange(len(said)), following[rows]])
    agreement = truth.argmax(axis=-1) == logits.argmax(axis=-1)
    return Comparison(np.concatenate(divergence), agreement, np.concatenate(surprise))


def joined(parts: Sequence[Comparison]) -> Comparison:
    """The comparisons of several windows as one."""
    return Comparison(
        np.concatenate([part.divergence for part in parts]),
        np.concatenate([part.agreement for part in parts]),
        np.concatenate([part.surprise for part in parts]),
    )


def reference_states(reference: Reference, model: Path, sequences: Sequence[Sequence[int]]) -> list[Array]:
    """The reference's hidden states for each window, from the temporary directory if they were computed before."""
    facts = model.stat()
    code = Path(reference_module.__file__).read_bytes()
    key = hashlib.sha256(repr((str(model), facts.st_size, facts.st_mtime_ns, sequences, code)).encode()).hexdigest()
    path = Path(tempfile.gettempdir()) / "quern-accuracy" / f"{key[:32]}.npy"
    if not path.exists():
        print(f"computing the reference for {sum(map(len, sequences))} tokens", flush=True)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.stack(reference.hidden_states(sequences)))
        partial.rename(path)
    return list(np.load(path))


@contextmanager
def quern_engine(model: Path, options: argparse.Namespace) -> Generator[Logits]:
    """Our engine."""
    loaded = _native.Model(
        str(model), threads=options.threads, kv_tokens=options.window, kv_type=options.kv_type, isa=options.isa
    )

    def logits(ids: Sequence[int]) -> Array:
        blocks = range(-(-len(ids) // _native.BLOCK_TOKENS))
        sampler = _native.Sampler(vocabulary_size=loaded.vocabulary_size)
        return cast("Array", loaded.logits([_native.Item(ids, 0, blocks, sampler, len(ids))])[0])

    yield logits


@contextmanager
def llama_engine(model: Path, options: argparse.Namespace) -> Generator[Logits]:
    """llama.cpp."""
    with LlamaLibrary(options.llama_cpp, model, threads=options.threads, context=options.window) as library:
        yield library.logits


def report(results: dict[str, Comparison]) -> None:
    """Print one line for each engine, and how ours does against the other."""
    print("engine      mean KL   std error   median KL    99 % KL   same top-1   perplexity")
    for name, result in results.items():
        error = result.divergence.std() / np.sqrt(len(result.divergence))
        print(
            f"{name:10} {result.divergence.mean():8.5f}  {error:10.5f}  {np.median(result.divergence):10.5f}"
            f" {np.quantile(result.divergence, 0.99):10.5f}  {result.agreement.mean():10.2%}"
            f"  {np.exp(result.surprise.mean()):11.4f}"
        )
    if set(ENGINES) <= set(results):
        ours, theirs = (results[name] for name in ENGINES)
        ratio = ours.divergence.mean() / theirs.divergence.mean()
        points = 100 * (ours.agreement.mean() - theirs.agreement.mean())
        print(f"quern / llama.cpp: mean KL {ratio:.2f} x, same top-1 {points:+.2f} points")


def run(model: Path, options: argparse.Namespace) -> dict[str, Comparison]:
    """Score every engine on every window."""
    tokenizer = Tokenizer(read_gguf(model).vocabulary)
    sequences = windows(tokenizer.encode_many(texts()), options.window, options.tokens)
    reference = Reference.from_gguf(model)
    states = reference_states(reference, model, sequences)
    parts: dict[str, list[Comparison]] = {"reference": []}
    with ExitStack() as stack:
        makers = {"quern": quern_engine, "llama.cpp": llama_engine}
        engines = {name: stack.enter_context(makers[name](model, options)) for name in options.engines}
        for ids, hidden in zip(sequences, states, strict=True):
            truth, following = reference.project(hidden[UNSCORED:-1]), ids[UNSCORED + 1 :]
            parts["reference"].append(compare(truth, truth, following))
            for name, logits in engines.items():
                parts.setdefault(name, []).append(compare(truth, logits(ids)[UNSCORED:-1], following))
    return {name: joined(found) for name, found in parts.items()}


def main() -> None:
    """Parse the options, fetch the model, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a catalog entry's name, or a GGUF file")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--kv-type", choices=("bf16", "int8"), default="bf16", help="our engine's")
    parser.add_argument("--isa", default="", help="our engine's instruction set, to force one")
    parser.add_argument("--llama-cpp", type=Path, default=Path("build/peers/llama.cpp/bin"))
    options = parser.parse_args()
    with progress_display() as progress:
        model = ensure(options.model, Settings().models_dir, progress=progress)
    print(f"{model.name}, {options.tokens} tokens in windows of {options.window}, {options.threads} threads")
    report(run(model, options))


if __name__ == "__main__":
    main()
