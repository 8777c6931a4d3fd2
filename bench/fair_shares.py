"""Two owners of one engine: Ann has asked for a lot, then Bob asks for one thing. His time to the first token against
an idle engine's, and his tokens per second against those of one of Ann's sequences meanwhile; the same where he is no
owner of his own; and Ann alone, with fair shares and with a line that knows no owners. Engines are driven directly.

    python bench/fair_shares.py --engine cpu --model qwen2.5-coder-0.5b --rounds 3 --json build/results/fair.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from code_prompts import CodeTokens
from installed import installed
from quern.config_models import EngineSettings
from quern.engine.base import Engine, GenerateRequest, Priority, Tokens
from quern.engine.cpu.engine import CpuEngine
from quern.engine.cpu.model import Drawn
from quern.engine.cpu.native import NativeModel
from quern.engine.cpu.scheduler import Notice, Scheduler, Step
from quern.engine.cpu.sequence import Part
from quern.engine.fair_shares import Claim, FairShares
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from results import machine, write_json

PROMPT = 128
BOBS_ANSWER = 32


class FirstCome(FairShares):
    """A line in order of arrival: what there would be without owners."""

    def line(self) -> tuple[Claim, ...]:
        """In order of arrival."""
        waiting = (claim for account in self._classes[Priority.NORMAL].accounts.values() for claim in account.waiting)
        return tuple(sorted(waiting, key=lambda claim: claim.number))

    def charge(self, claim: Claim, cost: int) -> None:
        """Nobody counts."""

    def refresh(self) -> None:
        """Priorities never change."""

    def giving_way(self, claim: Claim, may: Callable[[Claim], bool] = lambda _: True) -> list[Claim]:  # noqa: ARG002
        """Nobody does."""
        return []


@dataclass
class Timed:
    """Seconds to the first token; tokens per second after it."""

    first: float
    rate: float


@asynccontextmanager
async def started(options: argparse.Namespace) -> AsyncGenerator[Engine]:
    """The engine, loaded."""
    model, settings = installed(options.model), EngineSettings(parallel=16, threads=options.threads)
    codec = await asyncio.to_thread(TextCodec.load, model)
    engine: Engine
    if options.engine == "cpu":
        engine = CpuEngine(
            model, model_id=options.model, facts=codec.facts, settings=settings, vocabulary=codec.tokenizer
        )
    else:
        engine = LlamaCppEngine(
            model, model_id=options.model, quantisation="", settings=settings, vocabulary=codec.tokenizer
        )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
        codec.close()


class Requests:
    """Requests that nobody made before, so that nothing of them is cached."""

    def __init__(self, model: Path) -> None:
        self._prompts = CodeTokens(model).prompts(30, PROMPT)
        self._count = 0

    def make(self, owner: str, answer: int) -> GenerateRequest:
        """One more."""
        self._count += 1
        prompt = tuple(self._prompts[self._count % len(self._prompts)])
        sampling = SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True)
        return GenerateRequest(prompt, sampling, cache_salt=str(self._count), owner=owner)


async def timed(engine: Engine, request: GenerateRequest, moments: list[float] | None = None) -> Timed:
    """Generate to the end. `moments`: where each token's time goes."""
    began, seen = time.monotonic(), list[float]()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Tokens):
                seen += [time.monotonic()] * len(event.ids)
                if moments is not None:
                    moments += [time.monotonic()] * len(event.ids)
    return Timed(seen[0] - began, (len(seen) - 1) / max(seen[-1] - seen[0], 1e-9))


async def beside(engine: Engine, requests: Requests, options: argparse.Namespace, owner: str) -> tuple[Timed, float]:
    """Bob's request beside so many of Ann's, under `owner`; and the rate of one of her sequences while he was answered:
    all of her tokens, over the places that are left to her.
    """
    moments: list[float] = []
    anns = [
        asyncio.ensure_future(timed(engine, requests.make("ann", options.answer), moments))
        for _ in range(options.flood)
    ]
    while len(moments) < 8 * engine.info.parallel:
        await asyncio.sleep(0.05)
    began = time.monotonic()
    bob = await timed(engine, requests.make(owner, BOBS_ANSWER))
    first, last = began + bob.first, time.monotonic()
    hers = sum(first <= moment <= last for moment in moments) / (last - first) / (engine.info.parallel - 1)
    for ann in anns:
        ann.cancel()
    await asyncio.gather(*anns, return_exceptions=True)
    while engine.stats().running:
        await asyncio.sleep(0.05)
    return bob, hers


@contextmanager
def _without_owners() -> Generator[None]:
    with (
        mock.patch("quern.engine.cpu.scheduler.FairShares", FirstCome),
        mock.patch("quern.engine.admission.FairShares", FirstCome),
    ):
        yield


