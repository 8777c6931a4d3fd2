"""What becomes of drawn tokens, beside Transformers' manager of continuous batching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from quern.engine.transformers.child.batching import Drawing, Router, Running
from quern.engine.transformers.child.completion import Completion, Ended, Event, Failed, Progress, Token
from quern.engine.transformers.child.prefixes import SALT
from quern.engine.transformers.child.sampling import NothingToDraw

END, STOP = 9, 8


class ScriptedSampler:
    """Draws what it is told to; None is nothing."""

    def __init__(self, *tokens: int | None) -> None:
        self._tokens = list(tokens)

    def draw(self, _logits: Any, _allowed: Any = None) -> Token:
        token = self._tokens.pop(0)
        if token is None:
            raise NothingToDraw("Nothing is left.")
        return Token(token)


@dataclass
class ScriptedConstraint:
    """A grammar that is complete after so many tokens."""

    left: int
    failure: str = ""

    @property
    def complete(self) -> bool:
        return self.left == 0

    def allowed(self, _like: Any) -> Any:
        return None

    def consume(self, _token: int) -> None:
        self.left -= 1


class Row:
    """A row of logits, as far as it is written to."""

    def fill_(self, _value: float) -> None: ...


class Scores:
    """A step's logits: which ids are left to be chosen, by row."""

    def __init__(self) -> None:
        self.chosen: dict[int, int] = {}

    def __getitem__(self, _row: int) -> Row:
        return Row()

    def __setitem__(self, place: tuple[int, int], _value: float) -> None:
        self.chosen[place[0]] = place[1]


@dataclass
class State:
    """A request of the manager's."""

    request_id: str
    position_offset: int = 3
    logit_processor_kwargs: dict[str, str] = field(default_factory=lambda: {SALT: ""})


@dataclass
class Future:
    """A request in a step."""

    state: State
    has_new_token: bool = True


def running(told: list[Event], *tokens: int | None, constraint: ScriptedConstraint | None = None) -> Running:
    def tell(events: Sequence[Event]) -> None:
        told.extend(events)

    completion = Completion(prompt=(1, 2), max_tokens=3, stop_token_ids=frozenset({STOP}), cache_salt="salt")
    sampler: Any = ScriptedSampler(*tokens)
    grammar: Any = constraint
    return Running(completion, sampler, grammar, frozenset({STOP, END}), tell)


def step(drawing: Drawing, *futures: Future) -> dict[int, int]:
    scores = Scores()
    drawing.prepare_tensor_args(futures, None)
    drawing(None, scores, None)
    return scores.chosen


@pytest.fixture
def cancelled() -> list[str]:
    return []


@pytest.fixture
def drawing(cancelled: list[str]) -> Drawing:
    made = Drawing()
    made.cancel = cancelled.append
    return made


def test_the_manager_is_left_the_drawn_id_of_each_row_and_prompts_tell_how_far_they_are(drawing: Drawing) -> None:
    told: dict[str, list[Event]] = {name: [] for name in ("a", "b", "c")}
    for name, token in (("a", 5), ("b", 6), ("c", 7)):
        drawing.begin(name, running(told[name], token))
    chosen = step(drawing, Future(State("a")), Future(State("b", 64), has_new_token=False), Future(State("c")))
    assert chosen == {0: 5, 1: 7}
    assert told == {"a": [Token(5)], "b": [Progress(64)], "c": [Token(7)]}


@pytest.mark.parametrize(
    ("tokens", "last"),
    [
        ((5, END), Ended(stop=True)),
        ((5, STOP), Ended(stop=True, stop_reason=STOP)),
        ((5, 6, 7), Ended(stop=False)),
    ],
)
def test_what_the_manager_sees_the_end_of_is_not_cancelled(
    drawing: Drawing, cancelled: list[str], tokens: tuple[int, ...], last: Ended
) -> None:
    told: list[Event] = []
    drawing.begin("a", running(told, *tokens))
    for _ in tokens:
        step(drawing, Future(State("a")))
    assert told == [*map(Token, tokens), last]
    assert not cancelled
    assert step(drawing, Future(State("a"))) == {}


def test_where_a_grammar_allows_no_more_the_answer_ends_and_the_manager_is_told(
    drawing: Drawing, cancelled: list[str]
) -> None:
    told: list[Event] = []
    drawing.begin("a", running(told, 5, 6, constraint=ScriptedConstraint(2)))
    for _ in range(2):
        step(drawing, Future(State("a")))
    assert told == [Token(5), Token(6), Ended(stop=True)]
    assert cancelled == ["a"]


def test_an_answer_for_which_nothing_can_be_drawn_fails_alone(drawing: Drawing, cancelled: list[str]) -> None:
    told: list[Event] = []
    other: list[Event] = []
    drawing.begin("a", running(told, None))
    drawing.begin("b", running(other, 5))
    step(drawing, Future(State("a")), Future(State("b")))
    assert told == [Failed("Nothing is left.")]
    assert other == [Token(5)]
    assert cancelled == ["a"]


def test_a_request_whose_reader_has_gone_is_cancelled_and_draws_nothing(drawing: Drawing, cancelled: list[str]) -> None:
    told: list[Event] = []
    drawing.begin("a", running(told, 5))
    drawing.end("a")
    assert step(drawing, Future(State("a"))) == {}
    assert (told, cancelled) == ([], ["a"])


def test_what_the_manager_gives_up_fails_with_a_sentence(drawing: Drawing) -> None:
    told: list[Event] = []
    drawing.begin("a", running(told, 5))
    Router(drawing).fail_and_deliver(State("a"), RuntimeError("CUDA out of memory"))
    assert told == [Failed("The engine has failed, so this answer was lost: CUDA out of memory. Ask again.")]


def test_prefixes_are_shared_under_a_requests_salt_and_with_nobody_once_it_is_over(drawing: Drawing) -> None:
    told: list[Event] = []
    drawing.begin("a", running(told, 5, 6, 7))
    assert drawing.salt_of("a") == "salt"
    drawing.found_cached("a", 1)
    for _ in range(3):
        step(drawing, Future(State("a")))
    assert told[-1] == Ended(stop=False, cached=1)
    assert drawing.salt_of("a") != drawing.salt_of("a")
