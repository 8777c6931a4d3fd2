"""One answer over several runs on slots, as its reader is told of it."""

from quern.engine.base import EngineEvent, Finished, GenerateRequest, Tokens
from quern.engine.served.answer import Answer
from quern.events import Prefill
from quern.sampling import SamplingParams
from quern.types import FinishReason, Timings, Usage

REQUEST = GenerateRequest((1, 2, 3, 4), SamplingParams(max_tokens=10, seed=None), cache_salt="s", owner="ann")


def told(answer: Answer, events: list[EngineEvent]) -> list[EngineEvent]:
    return [event for event in map(answer.tell, events) if event is not None]


def end(usage: Usage) -> Finished:
    return Finished(FinishReason.STOP, usage, Timings(0.0, 7.0, 9.0, 2))


def test_an_answer_that_runs_once_has_the_servers_counts_and_times() -> None:
    answer = Answer(REQUEST)
    assert answer.next_run() == REQUEST
    events: list[EngineEvent] = [Prefill(2, 4, 1), Prefill(4, 4, 1), Tokens((8,))]
    assert told(answer, events) == events
    assert not answer.over
    (last,) = told(answer, [end(Usage(4, 1, 1))])
    assert isinstance(last, Finished)
    assert (last.usage, last.timings.prefill_ms, last.timings.decode_ms) == (Usage(4, 1, 1), 7.0, 9.0)
    assert answer.over


def test_the_next_run_asks_for_the_rest_after_what_was_shown_and_its_prompt_is_not_told_again() -> None:
    answer = Answer(REQUEST)
    answer.next_run()
    told(answer, [Prefill(4, 4, 1), Tokens((8,)), Tokens((9, 7))])
    assert (answer.computed, answer.remaining) == (7, 7)
    rest = answer.next_run()
    assert (rest.prompt, rest.sampling.max_tokens) == ((1, 2, 3, 4, 8, 9, 7), 7)
    assert (rest.cache_salt, rest.owner, rest.override) == ("s", "ann", REQUEST.override)
    events: list[EngineEvent] = [Prefill(0, 7, 0), Prefill(7, 7, 0), Tokens((5,)), end(Usage(7, 0, 1))]
    tokens, last = told(answer, events)
    assert tokens == Tokens((5,))
    assert isinstance(last, Finished)
    assert last.usage == Usage(4, 1, 4)
    assert last.timings.drafts_accepted == 2


def test_a_prompt_that_was_cut_short_is_told_from_where_it_had_come_to() -> None:
    answer = Answer(REQUEST)
    answer.next_run()
    assert told(answer, [Prefill(0, 4, 0), Prefill(2, 4, 0)]) == [Prefill(0, 4, 0), Prefill(2, 4, 0)]
    assert answer.next_run() == REQUEST
    assert told(answer, [Prefill(1, 4, 1), Prefill(3, 4, 1), Prefill(4, 4, 1)]) == [Prefill(3, 4, 0), Prefill(4, 4, 0)]