@dataclass
class Deciding:
    """Seconds of the processor that the engine's thread took to decide what its steps compute, and the steps' own."""

    steps: int = 0
    deciding: float = 0.0
    computing: float = 0.0

    def __str__(self) -> str:
        return (
            f"{1000 * self.deciding / max(1, self.steps):.3f} ms of deciding in a step of "
            f"{1000 * self.computing / max(1, self.steps):.1f} ms"
        )


@contextmanager
def _watched(found: Deciding) -> Generator[None]:
    """Scheduler and model of the engine `cpu`, with their time taken."""

    def timed_plan(scheduler: Scheduler, now: float) -> Step:
        began = time.thread_time()
        step = plan(scheduler, now)
        found.deciding += time.thread_time() - began
        return step

    def timed_apply(scheduler: Scheduler, step: Step, drawn: Sequence[Drawn], now: float) -> list[Notice]:
        began = time.thread_time()
        notices = apply(scheduler, step, drawn, now)
        found.deciding += time.thread_time() - began
        return notices

    def timed_forward(model: NativeModel, parts: Sequence[Part]) -> Sequence[Drawn]:
        began = time.monotonic()
        drawn = forward(model, parts)
        found.computing += time.monotonic() - began
        found.steps += 1
        return drawn

    plan, apply, forward = Scheduler.plan, Scheduler.apply, NativeModel.forward
    with (
        mock.patch.object(Scheduler, "plan", timed_plan),
        mock.patch.object(Scheduler, "apply", timed_apply),
        mock.patch.object(NativeModel, "forward", timed_forward),
    ):
        yield


async def alone(options: argparse.Namespace, requests: Requests, count: int, *, shared: bool) -> tuple[float, Deciding]:
    """Tokens of Ann's requests, who is alone, per second of the processor's time: on a busy machine the clock's tells
    nothing. llama-server's time is its own, so there it is the clock's. And what the decisions took.
    """
    found = Deciding()

    async def measure() -> float:
        clock = time.process_time if options.engine == "cpu" else time.monotonic
        async with started(options) as engine:
            await timed(engine, requests.make("ann", 8))
            began = clock()
            with _watched(found):
                await asyncio.gather(*(timed(engine, requests.make("ann", 48)) for _ in range(count)))
            return count * 48 / (clock() - began)

    if shared:
        return await measure(), found
    with _without_owners():
        return await measure(), found


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Everything, in rounds."""
    requests = Requests(installed(options.model))
    idle: list[Timed] = []
    with_share: list[tuple[Timed, float]] = []
    without: list[tuple[Timed, float]] = []
    async with started(options) as engine:
        await timed(engine, requests.make("bob", 8))
        for _ in range(options.rounds):
            idle.append(await timed(engine, requests.make("bob", BOBS_ANSWER)))
            print(f"Bob alone: {idle[-1]}", flush=True)
            with_share.append(await beside(engine, requests, options, "bob"))
            print(f"beside Ann's: {with_share[-1]}", flush=True)
            if options.unshared:
                without.append(await beside(engine, requests, options, "ann"))
                print(f"as one of Ann's: {without[-1]}", flush=True)
    pairs: list[tuple[float, float]] = []
    for number in range(options.pairs):
        order = (True, False) if number % 2 else (False, True)
        runs = {shared: await alone(options, requests, 32, shared=shared) for shared in order}
        (rate, deciding), (rate_without, deciding_without) = runs[True], runs[False]
        pairs.append((rate, rate_without))
        print(f"Ann alone: {rate:.1f} tokens/s, {deciding}", flush=True)
        print(f"without owners: {rate_without:.1f} tokens/s, {deciding_without}", flush=True)
    return {
        "idle_first": statistics.median(one.first for one in idle),
        "first": statistics.median(one.first for one, _ in with_share),
        "first_as_ann": statistics.median(one.first for one, _ in without) if without else None,
        "rate": statistics.median(one.rate for one, _ in with_share),
        "ann_rate": statistics.median(rate for _, rate in with_share),
        "alone_ratio": statistics.median(one / other for one, other in pairs) if pairs else None,
        "alone_pairs": pairs,
    }


def main() -> None:
    """Measure, print a row, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="cpu", choices=["cpu", "llamacpp"])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flood", type=int, default=50)
    parser.add_argument("--answer", type=int, default=200, help="tokens of each of Ann's answers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--unshared", action="store_true", help="also with Bob as no owner of his own; slow")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    here = machine()
    found = asyncio.run(measure(options))
    print(f"{options.engine}, {options.model}, load average before: {here['load_average']:.1f}")
    for name, value in found.items():
        print(f"{name}: {value if not isinstance(value, float) else round(value, 3)}")
    write_json(options.json, {"machine": here, **vars(options), "json": str(options.json), **found})


if __name__ == "__main__":
    main()
