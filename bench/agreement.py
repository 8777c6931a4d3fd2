"""How far engines agree over one model's folder: what the first one writes greedily, teacher-forced through the others.

At each token of the first engine's answers another one is asked for its next token after the same prefix: whether its
likeliest is the same, and how far apart the two probabilities of that token are. Through the engines' door alone, so
that sampling, protocols and caches are in it. `cpu` quantises floats while it loads them (`engine.quantise`), which is
in its figures; two engines that compute with the same floats differ where those are almost a tie.

    python -m bench.agreement ~/.local/share/quern/models/qwen2.5-coder-0.5b-hf --engines transformers,vllm,cpu
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import structlog

from quern.app import build_app
from quern.config import Settings
from quern.config_models import EngineSettings
from quern.engine.base import Engine, GenerateRequest, Tokens
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.served_models import ModelFile
from quern.types import Message, Role

QUESTIONS = (
    "Write a Python function that merges two sorted lists.",
    "What does `git rebase --onto` do?",
    "Write a SQL query that finds the second highest salary.",
    "Explain the difference between a process and a thread.",
    "Write a regular expression for IPv4 addresses.",
    "用 Python 写一个快速排序。",
    "Write a binary search in C.",
    "Translate to Rust: for i in range(10): print(i * i)",
)
TOLD = 20
"""So many of the likeliest are told; what is not among them is taken for as likely as the last of them."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A prefix of ids, and what an engine draws after it: the likeliest id, and logarithms of probabilities by id."""

    prefix: tuple[int, ...]
    token: int
    logprobs: dict[int, float]

    def of(self, token: int) -> float:
        """That of one id, at most."""
        return self.logprobs.get(token, min(self.logprobs.values()))


async def greedy(engine: Engine, prompt: tuple[int, ...], tokens: int) -> list[Drawn]:
    """What an engine writes after a prompt, token by token."""
    sampling = SamplingParams(max_tokens=tokens, temperature=0, repetition_penalty=1, ignore_eos=True, logprobs=TOLD)
    drawn: list[Drawn] = []
    prefix = prompt
    async for event in engine.generate(GenerateRequest(prompt, sampling, cache_salt="agreement")):
        if not isinstance(event, Tokens):
            continue
        for token, logprob in zip(event.ids, event.logprobs or (), strict=True):
            drawn.append(Drawn(prefix, token, {token: logprob.value, **dict(logprob.top)}))
            prefix = (*prefix, token)
    return drawn


async def forced(engine: Engine, reference: Sequence[Drawn]) -> list[Drawn]:
    """What an engine would write after each prefix of another's answer."""
    return [(await greedy(engine, one.prefix, 1))[0] for one in reference]


def report(name: str, reference: Sequence[Drawn], found: Sequence[Drawn]) -> str:
    """One line: how often the likeliest is the same, and how far the probabilities are apart."""
    pairs = list(zip(reference, found, strict=True))
    same = fmean(first.token == other.token for first, other in pairs)
    difference = [other.of(first.token) - first.of(first.token) for first, other in pairs]
    # Where the first one's two likeliest are this close, the one that is drawn says nothing.
    clear = [(first, other) for first, other in pairs if _margin(first) > 0.1]
    same_clear = fmean(first.token == other.token for first, other in clear)
    return (
        f"{name:13} {len(pairs):6} {same:10.2%} {same_clear:18.2%} {fmean(difference):+14.4f} "
        f"{fmean(map(abs, difference)):16.4f} {max(map(abs, difference)):10.3f}"
    )


def _margin(drawn: Drawn) -> float:
    best, second, *_ = sorted(drawn.logprobs.values(), reverse=True)
    return best - second


@asynccontextmanager
async def running(name: str, folder: Path, options: argparse.Namespace) -> AsyncGenerator[tuple[Engine, TextCodec]]:
    """An engine with its model, and the codec of its prompts."""
    given = {
        "name": name,
        "context_length": 2048,
        "kv_tokens": 8192,
        "parallel": 4,
        "threads": options.threads,
        "vllm": {"arguments": "--enforce-eager"},  # to compile takes longer than what is asked
    }
    with tempfile.TemporaryDirectory() as data:
        settings = Settings(data_dir=Path(data), engine=EngineSettings.model_validate(given))
        # Environments are where they are, not in the folder that nothing else may be written to.
        (Path(data) / "engines").symlink_to(Settings().engines_dir)
        application = build_app(settings, [ModelFile(folder, folder.name, settings.to_serve()[0])])
        model = application.models.default
        await model.engine.start()
        try:
            yield model.engine, model.codec
        finally:
            await model.engine.close()
            model.codec.close()


async def main() -> None:
    """Compare as the command line says."""
    options = _options()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    first, *others = options.engines.split(",")
    async with running(first, options.folder, options) as (engine, codec):
        prompts = [codec.encode_chat([Message(Role.USER, text)]) for text in QUESTIONS[: options.prompts]]
        answers = await asyncio.gather(*(greedy(engine, prompt, options.tokens) for prompt in prompts))
    reference = [drawn for answer in answers for drawn in answer]
    print(f"Greedy answers of {first}, {len(answers)} of {options.tokens} tokens, teacher-forced through:")
    print("engine        tokens same top-1 same, if margin>0.1  mean log-diff  mean |log-diff|    largest", flush=True)
    for name in others:
        async with running(name, options.folder, options) as (engine, _):
            found = await asyncio.gather(*(forced(engine, answer) for answer in answers))
        print(report(name, reference, [drawn for answer in found for drawn in answer]), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model's folder in Hugging Face's layout")
    parser.add_argument("--engines", default="transformers,cpu", help="the first is the reference")
    parser.add_argument("--prompts", type=int, default=len(QUESTIONS))
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
