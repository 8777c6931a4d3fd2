"""Which grammars are compiled, when, and how long they are known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from blockbuster import blockbuster_ctx

from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.checker import GrammarCache
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar

WAIT_SECONDS = 5
COMPILED = "a compiled grammar"


def grammar(number: int) -> JsonGrammar:
    return JsonGrammar(f'{{"const": {number}}}')


class Compiler:
    """Says what it is asked for; may wait until it is let, or refuse."""

    def __init__(self) -> None:
        self.asked: list[Grammar] = []
        self.refuse: Callable[[Grammar], bool] = lambda _: False
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, grammar: Grammar) -> str:
        self.asked.append(grammar)
        assert self.go_on.wait(WAIT_SECONDS), "nobody let it go on"
        if self.error is not None:
            raise self.error
        if self.refuse(grammar):
            raise InvalidRequest("It is refused.")
        return COMPILED


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_same_grammar_is_compiled_once_and_the_kinds_are_kept_apart() -> None:
    compiler = Compiler()
    cache = GrammarCache(compiler, len)
    for _ in range(3):
        assert await cache.get(grammar(1)) is COMPILED
        assert await cache.get(LarkGrammar(grammar(1).schema)) is COMPILED
    assert len(compiler.asked) == len(cache) == 2


async def test_a_refusal_is_kept_with_its_sentence() -> None:
    compiler = Compiler()
    compiler.refuse = lambda _: True
    cache = GrammarCache(compiler, len)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="It is refused"):
            await cache.get(grammar(1))
    assert len(compiler.asked) == 1


async def test_only_the_last_ones_are_kept() -> None:
    compiler = Compiler()
    cache = GrammarCache(compiler, len, most=3)
    for number in (1, 2, 3, 1, 4, 1, 2):
        await cache.get(grammar(number))
        assert len(cache) <= 3
    assert compiler.asked == [grammar(number) for number in (1, 2, 3, 4, 2)]


async def test_those_that_are_kept_take_so_much_memory() -> None:
    sizes = {1: 40, 2: 40, 3: 30, 4: 1000, 5: 1}
    asked: list[int] = []

    def compile_one(wanted: Grammar) -> int:
        (number,) = (number for number in sizes if wanted == grammar(number))
        asked.append(number)
        return number

    cache = GrammarCache(compile_one, size=sizes.__getitem__, most_bytes=100)
    for number, kept in ((1, 1), (2, 2), (3, 2), (2, 2), (4, 1), (4, 1), (5, 1), (4, 1)):
        assert await cache.get(grammar(number)) == number
        assert len(cache) == kept
    assert asked == [1, 2, 3, 4, 5, 4]


async def test_two_are_compiled_at_a_time_and_meanwhile_the_known_ones_are_found_and_the_loop_runs() -> None:
    compiler = Compiler()
    with blockbuster_ctx("quern"):
        cache = GrammarCache(compiler, len)
        await cache.get(grammar(0))
        compiler.go_on.clear()
        tasks = [asyncio.ensure_future(cache.get(grammar(number))) for number in (1, 2, 3, 1, 3)]
        await until(lambda: len(compiler.asked) == 3)
        assert await cache.get(grammar(0)) is COMPILED
        await asyncio.sleep(0.02)
        assert len(compiler.asked) == 3
        compiler.go_on.set()
        assert await asyncio.gather(*tasks) == [COMPILED] * 5
    assert sorted(compiler.asked, key=repr) == [grammar(number) for number in (0, 1, 2, 3)]


async def test_one_that_waits_too_long_is_told_when_to_come_back() -> None:
    compiler = Compiler()
    cache = GrammarCache(compiler, len, seconds=0.01)
    compiler.go_on.clear()
    slow = [asyncio.ensure_future(cache.get(grammar(number))) for number in (1, 2)]
    await until(lambda: len(compiler.asked) == 2)
    with pytest.raises(EngineUnavailable, match="Try again in 1 s") as refused:
        await cache.get(grammar(3))
    assert refused.value.retry_after == 1
    compiler.go_on.set()
    assert await asyncio.gather(*slow) == [COMPILED] * 2
    assert await cache.get(grammar(3)) is COMPILED


async def test_a_small_one_does_not_wait_for_large_ones_whoever_asks_for_them() -> None:
    compiler, bombs = Compiler(), [JsonGrammar(" " * 47_000 + str(number)) for number in range(12)]
    let_go = threading.Event()

    def compile_one(wanted: Grammar) -> str:
        if wanted in bombs:
            assert let_go.wait(WAIT_SECONDS)
        return compiler(wanted)

    cache = GrammarCache(compile_one, len)
    large = [asyncio.ensure_future(cache.get(bomb)) for bomb in bombs]
    for number in range(20):
        assert await cache.get(grammar(number)) is COMPILED
    assert not any(task.done() for task in large)
    let_go.set()
    assert await asyncio.gather(*large) == [COMPILED] * 12


async def test_owners_take_turns_and_one_with_many_grammars_waits_for_one_with_few() -> None:
    compiler = Compiler()
    compiler.go_on.clear()
    cache = GrammarCache(compiler, len)
    tasks = [asyncio.ensure_future(cache.get(grammar(number), "ann")) for number in range(8)]
    await until(lambda: len(compiler.asked) == 2)
    tasks += [asyncio.ensure_future(cache.get(grammar(number), "bob")) for number in (100, 101)]
    await asyncio.sleep(0)
    compiler.go_on.set()
    await asyncio.gather(*tasks)
    places = [compiler.asked.index(grammar(number)) for number in (100, 101)]
    assert places[0] <= 3 + 1
    assert places[1] <= 5 + 1


async def test_who_leaves_the_line_takes_no_place_with_it() -> None:
    compiler = Compiler()
    compiler.go_on.clear()
    cache = GrammarCache(compiler, len)
    running = [asyncio.ensure_future(cache.get(grammar(number))) for number in (1, 2)]
    await until(lambda: len(compiler.asked) == 2)
    waiting = [asyncio.ensure_future(cache.get(grammar(number), "bob")) for number in (3, 4)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    compiler.go_on.set()
    await asyncio.gather(*running)
    assert await asyncio.gather(*(cache.get(grammar(number)) for number in (5, 6, 7))) == [COMPILED] * 3
    assert len(compiler.asked) == 5


async def test_one_whose_reader_has_gone_is_compiled_to_its_end_and_kept() -> None:
    compiler = Compiler()
    cache = GrammarCache(compiler, len)
    compiler.go_on.clear()
    reader = asyncio.ensure_future(cache.get(grammar(1)))
    await until(lambda: len(compiler.asked) == 1)
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    compiler.go_on.set()
    assert await cache.get(grammar(1)) is COMPILED
    assert len(compiler.asked) == 1


async def test_what_is_no_refusal_is_not_kept() -> None:
    compiler = Compiler()
    compiler.error = EngineUnavailable("Not now.", 5)
    cache = GrammarCache(compiler, len)
    with pytest.raises(EngineUnavailable, match="Not now"):
        await cache.get(grammar(1))
    compiler.error = None
    assert await cache.get(grammar(1)) is COMPILED
